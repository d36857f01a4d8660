"""The phases, and the learners: networks of about equal size with memories of earlier phases.

- `none` keeps nothing.
- `replay` keeps some of each phase's data and also trains on them (Robins, Connection Science 7,
  1995).
- `ewc` keeps the importance of each trainable parameter and penalises its changes in proportion
  (elastic weight consolidation, Kirkpatrick et al., arXiv 1612.00796, eq. 3).
- `rehearse` keeps only the boxes that the phases covered. In each new phase it also trains on the
  outputs that the network had in these boxes when the phase began (pseudo-rehearsal, Robins 1995).
- `information` keeps the curvature of the losses of earlier phases, as a quadratic function of all
  parameters (`kanrun.engine.training.objective`).

Each phase of a sequence shows one narrow peak, or those rows of a target that have the same value
in one column, or whose values in that column lie in one range.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from kanrun.config import TARGETS
from kanrun.config.rules import MISSING, Count, NonEmpty, NonNegative, copied
from kanrun.engine.networks import Network
from kanrun.engine.networks.classical import match_parameters
from kanrun.engine.networks.kan import KANSize
from kanrun.engine.training import Objective, QuadraticMemory, Samples, output_scale
from kanrun.errors import UsageError
from kanrun.model.planning import PRECISIONS, LearningProblem, problem_on
from kanrun.model.settings import AutoSolver, KANConfig, MLPConfig
from kanrun.points import Array, Points, Scaling
from kanrun.study import Cell
from kanrun.study.resources import device_of, generator, make_problem
from kanrun.study.suite import typed
from kanrun.targets.datasets import Dataset, Target, build_target, check_known
from kanrun.targets.functions import peaks_formula
from kanrun.targets.settings import ExpressionTarget, TableTarget

from .config import ContinualConfig


def evenly_chosen(phase: Samples, count: int) -> Samples:
    """Return at most `count` evenly spaced samples of a phase, including the first and the last."""
    places = torch.linspace(0, len(phase) - 1, min(count, len(phase)), device=phase.x.device)
    return phase.part(places.round().long())


@dataclass
class Memory:
    """A memory that keeps nothing. Subclasses store their tensors in `kept`, to be counted."""

    kept: list[Tensor] = field(default_factory=list, kw_only=True)

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Return the objective of a phase with the memory, given the `plain` one without it."""
        return plain

    def learned(self, network: Network, phase: Samples) -> None:
        """Update the memory after `network` has been trained on `phase`."""


@dataclass
class Replay(Memory):
    """A memory of `points` evenly spaced samples of each phase."""

    points: int

    def with_past(self, samples: Samples) -> Samples:
        """Return `samples` and the stored samples of earlier phases together."""
        return samples.join(Samples(*self.kept) if self.kept else None)

    def objective(self, network: Network, plain: Objective) -> Objective:
        samples = self.with_past(plain.samples)
        return replace(plain, samples=samples, size=output_scale(samples, plain.task))

    def learned(self, network: Network, phase: Samples) -> None:
        past = self.with_past(evenly_chosen(phase, self.points))
        self.kept = [past.x, past.y]


class PseudoRehearsal(Memory):
    """A memory of the box of each phase: its lower and upper corner, shape (2, inputs)."""

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Add the network's current outputs in the boxes of earlier phases to the training targets.

        Points inside the box of the new phase are left out.
        """
        phase = plain.samples.x
        # Without the border, the outermost points lie half a step inside the boxes.
        ends = [(low, high) for low, high in (box.cpu().numpy() for box in self.kept)]
        inner = [lattice(low, high, len(phase), border=False) for low, high in ends]
        x = torch.cat([phase[:0], *(torch.as_tensor(points).to(phase) for points in inner)])
        outside = ((x < phase.amin(0)) | (x > phase.amax(0))).any(1)
        return plain.rehearsing(network, x[outside])

    def learned(self, network: Network, phase: Samples) -> None:
        self.kept.append(torch.stack([phase.x.amin(0), phase.x.amax(0)]))


@dataclass
class Information(Memory):
    """A memory of the curvature of the losses of earlier phases.

    With `diagonal`, weight 1 and no tie, it is Laplace's approximation of the losses by the Fisher
    information of normal outputs, as in EWC.

    Attributes:
        diagonal: Whether only the diagonal of the curvature matrix is kept, without the entries of
            pairs of parameters.
        weight: Weight of the curvature of each phase.
        tie: Weight of the penalty on changes of the parameters since the phase began.
        quadratic: The curvature of all phases so far; None before the first phase ends.
    """

    diagonal: bool
    weight: float
    tie: float
    quadratic: QuadraticMemory | None = None

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Add the penalties on forgetting earlier phases and on changing the current parameters."""
        memory = QuadraticMemory.anchor(network, self.tie, diagonal=self.diagonal)
        if self.quadratic:
            memory = self.quadratic.joined(memory)
        return replace(plain, memory=memory, freeze_unseen=False)

    def learned(self, network: Network, phase: Samples) -> None:
        before = self.quadratic or QuadraticMemory.anchor(network, 0.0, diagonal=self.diagonal)
        weight = self.weight / output_scale(phase, "regression") ** 2
        # Weight of the outputs of hidden layers in the memory, relative to the outputs of the
        # network. Without them, deep KANs end with an error several times as large.
        share = 0.1
        hidden = share if self.tie else 0.0
        self.quadratic = before.learned(network, phase.x, weight, hidden)
        self.kept = [self.quadratic.factors, self.quadratic.targets]


