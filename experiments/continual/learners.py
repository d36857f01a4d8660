"""Task sequences, and their learners: networks of equal size, and what they keep of earlier phases.

Phases show one narrow peak each, or the rows of a table by a column.

The memory `none` keeps nothing. `replay` keeps some of each phase's data and trains on them too
(Robins, Connection Science 7, 1995). `ewc` keeps the importance of each unknown, and penalises
its changes by that (Kirkpatrick et al., arXiv 1612.00796, eq. 3). Two more keep no data: `rehearse`
keeps the boxes that the phases covered and trains on the network's own outputs there, as they were
when the phase began (pseudo-rehearsal, Robins 1995); `hold` freezes the spline coefficients that an
earlier phase has seen. The kinds of `information` keep the curvature of what was learned, as a
quadratic function of all unknowns, of those of an edge or a neuron, or of each
(`kanrun.engine.training.memory`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config import (
    SOLVERS,
    AutoSolver,
    ContinualConfig,
    ExpressionTarget,
    KANConfig,
    MLPConfig,
    TableTarget,
)
from kanrun.config.rules import MISSING, setting
from kanrun.engine.networks import Network
from kanrun.engine.networks.counting import KANSize, match_parameters
from kanrun.engine.training import INFORMATION, Objective, QuadraticMemory, Samples, output_scale
from kanrun.errors import UsageError
from kanrun.study.build import (
    PRECISIONS,
    LearningProblem,
    intervals_of,
    make_problem,
    network_shape,
    problem_on,
)
from kanrun.study.resources import device_of, generator
from kanrun.study.suite import typed
from kanrun.targets import Dataset, Points, Scaling, Target, build_target
from kanrun.targets.functions import peaks_formula

Array = NDArray[np.float64]
#: For the kinds of `information`, weight of what a phase has learned, relative to the mean squared
#: error of a new phase, and of the numbers that the unknowns have when that begins. Chosen on five
#: peaks and a [1, 5, 1] KAN with 40 intervals, whose mean error at the end is 0.03. A weight of 100
#: forgets 0.07 of the first peak, one of 1e4 learns new ones to 0.06; a lower anchor leaves steps
#: that are longer than the curvature holds for.
WEIGHT, TIE = 1e3, 1e-4
#: Fewest intervals of a grid of the part depth.
_MIN_INTERVALS = 3


def evenly_chosen(phase: Samples, count: int) -> Samples:
    """Return at most `count` samples of a phase, evenly spaced with the first and the last."""
    places = torch.linspace(0, len(phase) - 1, min(count, len(phase)), device=phase.x.device)
    return phase.part(places.round().long())


@dataclass
class Memory:
    """A memory that keeps nothing; `kept` is the additional state of other memories."""

    kept: list[Tensor] = field(default_factory=list, kw_only=True)

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Return the objective of a phase, whose `plain` one has its samples alone."""
        return plain

    def learned(self, network: Network, phase: Samples) -> None:
        """Remember a phase that is over."""

    def determined(self) -> float | None:
        """Return how many directions of the unknowns are remembered; None if not known."""
        return None


@dataclass
class Replay(Memory):
    """A memory of evenly chosen points of each phase."""

    points: int

    def with_past(self, samples: Samples) -> Samples:
        """Return the samples, and those that are kept."""
        return samples.join(Samples(*self.kept) if self.kept else None)

    def objective(self, network: Network, plain: Objective) -> Objective:
        samples = self.with_past(plain.samples)
        return replace(plain, samples=samples, size=output_scale(samples, plain.task))

    def learned(self, network: Network, phase: Samples) -> None:
        past = self.with_past(evenly_chosen(phase, self.points))
        self.kept = [past.x, past.y]


class PseudoRehearsal(Memory):
    """A memory of the boxes of the phases, each of shape (2, inputs)."""

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Add the network's own outputs in the boxes of earlier phases, outside this one."""
        phase = plain.samples.x
        # Points lie half a step inside of their boxes.
        ends = [(low, high) for low, high in (box.cpu().numpy() for box in self.kept)]
        inner = [lattice(low, high, len(phase), border=False) for low, high in ends]
        x = torch.cat([phase[:0], *(torch.as_tensor(points).to(phase) for points in inner)])
        outside = ((x < phase.amin(0)) | (x > phase.amax(0))).any(1)
        return plain.rehearsing(network, x[outside])

    def learned(self, network: Network, phase: Samples) -> None:
        self.kept.append(torch.stack([phase.x.amin(0), phase.x.amax(0)]))


