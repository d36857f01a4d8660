"""A differential equation on a box with its conditions: what is known of the solution, and where points lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sympy
import torch
from jaxtyping import Float
from scipy.stats import qmc
from torch import Tensor

from kanrun.formulas import variable
from kanrun.formulas.equations import Derivative, Relation, Vocabulary

#: A face of the box: the variables that are fixed there, by number, and their values.
Face = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Condition:
    """A relation that holds on faces of the box or, for a `periodic` variable, between the two ends of its range."""

    name: str
    relation: Relation
    faces: tuple[Face, ...] = ()
    periodic: int | None = None

    def places(self, box: Tensor) -> tuple[Face, ...]:
        """The faces, or the two ends of a periodic variable."""
        number = self.periodic
        return (
            self.faces if number is None else tuple(((number, float(end)),) for end in box[number])
        )

    def said(self) -> tuple[Derivative, sympy.Expr] | None:
        """The condition's one derivative and what it says this is; None where it holds several, a factor that varies,
        or sought constants."""
        held, expression = self.relation.derivatives, self.relation.expression
        if len(held) != 1 or self.periodic is not None:
            return None
        name = variable(held[0].name)
        slope = sympy.diff(expression, name)
        if not slope.is_number or expression.has(
            *map(variable, self.relation.vocabulary.constants)
        ):
            return None
        return held[0], -expression.subs(name, 0) / slope


@dataclass(frozen=True)
class Corner:
    """Where faces meet and a relation contradicts the conditions there, by a share of its largest term, at most 1."""

    face: Face
    relation: Relation
    share: float


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
    def order(self) -> int:
        """The highest order of a derivative in the equations."""
        return max(each.order for each in self.equations)

    def guesses(self) -> Float[Tensor, " constants"]:
        """The first guesses, in the vocabulary's order."""
        return self.box.new_tensor([self.constants[name] for name in self.vocabulary.constants])

    def until(self, start: float, end: float) -> System:
        """The same system between two values of the last variable, with the conditions of its lower end at `start`."""
        box, began = self.box.clone(), (len(self.box) - 1, float(self.box[-1, 0]))
        box[-1] = box.new_tensor([start, end])

        def moved(face: Face) -> Face:
            return tuple((began[0], start) if each == began else each for each in face)

        conditions = (
            replace(each, faces=tuple(map(moved, each.faces))) for each in self.conditions
        )
        return replace(self, box=box, conditions=tuple(conditions))

    @property
    def evolves(self) -> bool:
        """Whether nothing is asked at the upper end of the last variable, so that it can be solved in windows."""
        last, end = len(self.box) - 1, float(self.box[-1, 1])
        fixed = [
            value
            for each in self.conditions
            for face in each.faces
            for number, value in face
            if number == last
        ]
        return (
            bool(fixed)
            and end not in fixed
            and all(each.periodic != last for each in self.conditions)
        )


def differentiated(
    expression: sympy.Expr, names: Sequence[str], index: Sequence[int]
) -> sympy.Expr:
    """The derivative of a formula by the multi-index `index`."""
    for name, times in zip(names, index, strict=True):
        expression = sympy.diff(expression, variable(name), times) if times else expression
    return expression


def low_discrepancy(
    box: Tensor,
    count: int,
    seed: int,
    edges: Float[Tensor, "variables ends"] | None = None,
    following: float = 0.5,
) -> Float[Tensor, "points variables"]:
    """The first `count` points of a scrambled Sobol sequence in a box.

    Where `edges` (of intervals, on [-1, 1]) are not evenly spaced, the share `following` of each variable's density is
    equal in all intervals, whatever their length; the rest stays uniform.
    """
    sequence = qmc.Sobol(len(box), rng=np.random.default_rng(seed))
    share = sequence.random_base2(max(0, (count - 1).bit_length()))[
        :count
    ]  # powers of two are balanced
    if edges is not None:
        places = (edges.cpu().numpy() + 1) / 2
        even = np.linspace(0, 1, places.shape[1])
        share = np.stack(
            [
                np.interp(s, following * even + (1 - following) * p, p)
                for s, p in zip(share.T, places, strict=True)
            ],
            axis=1,
        )
    return box[:, 0] + torch.as_tensor(share).to(box) * box.diff()[:, 0]


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
        shares = torch.outer(
            shares, torch.as_tensor((width / 2 * weights / 2).reshape(-1))
        ).reshape(-1)
    return torch.cartesian_prod(*axes).reshape(len(shares), -1), (shares * len(shares)).to(box)


def on_face(
    face: Face, box: Tensor, count: int, edges: Float[Tensor, "variables ends"] | None = None
) -> Float[Tensor, "points variables"]:
    """About `count` points of a face: evenly spaced along one free variable, a regular grid in two.

    Along one variable they are evenly spaced in every interval of `edges` (on [-1, 1]), three in each or more.
    """
    fixed = dict(face)
    free = [number for number in range(len(box)) if number not in fixed]
    each = max(2, round(count ** (1 / max(len(free), 1))))
    shares = [torch.linspace(0, 1, each, dtype=box.dtype) for _ in free]
    if edges is not None and len(free) == 1:
        ends = ((edges[free[0]].cpu().numpy() + 1) / 2).clip(0, 1)
        place = np.linspace(0, len(ends) - 1, max(count, 3 * len(ends) - 2))
        shares = [torch.as_tensor(np.interp(place, range(len(ends)), ends))]
    axes = [
        box[n, 0] + shares[free.index(n)] * box[n].diff()
        if n in free
        else box.new_tensor([fixed[n]])
        for n in range(len(box))
    ]
    return torch.cartesian_prod(*axes).reshape(-1, len(box)).to(box)
