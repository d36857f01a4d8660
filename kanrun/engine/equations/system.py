"""A differential equation on a box with its conditions: what is known of the solution, and where points lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import qmc
from torch import Generator, Tensor

from kanrun.engine.equations.field import Field
from kanrun.engine.equations.residuals import Block
from kanrun.formulas.equations import Relation, Vocabulary

#: A face of the box: the variables that are fixed there, by number, and their values.
Face = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Condition:
    """A relation that holds on faces of the box or, for a `periodic` variable, between the two ends of its range."""

    name: str
    relation: Relation
    faces: tuple[Face, ...] = ()
    periodic: int | None = None


@dataclass(frozen=True)
class Corner:
    """Where faces meet and a relation contradicts the conditions there, by a share of its largest term, at most 1."""

    face: Face
    relation: Relation
    share: float

    def concerns(self, relation: Relation) -> bool:
        """Whether `relation` holds an unknown of which the contradiction is."""
        return not {each.unknown for each in self.relation.derivatives}.isdisjoint(
            each.unknown for each in relation.derivatives
        )


@dataclass(frozen=True)
class Measured:
    """Measured values (points,) of one unknown at points (points, variables)."""

    relation: Relation  # unknown = 0
    points: Tensor
    values: Tensor


@dataclass(frozen=True)
class System:
    """Equations for the unknowns of `vocabulary` on `box` (variables, 2), with conditions and perhaps measured values.

    `constants` are the first guesses of the constants that are sought. At `corners`, where faces meet, conditions,
    their slopes or the equation contradict each other, so that derivatives of the solution are infinite there.
    """

    vocabulary: Vocabulary
    box: Float[Tensor, "variables 2"]
    equations: tuple[Relation, ...]
    conditions: tuple[Condition, ...]
    measured: tuple[Measured, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    corners: tuple[Corner, ...] = ()

    @property
    def half(self) -> Tensor:
        """Half the box's extent in each variable."""
        return (self.box[:, 1] - self.box[:, 0]) / 2

    def guesses(self) -> Float[Tensor, " constants"]:
        """The first guesses, in the vocabulary's order."""
        return self.box.new_tensor([self.constants[name] for name in self.vocabulary.constants])

    def until(self, start: float, end: float) -> System:
        """The same system between two values of the last variable."""
        box = self.box.clone()
        box[-1] = box.new_tensor([start, end])
        conditions = tuple(replace(each, faces=_moved(each.faces, self.box, box)) for each in self.conditions)
        return replace(self, box=box, conditions=conditions)

    @property
    def evolves(self) -> bool:
        """Whether nothing is asked at the upper end of the last variable, so that it can be solved in windows."""
        last, end = len(self.box) - 1, float(self.box[-1, 1])
        fixed = [value for each in self.conditions for face in each.faces for number, value in face if number == last]
        return bool(fixed) and end not in fixed and all(each.periodic != last for each in self.conditions)


def _moved(faces: tuple[Face, ...], old: Tensor, new: Tensor) -> tuple[Face, ...]:
    """Faces at the lower end of the last variable, at the lower end of the new box."""
    last, start = len(old) - 1, float(old[-1, 0])
    return tuple(
        tuple((number, float(new[-1, 0]) if (number, value) == (last, start) else value) for number, value in face)
        for face in faces
    )


class PointSequence:
    """Low-discrepancy points of a box, in the order of a scrambled Sobol sequence: always its first ones."""

    def __init__(self, box: Tensor, generator: Generator) -> None:
        self.box = box
        seed = int(torch.randint(2**31, (), generator=generator))
        self._sequence = qmc.Sobol(len(box), rng=np.random.default_rng(seed))
        self._drawn = np.zeros((0, len(box)))

    def first(
        self, count: int, edges: Float[Tensor, "variables ends"] | None = None, following: float = 0.5
    ) -> Float[Tensor, "points variables"]:
        """The first `count` points.

        Where `edges` (of intervals, on [-1, 1]) are not evenly spaced, the share `following` of each variable's
        density is equal in all intervals, whatever their length; the rest stays uniform.
        """
        while len(self._drawn) < count:  # powers of two, as the sequence is balanced for
            size = 1 << max(6, (max(len(self._drawn), 1) - 1).bit_length())
            self._drawn = np.concatenate([self._drawn, self._sequence.random(size)])
        share = self._drawn[:count]
        if edges is not None:
            places = (edges.cpu().numpy() + 1) / 2
            even = np.linspace(0, 1, places.shape[1])
            share = np.stack(
                [np.interp(s, following * even + (1 - following) * p, p) for s, p in zip(share.T, places, strict=True)],
                axis=1,
            )
        drawn = torch.as_tensor(share).to(self.box)
        return self.box[:, 0] + drawn * (self.box[:, 1] - self.box[:, 0])