@dataclass
class Learner:
    """One learner of the study, an entry of the setting `learners`.

    Keys of the entry that are not attributes are settings of its `model`. The trials of an MLP go
    through all `depths`; with EWC, they go through all `depths` for each of the `strengths`.
    """

    name: Annotated[str, "what it is called in tables and figures"] = MISSING
    model: Any = None
    memory: Annotated[
        Literal["none", "replay", "rehearse", "ewc", "information"],
        "what is kept of earlier phases",
    ] = "none"
    replay_points: Annotated[Count, "points of each phase that memory=replay keeps"] = 20
    depths: Annotated[NonEmpty[Count], "hidden layers of an MLP, by trial"] = copied([1, 2, 3])
    strengths: Annotated[NonEmpty[NonNegative], "strengths of memory=ewc, by trial"] = copied(
        [1.0, 10.0, 100.0]
    )
    kind: Annotated[Literal["kan", "mlp"], "a network"] = "kan"

    def memory_of(self, trial: int) -> Memory:
        """Return an empty memory for the trial with the number `trial`."""
        past = trial // len(self.depths) if isinstance(self.model, MLPConfig) else trial
        if self.memory == "ewc":
            strength = self.strengths[past % len(self.strengths)]
            return Information(diagonal=True, weight=strength, tie=0.0)
        # Weight of the curvature of each earlier phase for `information`, relative to the mean
        # squared error of the new phase. With a higher weight, learners forget less and learn less.
        weight = 1e2
        # Weight of the penalty on changes of the parameters from their values at the beginning of a
        # phase. With a lower weight, steps leave the region in which the curvature is accurate.
        tie = 1e-4
        if self.memory == "information":
            return Information(diagonal=False, weight=weight, tie=tie)
        if self.memory == "replay":
            return Replay(self.replay_points)
        return PseudoRehearsal() if self.memory == "rehearse" else Memory()

    def settings(self, cfg: ContinualConfig, trial: int) -> Any:
        """Return the settings of the network; the depth of an MLP depends on the trial.

        The widths of an MLP are chosen so that it has about as many parameters as `cfg.model`.
        """
        if not isinstance(self.model, MLPConfig):
            return self.model
        depth = self.depths[trial % len(self.depths)]
        match = match_parameters(cfg.dimension, 1, depth, float(coefficients_of(cfg)))
        return replace(self.model, hidden=list(match.hidden))

    @property
    def is_local(self) -> bool:
        """Whether only spline coefficients are trained on a fixed grid.

        A sample then changes the edge functions only near its inputs.
        """
        model = self.model
        return isinstance(model, KANConfig) and model.freeze_scales and not model.update_grid


def learners_of(cfg: ContinualConfig) -> dict[str, dict[str, Any]]:
    """Return the entries of the setting `learners` by the names of the learners.

    Each value has the keys `learner` (the entry) and `network` (the name of the first learner with
    the same network). Raises UsageError if an entry is invalid.
    """
    if not cfg.learners:
        raise UsageError(
            "learners=[] has nothing to train; give one, such as [{name: KAN, kind: kan}]."
        )
    listed = dict[str, dict[str, Any]]()
    networks = dict[str, str]()
    for entry in cfg.learners:
        learner = learner_of(cfg, entry)
        if learner.name in listed:
            raise UsageError(
                f"learners has two entries named {learner.name!r}. Give each a name of its own."
            )
        network = networks.setdefault(f"{learner.model} {learner.depths}", learner.name)
        listed[learner.name] = {"learner": entry, "network": network}
    return listed


