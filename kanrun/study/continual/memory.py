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
from torch import Tensor, nn

from kanrun.engine.networks import KAN, linearise, support, unknowns
from kanrun.engine.training import Objective, Samples, predict
from kanrun.engine.training.penalty import Roughness

#: (parameters in the order of `unknowns`, where they were, how much each matters)
Anchor = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Anchored(Objective):
    """The objective with strength / 2 sum over anchors, parameters of F (u - u*)^2."""

    anchors: tuple[Anchor, ...] = ()
    strength: float = 0.0

    def value(self, network: nn.Module, samples: Samples, rough: Roughness) -> Tensor:
        now = torch.cat([parameter.reshape(-1) for _, parameter in unknowns(network)])
        total = super().value(network, samples, rough)
        for place, importance in self.anchors:
            total = total + self.strength / 2 * (importance * (now - place).square()).sum()
        return total


@dataclass
class Memory:
    """Keeps nothing; the others say what they keep. `learned` is told of every phase when it is over."""

    kept: int = 20  # replay: points of each phase
    strength: float = 0.0  # ewc
    stored: int = 0  # numbers kept so far, beside the network
    anchors: list[Anchor] = field(default_factory=list)

    def samples(self, network: nn.Module, phase: Samples, box: Tensor) -> Samples:
        """What a phase trains on."""
        return phase

    def held(self) -> tuple[Tensor, ...]:
        """For each layer, which coefficients must not move (inputs, functions); nothing for none."""
        return ()

    def learned(self, network: nn.Module, phase: Samples, box: Tensor) -> None:
        """A phase is over."""


@dataclass
class Replay(Memory):
    past: Samples | None = None

    def samples(self, network: nn.Module, phase: Samples, box: Tensor) -> Samples:
        return phase.join(self.past)

    def learned(self, network: nn.Module, phase: Samples, box: Tensor) -> None:
        count = min(self.kept, len(phase))
        chosen = phase.part(torch.linspace(0, len(phase) - 1, count, device=phase.x.device).round().long())
        self.past = chosen.join(self.past)
        self.stored = self.past.x.numel() + self.past.y.numel()


@dataclass
class Rehearse(Memory):
    places: list[Tensor] = field(default_factory=list)

    def samples(self, network: nn.Module, phase: Samples, box: Tensor) -> Samples:
        """The phase, and the network's own outputs in the boxes of earlier ones, but for where the phase itself is."""
        if not self.places:
            return phase
        x = torch.cat([_evenly(place, len(phase)) for place in self.places])
        x = x[((x < box[:, 0]) | (x > box[:, 1])).any(1)]
        return phase.join(Samples(x, predict(network, x))) if len(x) else phase

    def learned(self, network: nn.Module, phase: Samples, box: Tensor) -> None:
        self.places.append(box)
        self.stored += box.numel()


@dataclass
class Hold(Memory):
    seen: list[Tensor] = field(default_factory=list)

    def held(self) -> tuple[Tensor, ...]:
        return tuple(self.seen)

    def learned(self, network: nn.Module, phase: Samples, box: Tensor) -> None:
        assert isinstance(network, KAN)  # an invariant: `hold` is refused for other networks
        now = support(network, phase.x)
        self.seen = [a | b for a, b in zip(self.seen, now, strict=True)] if self.seen else now
        self.stored = sum(seen.numel() for seen in self.seen)


@dataclass
class Elastic(Memory):
    def learned(self, network: nn.Module, phase: Samples, box: Tensor) -> None:
        """The Fisher information of Gaussian outputs of unit variance: the mean square of each output's slope."""
        _, slopes = linearise(network, phase.x)
        place = torch.cat([parameter.detach().reshape(-1) for _, parameter in unknowns(network)])
        self.anchors.append((place, slopes.square().sum(1).mean(0)))
        self.stored += 2 * place.numel()


MEMORIES: dict[str, Callable[..., Memory]] = {
    "none": Memory,
    "replay": Replay,
    "rehearse": Rehearse,
    "hold": Hold,
    "ewc": Elastic,
}


def _evenly(box: Tensor, count: int) -> Tensor:
    """About `count` evenly spaced points of a box, shifted half a step inwards: (points, inputs)."""
    inputs = box.shape[0]
    each = max(1, round(count ** (1 / inputs)))
    share = (torch.arange(each, dtype=box.dtype, device=box.device) + 0.5) / each
    axes = [torch.lerp(low, high, share) for low, high in box]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, inputs)