def gauss_points(box: Tensor, pieces: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """All combinations of Gauss-Legendre points of the variables, and their weights with mean 1.

    `pieces` has for each variable the ends of its intervals on [-1, 1], and the number of points in each of them.
    """
    axes, shares = list[Tensor](), torch.ones(1, dtype=box.dtype)
    for (edges, each), (low, high) in zip(pieces, box.tolist(), strict=True):
        nodes, weights = np.polynomial.legendre.leggauss(max(2, each))
        ends = edges.cpu().numpy()
        width = np.diff(ends)[:, None]
        share = ((ends[:-1, None] + width * (nodes + 1) / 2).reshape(-1) + 1) / 2
        axes.append(torch.as_tensor(low + share * (high - low)).to(box))
        shares = torch.outer(shares, torch.as_tensor((width / 2 * weights / 2).reshape(-1))).reshape(-1)
    return torch.cartesian_prod(*axes).reshape(len(shares), -1), (shares * len(shares)).to(box)


def on_face(
    face: Face, box: Tensor, count: int, edges: Float[Tensor, "variables ends"] | None = None
) -> Float[Tensor, "points variables"]:
    """About `count` points of a face: evenly spaced along one free variable, a regular grid in two.

    Along one variable they are evenly spaced in every interval of `edges` (on [-1, 1]), three in each or more.
    """
    fixed = dict(face)
    free = [number for number in range(len(box)) if number not in fixed]
    if edges is not None and len(free) == 1:
        ends = ((edges[free[0]].cpu().numpy() + 1) / 2).clip(0, 1)
        place = np.linspace(0, len(ends) - 1, max(count, 3 * len(ends) - 2))
        axes = [box[free[0], 0] + torch.as_tensor(np.interp(place, range(len(ends)), ends)) * box[free[0]].diff()]
    else:
        each = max(2, round(count ** (1 / max(len(free), 1))))
        axes = [torch.linspace(float(box[n, 0]), float(box[n, 1]), each, dtype=box.dtype) for n in free]
    each = len(axes[0]) if axes else 1
    points = box.new_zeros(each ** len(free), len(box))
    for number, value in fixed.items():
        points[:, number] = value
    if free:
        points[:, free] = torch.cartesian_prod(*axes).reshape(-1, len(free)).to(box)
    return points


def condition_blocks(
    system: System, count: int, weight: float, data_weight: float = 1.0, edges: Tensor | None = None
) -> list[Block]:
    """The conditions at about `count` points a face (see `on_face`), and the measured values."""
    blocks = []
    for condition in system.conditions:
        if condition.periodic is None:
            points = torch.cat([on_face(face, system.box, count, edges) for face in condition.faces])
            blocks.append(Block(condition.name, condition.relation, points, weight))
        else:
            low, high = (
                on_face(((condition.periodic, float(end)),), system.box, count, edges)
                for end in system.box[condition.periodic]
            )
            blocks.append(Block(condition.name, condition.relation, low, weight, partner=high))
    for measured in system.measured:
        blocks.append(Block("data", measured.relation, measured.points, data_weight, target=measured.values))
    return blocks


def with_units(blocks: Sequence[Block], system: System, sizes: Tensor, solution: Field | None = None) -> list[Block]:
    """The blocks with the size of their terms as the unit of their residuals, so that units of the user cancel.

    Terms are measured at values of the given sizes, or at those of `solution` where they are smaller there.
    """
    return [replace(block, unit=unit_of(block.relation, system, sizes, block.points, solution)) for block in blocks]


def unit_of(
    relation: Relation, system: System, sizes: Tensor, points: Tensor, solution: Field | None = None, samples: int = 256
) -> float:
    """The largest root mean square of a term |dR/du_a| times the size of u_a, at points with values of that size.

    The size of a derivative is the unknown's divided by half the box's extent for each differentiation. With `solution`
    the slope dR/du_a is taken there too, and the smaller of the two counts.
    """
    half, drawn = system.half, np.random.default_rng(0)
    scale = [float(sizes[each.unknown] / (half ** half.new_tensor(each.index)).prod()) for each in relation.derivatives]
    at = points[: min(samples, len(points))] if solution is None else points[drawn.permutation(len(points))[:samples]]
    values = [drawn.standard_normal((len(at), len(scale))) * scale]
    if solution is not None:
        found = [solution.derivative(at, each.index)[:, each.unknown].cpu() for each in relation.derivatives]
        values.append(np.stack(found, axis=1))
    fixed = np.broadcast_to(system.guesses().cpu().numpy(), (len(at), len(system.vocabulary.constants)))
    rows = [np.concatenate([at.cpu().numpy(), each, fixed], axis=1) for each in values]
    terms = [np.nan_to_num(relation.slopes(each)[:, : len(scale)]) * scale for each in rows]
    return min(float(np.sqrt(np.mean(each**2, axis=0)).max()) for each in terms) or 1.0


def sizes_of(system: System, points: Float[Tensor, "points variables"], count: int = 60) -> Float[Tensor, " unknowns"]:
    """How large each unknown is: from data and conditions; where those are zero, from the equations' sources.

    1 where nothing says so.
    """
    sizes = system.box.new_zeros(len(system.vocabulary.unknowns))
    for block in condition_blocks(system, count, 1.0):
        if block.partner is not None:
            continue
        left = _at_zero(block.relation, system, block.points) if block.target is None else block.target
        for unknown, size in _implied(block.relation, system, left, block.points):
            sizes[unknown] = max(float(sizes[unknown]), size)
    if not bool((sizes > 0).any()):
        for relation in system.equations:
            for unknown, size in _implied(relation, system, _at_zero(relation, system, points), points):
                sizes[unknown] = max(float(sizes[unknown]), size)
    largest = float(sizes.max())
    return torch.where(sizes > 0, sizes, largest if largest > 0 else 1.0)


def _at_zero(relation: Relation, system: System, points: Tensor) -> Tensor:
    """The residual where all unknowns are zero."""
    width = len(relation.derivatives)
    guesses = system.guesses().expand(len(points), -1)
    arguments = torch.cat([points, points.new_zeros(len(points), width), guesses], dim=1)
    return torch.as_tensor(np.nan_to_num(relation.residual(arguments.cpu().numpy()))).to(points)


def _implied(relation: Relation, system: System, left: Tensor, points: Tensor) -> list[tuple[int, float]]:
    """(unknown, the size at which its terms in `relation` reach `left`)."""
    largest = float(left.abs().max())
    if largest == 0:
        return []
    ones = torch.ones(len(system.vocabulary.unknowns), dtype=points.dtype)
    unit = unit_of(relation, system, ones, points)
    return [(unknown, largest / unit) for unknown in {each.unknown for each in relation.derivatives}]
