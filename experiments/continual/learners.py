"""Learners of a task sequence: networks of equal size, and what they keep of earlier phases.

The memory `none` keeps nothing. `replay` keeps some of each phase's data and trains on them too
(Robins, Connection Science 7, 1995). `ewc` keeps the importance of each parameter, and penalises
its changes by that (Kirkpatrick et al., arXiv 1612.00796, eq. 3). Two more keep no data: `rehearse`
keeps the boxes that the phases covered and trains on the network's own outputs there, as they were
when the phase began (pseudo-rehearsal, Robins 1995); `hold` freezes the spline coefficients that an
earlier phase has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from kanrun.experiments.continual.task_sequence import TaskSequence
from torch import Generator, Tensor

from kanrun.config import SOLVERS, ContinualConfig, KANConfig, MLPConfig
from kanrun.config.rules import MISSING, setting
from kanrun.engine.networks import Network
from kanrun.engine.networks.counting import KANSize, match_parameters
from kanrun.engine.training import Objective, Samples, output_scale, predict
from kanrun.engine.training.data_fitting import SmoothnessLoss
from kanrun.errors import UsageError
from kanrun.study.build import check_model, factory, intervals_of, network_shape
from kanrun.study.suite import typed

_LISTS = ("depths", "strengths")
#: Where the parameters were, in the order of `unknowns`, and how much each of them matters.
Anchor = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class EWCObjective(Objective):
    """The objective plus strength / 2 times the sum of F (u - u*)^2 over anchors and parameters."""

    anchors: tuple[Anchor, ...] = ()
    strength: float = 0.0

    def value(self, network: Network, samples: Samples, rough: SmoothnessLoss) -> Tensor:
        now = torch.cat([parameter.reshape(-1) for _, parameter in network.unknowns()])
        total = super().value(network, samples, rough)
        for place, importance in self.anchors:
            total = total + self.strength / 2 * (importance * (now - place).square()).sum()
        return total


class Memory:
    """A memory that keeps nothing; `kept` is the additional state of other memories.

    `points` is the number of points of each phase to keep (replay), `strength` the weight of the
    penalty (ewc).
    """

    def __init__(self, points: int = 0, strength: float = 0.0) -> None:
        self.points, self.strength = points, strength
        self.kept: list[Tensor] = []

    def samples(self, network: Network, phase: Samples, box: Tensor) -> Samples:
        """Return the samples that a phase trains on."""
        return phase

    def held(self) -> tuple[Tensor, ...]:
        """Return the frozen coefficients of each layer, shape (inputs, functions); () for none."""
        return ()

    def anchored(self, objective: Objective) -> Objective:
        """Return the objective of a phase."""
        return objective

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        """Remember a phase that is over."""


class Replay(Memory):
    """A memory of evenly chosen points of each phase."""

    def samples(self, network: Network, phase: Samples, box: Tensor) -> Samples:
        return phase.join(Samples(*self.kept)) if self.kept else phase

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        count = min(self.points, len(phase))
        chosen = phase.part(
            torch.linspace(0, len(phase) - 1, count, device=phase.x.device).round().long()
        )
        past = self.samples(network, chosen, box)
        self.kept = [past.x, past.y]


class PseudoRehearsal(Memory):
    """A memory of the boxes of the phases."""

    def samples(self, network: Network, phase: Samples, box: Tensor) -> Samples:
        """Add the network's own outputs in the boxes of earlier phases, outside this one."""
        if not self.kept:
            return phase
        x = torch.cat([_evenly(place, len(phase)) for place in self.kept])
        x = x[((x < box[:, 0]) | (x > box[:, 1])).any(1)]
        return phase.join(Samples(x, predict(network, x))) if len(x) else phase

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        self.kept.append(box)


class FreezeSeen(Memory):
    """A memory of the coefficients that were seen."""

    def held(self) -> tuple[Tensor, ...]:
        return tuple(self.kept)

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        now = network.support(phase.x)
        self.kept = [a | b for a, b in zip(self.kept, now, strict=True)] if self.kept else now


class ElasticWeightConsolidation(Memory):
    """A memory of the parameters after each phase, with the Fisher information of that phase."""

    def anchored(self, objective: Objective) -> Objective:
        anchors = tuple(zip(self.kept[::2], self.kept[1::2], strict=True))
        return EWCObjective(**vars(objective), anchors=anchors, strength=self.strength)

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        """Remember the parameters and the Fisher information of Gaussian outputs.

        That is the diagonal of the curvature of the phase's mean (f - y)^2 / size^2, which is
        2 mean(slope^2) / size^2. A strength of 1 is Laplace's approximation of the phases' losses.
        """
        _, rows = network.linearise(phase.x)
        scale = 2 / output_scale(phase, "regression") ** 2
        self.kept += [network.get_unknowns(), scale * rows.squares() / len(rows)]


MEMORIES: dict[str, type[Memory]] = {
    "none": Memory,
    "replay": Replay,
    "rehearse": PseudoRehearsal,
    "hold": FreezeSeen,
    "ewc": ElasticWeightConsolidation,
}


def _evenly(box: Tensor, count: int) -> Tensor:
    """Return about `count` evenly spaced points of a box, half a step inside: (points, inputs)."""
    inputs = box.shape[0]
    each = max(1, round(count ** (1 / inputs)))
    share = (torch.arange(each, dtype=box.dtype, device=box.device) + 0.5) / each
    axes = [torch.lerp(low, high, share) for low, high in box]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, inputs)