class FreezeSeen(Memory):
    """A memory of the coefficients that were seen, for each layer (inputs, functions)."""

    def objective(self, network: Network, plain: Objective) -> Objective:
        return replace(plain, held=tuple(self.kept))

    def learned(self, network: Network, phase: Samples) -> None:
        now = network.support(phase.x)
        self.kept = [a | b for a, b in zip(self.kept, now, strict=True)] if self.kept else now


@dataclass
class Information(Memory):
    """A memory of the curvature of what was learned, between unknowns as its kind says.

    `weight` is that of a phase's curvature, `tie` that of the numbers which unknowns have when a
    phase begins. With `information_diagonal`, weight 1 and no tie it is Laplace's approximation of
    the phases' losses by the Fisher information of normal outputs (ewc).
    """

    kind: str
    weight: float
    tie: float
    quadratic: QuadraticMemory | None = None

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Add what leaving remembered functions costs, and leaving the present numbers."""
        memory = QuadraticMemory.anchor(network, self.kind, self.tie)
        if self.quadratic:
            memory = self.quadratic.joined(memory)
        return replace(plain, memory=memory, freeze_unseen=False)

    def learned(self, network: Network, phase: Samples) -> None:
        if self.quadratic is None:
            self.quadratic = QuadraticMemory.anchor(network, self.kind, 0.0)
        weight = self.weight / output_scale(phase, "regression") ** 2
        self.quadratic.learn(network, phase.x, "regression", weight)
        self.kept = [*self.quadratic.factors, *self.quadratic.targets]

    def determined(self) -> float | None:
        return self.quadratic.determined(self.tie) if self.quadratic and self.tie else None


MEMORIES = ("none", "replay", "rehearse", "hold", "ewc", *INFORMATION)


@dataclass
class Learner:
    """An entry of `learners`, whose other keys are settings of the `model`.

    Trials go through all pairs of `depths` (mlp) and `strengths` (ewc), the depths first.
    """

    name: str = setting(MISSING, "what it is called in tables and figures")
    model: Any = None
    memory: str = setting("none", "what is kept of earlier phases", choices=MEMORIES)
    replay_points: int = setting(20, "points of each phase that memory=replay keeps", minimum=1)
    depths: list[int] = setting([1, 2, 3], "hidden layers of an MLP, by trial", least=1, minimum=1)
    strengths: list[float] = setting(
        [1.0, 10.0, 100.0], "strengths of memory=ewc, by trial", least=1, minimum=0
    )
    kind: str = setting("kan", "a network", choices=("kan", "mlp"))

    def memory_of(self, trial: int) -> Memory:
        """Return a memory without content."""
        past = trial // len(self.depths) if isinstance(self.model, MLPConfig) else trial
        if self.memory == "ewc":
            strength = self.strengths[past % len(self.strengths)]
            return Information("information_diagonal", strength, 0.0)
        if self.memory in INFORMATION:
            return Information(self.memory, WEIGHT, TIE)
        if self.memory == "replay":
            return Replay(self.replay_points)
        return {"none": Memory, "rehearse": PseudoRehearsal, "hold": FreezeSeen}[self.memory]()

    def settings(self, cfg: ContinualConfig, trial: int) -> Any:
        """Return the settings of the network: an MLP's depth goes with the trial."""
        if not isinstance(self.model, MLPConfig):
            return self.model
        depth = self.depths[trial % len(self.depths)]
        match = match_parameters(cfg.dimension, 1, depth, float(coefficients_of(cfg)))
        return replace(self.model, hidden=list(match.hidden))

    @property
    def trained_extras(self) -> str | None:
        """Trained parts of a KAN other than its coefficients; None if there are none."""
        if not isinstance(self.model, KANConfig):
            return None
        extras = {
            "trainable scales": not self.model.freeze_scales,
            "grid updates": self.model.update_grid,
        }
        return ", ".join(name for name, is_so in extras.items() if is_so) or None


