"""What a learner keeps of earlier phases, so as not to forget them.

`none` keeps nothing. `replay` keeps some of each phase's data and trains on them too (Robins, Connection Science 7,
1995). `ewc` keeps how much each parameter mattered, and holds it near its place by that (Kirkpatrick et al.,
arXiv 1612.00796, eq. 3). Two more keep no data: `rehearse` keeps the boxes that the phases covered and trains on the
network's OWN outputs there, as they were when the phase began (pseudo-rehearsal, Robins 1995); `hold` never again moves
a spline coefficient that an earlier phase has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.engine.training import Objective, Samples, output_scale, predict
from kanrun.engine.training.penalty import Roughness

#: Where the parameters were, in the order of `unknowns`, and how much each of them matters.
Anchor = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Anchored(Objective):
    """The objective with strength / 2 sum over anchors, parameters of F (u - u*)^2."""

    anchors: tuple[Anchor, ...] = ()
    strength: float = 0.0

    def value(self, network: Network, samples: Samples, rough: Roughness) -> Tensor:
        now = torch.cat([parameter.reshape(-1) for _, parameter in network.unknowns()])
        total = super().value(network, samples, rough)
        for place, importance in self.anchors:
            total = total + self.strength / 2 * (importance * (now - place).square()).sum()
        return total


class Memory:
    """Keeps nothing; the others say what they keep. `learned` is told of every phase when it is over."""

    @property
    def stored(self) -> int:
        """Numbers kept so far, beside the network."""
        return 0

    def samples(self, network: Network, phase: Samples, box: Tensor) -> Samples:
        """What a phase trains on."""
        return phase

    def held(self) -> tuple[Tensor, ...]:
        """For each layer, which coefficients must not move (inputs, functions); nothing for none."""
        return ()

    def anchored(self, objective: Objective) -> Objective:
        """What a phase lowers."""
        return objective

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        """A phase is over."""


@dataclass
class Replay(Memory):
    """`kept` evenly chosen points of each phase."""

    kept: int
    past: Samples | None = None

    @property
    def stored(self) -> int:
        return 0 if self.past is None else self.past.x.numel() + self.past.y.numel()

    def samples(self, network: Network, phase: Samples, box: Tensor) -> Samples:
        return phase.join(self.past)

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        count = min(self.kept, len(phase))
        chosen = phase.part(torch.linspace(0, len(phase) - 1, count, device=phase.x.device).round().long())
        self.past = chosen.join(self.past)


@dataclass
class Rehearse(Memory):
    """The boxes of the phases."""

    places: list[Tensor] = field(default_factory=list)

    @property
    def stored(self) -> int:
        return sum(place.numel() for place in self.places)

    def samples(self, network: Network, phase: Samples, box: Tensor) -> Samples:
        """The phase, and the network's own outputs in the boxes of earlier ones, but for where the phase itself is."""
        if not self.places:
            return phase
        x = torch.cat([_evenly(place, len(phase)) for place in self.places])
        x = x[((x < box[:, 0]) | (x > box[:, 1])).any(1)]
        return phase.join(Samples(x, predict(network, x))) if len(x) else phase

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        self.places.append(box)


@dataclass
class Hold(Memory):
    """Which coefficients of each layer were seen."""

    seen: list[Tensor] = field(default_factory=list)

    @property
    def stored(self) -> int:
        return sum(seen.numel() for seen in self.seen)

    def held(self) -> tuple[Tensor, ...]:
        return tuple(self.seen)

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        now = network.support(phase.x)
        self.seen = [a | b for a, b in zip(self.seen, now, strict=True)] if self.seen else now


@dataclass
class Elastic(Memory):
    """An anchor a phase, each with the Fisher information of its own phase, as published."""

    strength: float
    anchors: list[Anchor] = field(default_factory=list)

    @property
    def stored(self) -> int:
        return sum(2 * place.numel() for place, _ in self.anchors)

    def anchored(self, objective: Objective) -> Objective:
        return Anchored(**vars(objective), anchors=tuple(self.anchors), strength=self.strength)

    def learned(self, network: Network, phase: Samples, box: Tensor) -> None:
        """The diagonal of the curvature of the phase's mean (f - y)^2 / size^2 where it ends: 2 mean(slope^2) / size^2.

        It is the Fisher information of Gaussian outputs, and a strength of 1 then is Laplace's approximation: the
        anchors stand for the phases' own losses as well as squares of single parameters can.
        """
        _, rows = network.linearise(phase.x)
        scale = 2 / output_scale(phase, "regression") ** 2
        self.anchors.append((network.get_unknowns(), scale * rows.squares() / len(rows)))


#: By name, made of how many points of each phase to keep and how strongly to hold.
MEMORIES: dict[str, Callable[[int, float], Memory]] = {
    "none": lambda kept, strength: Memory(),
    "replay": lambda kept, strength: Replay(kept),
    "rehearse": lambda kept, strength: Rehearse(),
    "hold": lambda kept, strength: Hold(),
    "ewc": lambda kept, strength: Elastic(strength),
}


def _evenly(box: Tensor, count: int) -> Tensor:
    """About `count` evenly spaced points of a box, shifted half a step inwards: (points, inputs)."""
    inputs = box.shape[0]
    each = max(1, round(count ** (1 / inputs)))
    share = (torch.arange(each, dtype=box.dtype, device=box.device) + 0.5) / each
    axes = [torch.lerp(low, high, share) for low, high in box]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, inputs)
