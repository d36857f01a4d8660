"""Differential equations on a box with conditions, and points inside and on faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import sympy
import torch
from jaxtyping import Float
from scipy.stats import qmc
from torch import Tensor

from kanrun.formulas import variable
from kanrun.formulas.equations import Derivative, Relation, Vocabulary

#: A face of the box: numbers and values of the variables that are fixed there.
Face = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Condition:
    """A relation on faces of the box, or between both ends of a `periodic` variable."""

    relation: Relation
    faces: tuple[Face, ...] = ()
    periodic: int | None = None

    def places(self, box: Tensor) -> tuple[Face, ...]:
        """Return the faces, or the two ends of a periodic variable."""
        number = self.periodic
        return (
            self.faces if number is None else tuple(((number, float(end)),) for end in box[number])
        )

    def given(self) -> tuple[Derivative, sympy.Expr] | None:
        """Return the only derivative of the condition and its value.

        None for several derivatives, a factor that varies, and unknown parameters.
        """
        contained, expression = self.relation.derivatives, self.relation.expression
        if len(contained) != 1 or self.periodic is not None:
            return None
        name = variable(contained[0].name)
        slope = sympy.diff(expression, name)
        unknown = map(variable, self.relation.vocabulary.constants)
        if not slope.is_number or expression.has(*unknown):
            return None
        return contained[0], -expression.subs(name, 0) / slope


@dataclass(frozen=True)
class IncompatibleCorner:
    """A place where faces meet and a relation contradicts the conditions.

    `gap` is the contradiction relative to the largest term, at most 1.
    """

    face: Face
    relation: Relation
    gap: float


@dataclass(frozen=True)
class Observations:
    """Observed values (points,) of one unknown at points (points, variables).

    `relation` is unknown = 0.
    """

    relation: Relation
    points: Tensor
    values: Tensor


@dataclass(frozen=True)
class System:
    """Equations on `box` (variables, 2) with conditions and observations.

    Attributes:
        constants: Initial guesses of the unknown parameters.
        corners: Places where faces meet and conditions, their slopes or the equation contradict
            each other. The solution has infinite derivatives there.
    """

    vocabulary: Vocabulary
    box: Float[Tensor, "variables 2"]
    equations: tuple[Relation, ...]
    conditions: tuple[Condition, ...]
    observations: tuple[Observations, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    corners: tuple[IncompatibleCorner, ...] = ()

    @property
    def order(self) -> int:
        """Highest order of a derivative in the equations."""
        return max(each.order for each in self.equations)

    @cached_property
    def is_linear(self) -> bool:
        """Whether equations and conditions are linear in the unknowns."""
        relations = [*self.equations, *(each.relation for each in self.conditions)]
        return all(each.is_linear for each in relations)

    @property
    def derivatives(self) -> list[Derivative]:
        """The derivatives that the equations contain, in their order."""
        return [each for relation in self.equations for each in relation.derivatives]

    @cached_property
    def given(self) -> list[tuple[Condition, Derivative, sympy.Expr]]:
        """The conditions that give one derivative a value, see `Condition.given`."""
        found = ((each, each.given()) for each in self.conditions)
        return [(each, *given) for each, given in found if given is not None]

    def guesses(self) -> Float[Tensor, " constants"]:
        """Return the initial guesses of the unknown parameters, in the order of the vocabulary."""
        return self.box.new_tensor([self.constants[name] for name in self.vocabulary.constants])

    def between(self, start: float, end: float) -> System:
        """Return the system between two values of the last variable, started at the first."""
        last = len(self.box) - 1
        box, initial = self.box.clone(), (last, float(self.box[-1, 0]))
        box[-1] = box.new_tensor([start, end])

        def moved(face: Face) -> Face:
            return tuple((last, start) if each == initial else each for each in face)

        conditions = (replace(c, faces=tuple(map(moved, c.faces))) for c in self.conditions)
        return replace(self, box=box, conditions=tuple(conditions))

    def is_initial(self, condition: Condition) -> bool:
        """Return whether a condition holds where the last variable begins, and nowhere else."""
        start = len(self.box) - 1, float(self.box[-1, 0])
        return bool(condition.faces) and all(start in face for face in condition.faces)

    @property
    def is_evolution(self) -> bool:
        """Whether all conditions in the last variable are initial; windows are then possible."""
        last, end = len(self.box) - 1, float(self.box[-1, 1])
        faces = [face for each in self.conditions for face in each.faces]
        values = [value for face in faces for number, value in face if number == last]
        periodic = any(each.periodic == last for each in self.conditions)
        return bool(values) and end not in values and not periodic


def differentiate(expression: sympy.Expr, names: Sequence[str], index: Sequence[int]) -> sympy.Expr:
    """Return the derivative of a formula by the multi-index `index`."""
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
    """Return the first `count` points of a scrambled Sobol sequence in a box.

    If `edges` (breakpoints on [-1, 1]) are given, the fraction `following` of each variable's
    density is the same in all intervals, whatever their length; the rest stays uniform. A Sobol
    sequence must not be thinned by a stride: every fourth point lies in a quarter of the box.
    """
    sequence = qmc.Sobol(len(box), rng=np.random.default_rng(seed))
    # Powers of two are balanced.
    share = sequence.random_base2(max(0, (count - 1).bit_length()))[:count]
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
    """Return all combinations of Gauss-Legendre points, and their weights with mean 1.

    `pieces` holds, for each variable, the breakpoints on [-1, 1] and the number of points per
    interval.
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
    """Return about `count` points of a face, evenly spaced or on a regular grid.

    They follow `edges` (breakpoints on [-1, 1]), at least three for each: evenly spaced in every
    interval along one variable, and a low-discrepancy sequence along two, in which sums of products
    see as many values of each variable as there are points.
    """
    fixed = dict(face)
    free = [number for number in range(len(box)) if number not in fixed]
    if edges is not None and len(free) == 2:
        several = max(count, 3 * edges.shape[1])
        points = box[:, 0].repeat(several, 1)
        points[:, free] = low_discrepancy(box[free], several, several, edges[free])
        points[:, list(fixed)] = points.new_tensor(list(fixed.values()))
        return points
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