def learners_of(cfg: ContinualConfig) -> dict[str, Learner]:
    """Return the learners that the settings list, by name.

    Raises UsageError for invalid entries.
    """
    if not cfg.learners:
        raise UsageError(
            "learners=[] has nothing to train; give one, such as [{name: KAN, kind: kan}]."
        )
    own, found = {one.name for one in fields(Learner)} - {"model"}, dict[str, Learner]()
    for entry in cfg.learners:
        network = dict(entry) if isinstance(entry, Mapping) else {}
        settings = {key: network.pop(key) for key in list(network) if key in own}
        learner = typed(Learner(), settings or entry, "learners")
        base = cfg.model if learner.kind == "kan" else MLPConfig()
        learner.model = typed(base, network, f"learners.{learner.name}")
        if learner.name in found:
            raise UsageError(
                f"learners has two entries named {learner.name!r}. Give each a name of its own."
            )
        found[learner.name] = checked(learner, cfg)
    return found


def learner_of_shape(
    cfg: ContinualConfig, hidden: Sequence[int], memory: str, intervals: int | None
) -> Learner:
    """Return a KAN of these widths.

    Without `intervals` it has about as many coefficients as `model`, on at least 3 intervals.
    """
    shape = (cfg.dimension, *hidden, 1)
    name = "-".join(map(str, shape)) + (f", {memory}" if memory != "none" else "")
    if intervals is not None:
        name = f"KAN, G = {intervals}"
    per_edge = round(coefficients_of(cfg) / KANSize(shape, 1, 0).edges)
    intervals = max(_MIN_INTERVALS, per_edge - cfg.model.degree) if intervals is None else intervals
    learner = typed(Learner(), {"name": name, "memory": memory}, "memories")
    learner.model = replace(cfg.model, hidden=list(hidden), intervals=intervals)
    return checked(learner, cfg)


def checked(learner: Learner, cfg: ContinualConfig) -> Learner:
    """Return the learner; raise UsageError if its model, memory and solver do not fit together."""
    name, model, memory = learner.name, learner.model, learner.memory
    if isinstance(model, KANConfig) and len(intervals_of(model)) > 1:
        raise UsageError(
            f"learner {name!r}: intervals={model.intervals} is a schedule; a phase has one grid."
        )
    if memory == "hold" and not isinstance(model, KANConfig):
        raise UsageError(
            f"learner {name!r}: memory=hold holds spline coefficients, which an MLP has none of."
        )
    if isinstance(cfg.solver, AutoSolver):
        raise UsageError(
            "solver=auto could give learners different solvers; use solver=lbfgs, adam or lm."
        )
    if SOLVERS[cfg.solver.kind].second_order and memory == "hold":
        raise UsageError(
            f"learner {name!r}: memory={memory} needs gradients; use solver=lbfgs or solver=adam."
        )
    return learner


def without_memory(learner: Learner, learners: Mapping[str, Learner]) -> str | None:
    """Return the name of the learner that differs in having no memory alone, if there is one."""
    same = (
        name
        for name, other in learners.items()
        if other.memory == "none" != learner.memory
        and (other.model, other.depths) == (learner.model, learner.depths)
    )
    return next(same, None)


def coefficients_of(cfg: ContinualConfig) -> int:
    """Return the spline coefficients of `model`, which every learner has about as many of."""
    shape, intervals = network_shape(cfg.model, cfg.dimension, 1), intervals_of(cfg.model)[0]
    degree = int(cfg.model.degree)
    return KANSize(shape, intervals, degree).edges * (intervals + degree)


# -------------------- task sequences

#: Maximum number of phases, and of points of all of them.
MAX_PEAKS, MAX_POINTS = 100, 200_000


@dataclass(frozen=True)
class TaskSequence:
    """Phases, and points of the whole domain for evaluation."""

    problem: LearningProblem
    phases: tuple[Samples, ...]
    everything: Samples