def learner_of(cfg: ContinualConfig, entry: Any) -> Learner:
    """Return the learner of an entry of `learners`, or of a cell.

    Raises UsageError if its model, memory and solver do not fit together.
    """
    keys = {entry_field.name for entry_field in fields(Learner)} - {"model"}
    network = dict(entry) if isinstance(entry, Mapping) else {}
    settings = {key: network.pop(key) for key in list(network) if key in keys}
    learner = typed(Learner(), settings or entry, "learners")
    base = cfg.model if learner.kind == "kan" else MLPConfig()
    learner.model = model = typed(base, network, f"learners.{learner.name}")
    name = learner.name
    if isinstance(model, KANConfig) and len(model.schedule) > 1:
        raise UsageError(
            f"learner {name!r}: intervals={model.intervals} is a schedule; a phase has one grid."
        )
    if isinstance(cfg.solver, AutoSolver):
        raise UsageError(
            "solver=auto could give learners different solvers; use solver=lbfgs, adam or lm."
        )
    return learner


def cells_of(cfg: ContinualConfig) -> list[Cell]:
    """Return the cells of every part. Each contains the entry of its learner."""
    listed = learners_of(cfg) if {"learners", "overlap"} & {*cfg.parts} else {}
    named = cfg.overlap_learners if "overlap" in cfg.parts else []
    if unknown := [name for name in named if name not in listed]:
        raise UsageError(
            f"overlap_learners names {unknown[0]!r}, which is not one of {', '.join(listed)}."
        )
    pairs = itertools.product(cfg.overlaps, named)
    cells: dict[str, list[dict[str, Any]]] = {
        "learners": [{**entry, "trials": cfg.trials} for entry in listed.values()],
        "intervals": [cell_of(f"KAN, G = {g}", "none", intervals=g) for g in cfg.intervals],
        "overlap": [{**listed[name], "overlap": overlap} for overlap, name in pairs],
        # KANs without hidden layers need no memory; they serve as a comparison.
        "depth": [
            cell_of_shape(cfg, hidden, memory)
            for hidden in cfg.shapes
            for memory in (cfg.memories if hidden else ["none"])
        ],
    }
    return [
        {"part": part, "overlap": cfg.overlap, "trials": 1, **cell}
        for part in cfg.parts
        for cell in cells[part]
    ]


def cell_of_shape(cfg: ContinualConfig, hidden: Sequence[int], memory: str) -> dict[str, Any]:
    """Return the cell of a KAN with layers `hidden` and about as many coefficients as `model`."""
    shape = (cfg.dimension, *hidden, 1)
    per_edge = round(coefficients_of(cfg) / KANSize(shape, 1, 0).edges)
    # Smallest number of intervals of the KANs in the part `depth`.
    least = 3
    intervals = max(least, per_edge - cfg.model.degree)
    return cell_of("-".join(map(str, shape)), memory, hidden=list(hidden), intervals=intervals)


def cell_of(network: str, memory: str, **settings: Any) -> dict[str, Any]:
    """Return the cell of a KAN with this name, memory and settings."""
    name = network if memory == "none" else f"{network}, {memory}"
    return {"network": network, "learner": {"name": name, "memory": memory, **settings}}


def coefficients_of(cfg: ContinualConfig) -> int:
    """Return the number of spline coefficients of `model`, which MLPs match in parameters."""
    shape = (cfg.dimension, *cfg.model.widths, 1)
    intervals = int(cfg.model.schedule[0])
    degree = int(cfg.model.degree)
    return KANSize(shape, intervals, degree).edges * (intervals + degree)


