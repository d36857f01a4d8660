"""The learners: networks of equal size, and what they keep of earlier phases.

The memory `none` keeps nothing. `replay` keeps some of each phase's data and trains on them too
(Robins, Connection Science 7, 1995). `ewc` keeps the importance of each unknown, and penalises
its changes by that (Kirkpatrick et al., arXiv 1612.00796, eq. 3). Two more keep no data: `rehearse`
keeps the boxes that the phases covered and trains on the network's own outputs there, as they were
when the phase began (pseudo-rehearsal, Robins 1995); `information` keeps the curvature of what was
learned, as a quadratic function of all unknowns (`kanrun.engine.training.memory`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from kanrun.config.rules import MISSING, Count, NonNegative, copied
from kanrun.engine.networks import Network
from kanrun.engine.networks.counting import KANSize, match_parameters
from kanrun.engine.training import Objective, QuadraticMemory, Samples, output_scale
from kanrun.errors import UsageError
from kanrun.model.settings import AutoSolver, KANConfig, MLPConfig, widths_of
from kanrun.points import Array
from kanrun.study import Cell
from kanrun.study.suite import typed

from .config import ContinualConfig

#: For `information`, weight of what a phase has learned, relative to the mean squared error of a
#: new phase. Higher weights forget less and learn less. Chosen on five peaks with three seeds: a
#: [1, 5, 5, 1] KAN ends with an RMSE of 1e-3 to 3e-3.
WEIGHT = 1e2
#: Weight that ties the unknowns to their values at the beginning of a phase. With a lower weight,
#: steps leave the region in which the curvature is accurate.
TIE = 1e-4
#: Weight of what hidden layers compute, relative to outputs. Without it, the KAN above ends with an
#: RMSE of 5e-3 to 2e-2 (weight 1000) or 3e-2 to 4e-2.
HIDDEN = 0.1
#: Fewest intervals of a grid of the part depth.
_MIN_INTERVALS = 3


def evenly_chosen(phase: Samples, count: int) -> Samples:
    """Return at most `count` samples of a phase, evenly spaced with the first and the last."""
    places = torch.linspace(0, len(phase) - 1, min(count, len(phase)), device=phase.x.device)
    return phase.part(places.round().long())


@dataclass
class Memory:
    """A memory that stores nothing. Other memories derive from it and store `kept`."""

    kept: list[Tensor] = field(default_factory=list, kw_only=True)

    def objective(self, network: Network, plain: Objective) -> Objective:
        """Return the objective of a phase, whose `plain` one has its samples alone."""
        return plain

    def learned(self, network: Network, phase: Samples) -> None:
        """Remember a phase that is over."""


@dataclass
class Replay(Memory):
    """A memory of evenly chosen points of each phase."""

    points: int

    def with_past(self, samples: Samples) -> Samples:
        """Return the samples of the phase together with the stored ones."""
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
        self.quadratic.learn(network, phase.x, "regression", weight, HIDDEN if self.tie else 0.0)
        self.kept = [*self.quadratic.factors, *self.quadratic.targets]


@dataclass
class Learner:
    """One learner of the study, an entry of the setting `learners`.

    Keys that are not attributes are settings of its `model`. Its trials are all pairs of `depths`
    (of an MLP) and `strengths` (of EWC), the depths first.
    """

    name: Annotated[str, "what it is called in tables and figures"] = MISSING
    model: Any = None
    memory: Annotated[
        Literal["none", "replay", "rehearse", "ewc", "information"],
        "what is kept of earlier phases",
    ] = "none"
    replay_points: Annotated[Count, "points of each phase that memory=replay keeps"] = 20
    depths: Annotated[list[Count], Meta(min_length=1), "hidden layers of an MLP, by trial"] = (
        copied([1, 2, 3])
    )
    strengths: Annotated[
        list[NonNegative], Meta(min_length=1), "strengths of memory=ewc, by trial"
    ] = copied([1.0, 10.0, 100.0])
    kind: Annotated[Literal["kan", "mlp"], "a network"] = "kan"

    def memory_of(self, trial: int) -> Memory:
        """Return an empty memory of the given kind."""
        past = trial // len(self.depths) if isinstance(self.model, MLPConfig) else trial
        if self.memory == "ewc":
            strength = self.strengths[past % len(self.strengths)]
            return Information("information_diagonal", strength, 0.0)
        if self.memory == "information":
            return Information(self.memory, WEIGHT, TIE)
        if self.memory == "replay":
            return Replay(self.replay_points)
        return PseudoRehearsal() if self.memory == "rehearse" else Memory()

    def settings(self, cfg: ContinualConfig, trial: int) -> Any:
        """Return the settings of the network: an MLP's depth goes with the trial."""
        if not isinstance(self.model, MLPConfig):
            return self.model
        depth = self.depths[trial % len(self.depths)]
        match = match_parameters(cfg.dimension, 1, depth, float(coefficients_of(cfg)))
        return replace(self.model, hidden=list(match.hidden))

    @property
    def is_local(self) -> bool:
        """Whether only coefficients of a KAN are trained, so that its edges stay local."""
        model = self.model
        return isinstance(model, KANConfig) and model.freeze_scales and not model.update_grid