@dataclass
class Learner:
    """An entry of `learners`, whose other keys are settings of the `model`.

    Trials go through all pairs of `depths` (mlp) and `strengths` (ewc), the depths first.
    """

    name: str = setting(MISSING, "what it is called in tables and figures")
    model: Any = None
    memory: str = setting("none", "what is kept of earlier phases", choices=tuple(MEMORIES))
    replay_points: int = setting(20, "points of each phase that memory=replay keeps", minimum=1)
    depths: list[int] = setting([1, 2, 3], "hidden layers of an MLP, by trial", least=1, minimum=1)
    strengths: list[float] = setting(
        [1.0, 10.0, 100.0], "strengths of memory=ewc, by trial", least=1, minimum=0
    )
    kind: str = setting("kan", "a network", choices=("kan", "mlp"))

    def depth(self, trial: int) -> int:
        return self.depths[trial % len(self.depths)]

    def strength(self, trial: int) -> float:
        past = trial // len(self.depths) if isinstance(self.model, MLPConfig) else trial
        return self.strengths[past % len(self.strengths)]

    @property
    def plain(self) -> bool:
        """Whether this KAN should not forget: one layer, frozen scales and grid, no memory."""
        model = self.model
        flat = isinstance(model, KANConfig) and not model.hidden
        return flat and model.freeze_scales and not model.update_grid and self.memory == "none"


def learners_of(cfg: ContinualConfig) -> list[Learner]:
    """Return the learners that the settings list. Raises UsageError for invalid entries."""
    if not cfg.learners:
        raise UsageError(
            "learners=[] has nothing to train; give one, such as [{name: KAN, kind: kan}]."
        )
    found = [_learner(cfg, entry) for entry in cfg.learners]
    names = [learner.name for learner in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"learners has two entries named {name!r}. Give each a name of its own."
            )
    return found


def without_memory(learner: Learner, learners: Sequence[Learner]) -> str | None:
    """Return the name of the learner that differs in having no memory alone, if there is one."""
    if learner.memory == "none":
        return None
    bare = replace(learner, name="", memory="none", strengths=[], replay_points=0)
    same = [
        other
        for other in learners
        if replace(other, name="", strengths=[], replay_points=0) == bare
    ]
    return same[0].name if same else None


def of_shape(cfg: ContinualConfig, hidden: Sequence[int], memory: str) -> Learner:
    """Return a KAN of these widths with the coefficients of `model`, on at least 3 intervals."""
    edges = KANSize((cfg.dimension, *hidden, 1), 1, 0).edges
    intervals = max(3, round(size_of_all(cfg) / edges) - cfg.model.degree)
    name = "-".join(map(str, (cfg.dimension, *hidden, 1))) + (
        f", {memory}" if memory != "none" else ""
    )
    learner = typed(Learner(), {"name": name, "memory": memory}, "memories")
    learner.model = replace(cfg.model, hidden=list(hidden), intervals=intervals)
    _check(learner, cfg)
    return learner


def size_of_all(cfg: ContinualConfig) -> int:
    """Return the spline coefficients of `model`, which every learner has about as many of."""
    shape, intervals = network_shape(cfg.model, cfg.dimension, 1), intervals_of(cfg.model)[0]
    degree = int(cfg.model.degree)
    return KANSize(shape, intervals, degree).edges * (intervals + degree)


def make_network(
    learner: Learner, cfg: ContinualConfig, sequence: TaskSequence, trial: int, draws: Generator
) -> Network:
    """Return an untrained network; an MLP's depth goes with the trial, its widths match `model`."""
    model = learner.model
    if isinstance(model, MLPConfig):
        match = match_parameters(cfg.dimension, 1, learner.depth(trial), float(size_of_all(cfg)))
        model = replace(model, hidden=list(match.hidden))
    return factory(model, sequence.problem, cfg.solver.kind)(draws)


def _learner(cfg: ContinualConfig, entry: Any) -> Learner:
    given = dict(entry) if isinstance(entry, Mapping) else {}
    own = {one.name for one in fields(Learner)} - {"model"}
    settings = {key: value for key, value in given.items() if key in own}
    settings |= {
        key: [value]
        for key, value in settings.items()
        if key in _LISTS and not isinstance(value, list)
    }
    learner = typed(Learner(), settings or entry, "learners")
    base = cfg.model if learner.kind == "kan" else MLPConfig()
    rest = {key: value for key, value in given.items() if key not in own}
    learner.model = typed(base, rest, f"learners.{learner.name}")
    _check(learner, cfg)
    return learner


def _check(learner: Learner, cfg: ContinualConfig) -> None:
    name, model, memory = learner.name, learner.model, learner.memory
    check_model(model, cfg.dimension)
    if isinstance(model, KANConfig) and len(intervals_of(model)) > 1:
        raise UsageError(
            f"learner {name!r}: intervals={model.intervals} is a schedule; a phase has one grid."
        )
    if memory == "hold" and not isinstance(model, KANConfig):
        raise UsageError(
            f"learner {name!r}: memory=hold holds spline coefficients, which an MLP has none of."
        )
    if cfg.solver.kind == "auto":
        raise UsageError(
            "solver=auto could give learners different solvers; use solver=lbfgs, adam or lm."
        )
    if SOLVERS[cfg.solver.kind].second_order and memory in ("hold", "ewc"):
        raise UsageError(
            f"learner {name!r}: memory={memory} needs gradients; use solver=lbfgs or solver=adam."
        )