def lattice(low: Array, high: Array, points: int, *, border: bool = True) -> Array:
    """Return about `points` evenly spaced points of a box, shape (points, dimension).

    With `border`, the outermost points lie on the border of the box, otherwise half a step inside.
    """
    per_side = max(1 + border, round(points ** (1 / len(low))))
    inset = 0.0 if border else (high - low) / (2 * per_side)
    axes = [np.linspace(a, b, per_side) for a, b in zip(low + inset, high - inset, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


# -------------------- phases


@dataclass(frozen=True)
class TaskSequence:
    """The phases of a sequence, and points of the whole domain for evaluation.

    Attributes:
        problem: Learning problem of all phases together.
        phases: Samples of each phase, in the order of training.
        everything: Evaluation points.
        of_peaks: Whether the function is the sum of smooth peaks, about which claims are made.
    """

    problem: LearningProblem
    phases: tuple[Samples, ...]
    everything: Samples
    of_peaks: bool


def with_target(cfg: ContinualConfig) -> ContinualConfig:
    """Adapt the settings to `cfg.target`, if it is set: number of inputs, and split into phases.

    The part `overlap` is removed, because only the phases of peaks can overlap. Raises UsageError
    if only one of `target` and `phase_column` is set, or if the output is not one column of
    numbers.
    """
    if cfg.target is None and cfg.phase_column is None:
        return cfg
    if cfg.target is None:
        raise UsageError(
            f"phase_column={cfg.phase_column} is a column or input of a target; add "
            "target.path=FILE or target.formula=FORMULA."
        )
    if cfg.phase_column is None:
        raise UsageError(
            "phase_column must be given: the column or input of the target whose values divide it "
            "into phases."
        )
    target = cfg.target
    if isinstance(target, TableTarget):
        split = "time" if cfg.phases else "group"
        target = replace(target, split=f"{split}:{cfg.phase_column}")
    built = build_target(target)
    if len(built.outputs) != 1 or built.classes:
        raise UsageError("continual learns one column of numbers; name it, as target.outputs=[y].")
    if not isinstance(target, TableTarget):
        check_known("phase_column", cfg.phase_column, built.inputs, f"inputs of {built.name}")
    parts: list[Any] = [part for part in cfg.parts if part != "overlap"]
    return replace(cfg, target=target, dimension=len(built.inputs), parts=parts)


def make_sequence(cfg: ContinualConfig, overlap: float, seed: int) -> TaskSequence:
    """Return the phases: the peaks, or the rows of the target, grouped by `phase_column`.

    `overlap` widens the phases of peaks. If `cfg.order` is random, `seed` determines the order of
    the peaks. Raises UsageError if there are more than 100 phases.
    """
    if cfg.target is None:
        target, points, judged = peaks(cfg, overlap, seed)
        scalings = Scaling.identity(cfg.dimension), Scaling.identity(1)
        dataset = Dataset(target, points, None, judged, *scalings)
        problem = problem_on(dataset, PRECISIONS[cfg.precision], torch.device(device_of(cfg)))
    else:
        sampling = replace(cfg.sampling, validation_fraction=0.0)
        if TARGETS[cfg.target.kind].table:
            sampling = replace(sampling, n_train=None, n_test=0)
        problem = make_problem(cfg, cfg.target, sampling, seed)
    shown = problem.data.train
    points = problem.dataset.train
    groups: Any = points.groups
    if groups is None:
        groups = points.x[:, problem.dataset.target.inputs.index(str(cfg.phase_column))]
    if cfg.target is not None and cfg.phases:
        ends = np.quantile(groups, np.linspace(0, 1, cfg.phases + 1)[1:-1])
        groups = np.searchsorted(ends, groups, side="right")
    numbers = np.unique(groups)
    # Largest number of phases.
    most = 100
    if len(numbers) > most:
        remedy = "fewer peaks"
        if cfg.target is not None:
            remedy = f"phases=5 for five ranges of phase_column={cfg.phase_column}"
        raise UsageError(
            f"{len(numbers)} phases are too many: at most {most} are possible. Set {remedy}."
        )
    phases = (shown.part(torch.from_numpy(np.flatnonzero(groups == n))) for n in numbers)
    everything = problem.data.test or shown
    of_peaks = cfg.target is None and cfg.form == "smooth"
    return TaskSequence(problem, tuple(phases), everything, of_peaks)


def peaks(cfg: ContinualConfig, overlap: float, seed: int) -> tuple[Target, Points, Points]:
    """Return the sum of the peaks as a target, the points of all phases, and evaluation points.

    The `groups` of the phases' points are the numbers of the phases, from 0, in training order.
    """
    axis = (np.arange(cfg.peaks) - (cfg.peaks - 1) / 2) * cfg.spacing
    # Rounding to 12 digits makes the borders of phases coincide with knots.
    centres = np.array(list(itertools.product(axis.round(12), repeat=cfg.dimension)))
    order = np.arange(len(centres))[:: -1 if cfg.order == "descending" else 1]
    if cfg.order == "random":
        draws = generator(seed, "order of the peaks")
        order = torch.randperm(len(centres), generator=draws).numpy()
    low = centres.min(0) - cfg.spacing / 2
    high = centres.max(0) + cfg.spacing / 2
    half = cfg.spacing / 2 * (1 + overlap)
    formula = peaks_formula(centres, cfg.sharpness)
    domain = np.stack([low, high], 1)
    if cfg.form == "step":
        formula = f"heaviside({formula}-1/2)"
    target = build_target(ExpressionTarget(formula, domain.tolist()))
    assert target.function is not None  # an invariant: formulas are functions
    boxes = ((np.maximum(at - half, low), np.minimum(at + half, high)) for at in centres[order])
    parts = [lattice(*box, cfg.points) for box in boxes]
    numbers = np.repeat(np.arange(float(len(parts))), [len(part) for part in parts])
    shown = np.concatenate(parts)
    everything = lattice(low, high, cfg.evaluation_points)
    points = Points(shown, target.function(shown), groups=numbers)
    return target, points, Points(everything, target.function(everything))