def learners_of(cfg: ContinualConfig) -> dict[str, dict[str, Any]]:
    """Return the entries of `learners` by name, with the name of the first of equal networks.

    Raises UsageError for invalid entries.
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
    own = {one.name for one in fields(Learner)} - {"model"}
    network = dict(entry) if isinstance(entry, Mapping) else {}
    settings = {key: network.pop(key) for key in list(network) if key in own}
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
    """Return the cells of every part, each with the entry of its learner."""
    listed = learners_of(cfg) if {"learners", "overlap"} & {*cfg.parts} else {}
    named = cfg.overlap_learners if "overlap" in cfg.parts else []
    if unknown := [name for name in named if name not in listed]:
        raise UsageError(
            f"overlap_learners names {unknown[0]!r}, which is none of {', '.join(listed)}."
        )
    pairs = itertools.product(cfg.overlaps, named)
    cells: dict[str, list[dict[str, Any]]] = {
        "learners": [{**entry, "trials": cfg.trials} for entry in listed.values()],
        "intervals": [cell_of(f"KAN, G = {g}", "none", intervals=g) for g in cfg.intervals],
        "overlap": [{**listed[name], "overlap": overlap} for overlap, name in pairs],
        # A single layer needs no memory, and serves only as a comparison.
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
    """Return the cell of a KAN of these widths with about as many coefficients as `model`."""
    shape = (cfg.dimension, *hidden, 1)
    per_edge = round(coefficients_of(cfg) / KANSize(shape, 1, 0).edges)
    intervals = max(_MIN_INTERVALS, per_edge - cfg.model.degree)
    return cell_of("-".join(map(str, shape)), memory, hidden=list(hidden), intervals=intervals)


def cell_of(network: str, memory: str, **settings: Any) -> dict[str, Any]:
    """Return the cell of a KAN with this name and these settings."""
    name = network if memory == "none" else f"{network}, {memory}"
    return {"network": network, "learner": {"name": name, "memory": memory, **settings}}


def coefficients_of(cfg: ContinualConfig) -> int:
    """Return the spline coefficients of `model`, which every learner has about as many of."""
    shape = (cfg.dimension, *widths_of(cfg.model.hidden), 1)
    intervals = int(cfg.model.schedule[0])
    degree = int(cfg.model.degree)
    return KANSize(shape, intervals, degree).edges * (intervals + degree)


def lattice(low: Array, high: Array, points: int, *, border: bool = True) -> Array:
    """Return about `points` evenly spaced points of a box, shape (points, dimension).

    They include its border, or else lie half a step inside.
    """
    each = max(1 + border, round(points ** (1 / len(low))))
    inset = 0.0 if border else (high - low) / (2 * each)
    axes = [np.linspace(a, b, each) for a, b in zip(low + inset, high - inset, strict=True)]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