def with_inputs(cfg: ContinualConfig) -> ContinualConfig:
    """Return the settings with the number of inputs of a table, whose phases cannot overlap more.

    Raises UsageError for a table without phases, and for targets that are not one column.
    """
    if cfg.target is None and cfg.phase_column is None:
        return cfg
    if not isinstance(cfg.target, TableTarget) or cfg.phase_column is None:
        raise UsageError(
            "the phases of a table need both target.path=FILE and phase_column=COLUMN."
        )
    if len(cfg.target.outputs) != 1 or cfg.target.task != "regression":
        raise UsageError("continual learns one column of numbers; name it, as target.outputs=[y].")
    target = replace(cfg.target, split=f"group:{cfg.phase_column}")
    parts = [part for part in cfg.parts if part != "overlap"]
    inputs = len(build_target(target).inputs)
    return replace(cfg, target=target, dimension=inputs, parts=parts)


def check_sequence(cfg: ContinualConfig) -> None:
    """Raise UsageError for too many phases or points."""
    count = cfg.peaks**cfg.dimension
    if count > MAX_PEAKS or count * cfg.points > MAX_POINTS:
        raise UsageError(
            f"{count} phases of {cfg.points} points are too many: at most {MAX_PEAKS} phases "
            f"and {MAX_POINTS} points in all."
        )


def make_sequence(cfg: ContinualConfig, overlap: float, seed: int) -> TaskSequence:
    """Return the phases: peaks in the order given by `seed`, or groups of a table's rows by name.

    Nothing else of a sequence is random.
    """
    if cfg.target is None:
        target, points, judged = peaks(cfg, overlap, seed)
        scalings = Scaling.identity(cfg.dimension), Scaling.identity(1)
        dataset = Dataset(target, points, None, judged, *scalings)
        problem = problem_on(dataset, PRECISIONS[cfg.precision], torch.device(device_of(cfg)))
    else:
        sampling = replace(cfg.sampling, n_train=None, n_test=0, validation_fraction=0.0)
        problem = make_problem(cfg, cfg.target, sampling, seed)
    shown, groups = problem.data.train, problem.dataset.train.groups
    assert groups is not None  # `with_inputs` asks for them
    phases = (shown.part(torch.from_numpy(np.flatnonzero(groups == g))) for g in np.unique(groups))
    return TaskSequence(problem, tuple(phases), problem.data.test or shown)


def peaks(cfg: ContinualConfig, overlap: float, seed: int) -> tuple[Target, Points, Points]:
    """Return the sum of the peaks, the points of all phases with their numbers, and all points."""
    axis = (np.arange(cfg.peaks) - (cfg.peaks - 1) / 2) * cfg.spacing
    # To 12 digits, so that borders lie on knots.
    centres = np.array(list(itertools.product(axis.round(12), repeat=cfg.dimension)))
    order = np.arange(len(centres))[:: -1 if cfg.order == "descending" else 1]
    if cfg.order == "random":
        draws = generator(seed, "order of the peaks")
        order = torch.randperm(len(centres), generator=draws).numpy()
    low, high = centres.min(0) - cfg.spacing / 2, centres.max(0) + cfg.spacing / 2
    half = cfg.spacing / 2 * (1 + overlap)
    formula, domain = peaks_formula(centres, cfg.sharpness), np.stack([low, high], 1)
    target = build_target(ExpressionTarget(formula, domain.tolist()))
    assert target.function is not None  # an invariant: formulas are functions
    boxes = ((np.maximum(at - half, low), np.minimum(at + half, high)) for at in centres[order])
    parts = [lattice(*box, cfg.points) for box in boxes]
    numbers = np.repeat(np.arange(float(len(parts))), [len(part) for part in parts])
    shown, everything = np.concatenate(parts), lattice(low, high, cfg.evaluation_points)
    points = Points(shown, target.function(shown), groups=numbers)
    return target, points, Points(everything, target.function(everything))


def lattice(low: Array, high: Array, points: int, *, border: bool = True) -> Array:
    """Return about `points` evenly spaced points of a box, shape (points, dimension).

    They include its border, or else lie half a step inside.
    """
    each = max(1 + border, round(points ** (1 / len(low))))
    inset = 0.0 if border else (high - low) / (2 * each)
    axes = [np.linspace(a, b, each) for a, b in zip(low + inset, high - inset, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
