"""Conditions built into the form of a solution: u = g(x) + b(x) N(x), b zero on the faces of these conditions.

g satisfies the conditions by itself, one variable after the other: with the Hermite polynomials H of the ends e and the
orders m that have conditions, g <- g + sum H_em(x_i) (value_em - d^m g / dx_i^m at x_i = e), the Boolean sum of Gordon
(1971). b is the product of (x_i - e) to the number of conditions there, scaled to 1 inside the box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile

import numpy as np
import sympy
import torch
from torch import Tensor

from kanrun.engine.equations.jets import Monomials
from kanrun.engine.equations.system import System, differentiated
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.forms import NumpyFunction
from kanrun.formulas.parsing import parse_expression

#: For each variable, for each of its ends: the value of the unknown there, then of its derivatives across.
_Given = Mapping[int, Mapping[sympy.Expr, Sequence[sympy.Expr]]]


@dataclass(frozen=True)
class HardConditions:
    """g and b of each unknown as formulas of `variables`; text, so that they are stored and read as formulas are."""

    variables: tuple[str, ...]
    offsets: tuple[str, ...]
    factors: tuple[str, ...]

    @cached_property
    def _compiled(self) -> dict[tuple[str, tuple[int, ...]], NumpyFunction]:
        return {}

    def __deepcopy__(self, memo: dict[int, object]) -> HardConditions:
        """Itself: nothing in it changes, and its compiled formulas are many."""
        return self

    def apply(self, jets: Tensor, x: Tensor, monomials: Monomials) -> Tensor:
        """g + b N from N's jets (components, points, unknowns) in the user's units."""
        offset, factor = (self._jets(texts, x, monomials) for texts in (self.offsets, self.factors))
        return offset + monomials.multiply(factor, jets)

    def _jets(self, texts: Sequence[str], x: Tensor, monomials: Monomials) -> Tensor:
        points, components = x.detach().cpu().numpy(), []
        for index in monomials.indices:
            columns = [
                self._function(text, index)(points) / monomials.factorial(index) for text in texts
            ]
            components.append(np.stack(columns, axis=1))
        return torch.as_tensor(np.stack(components)).to(x)

    def _function(self, text: str, index: tuple[int, ...]) -> NumpyFunction:
        if (text, index) not in self._compiled:
            expression = differentiated(
                parse_expression(text, self.variables), self.variables, index
            )
            found = to_numpy(expression, self.variables)
            assert isinstance(found, NumpyFunction)  # which is what to_numpy makes
            self._compiled[text, index] = found
        return self._compiled[text, index]


def hard_conditions(system: System, *, last: bool) -> HardConditions | None:
    """All conditions of the system that can be built in; None where there is none.

    These give an unknown, or its derivative across the face, on a whole face of the box, with all lower derivatives
    given there too; other conditions stay residuals. `last` says whether those of the last variable are built in. They
    hold where conditions do not contradict each other where their faces meet.
    """
    names, box = system.vocabulary.variables, system.box
    offsets, factors = [], []
    for unknown in range(len(system.vocabulary.unknowns)):
        offset, factor = sympy.Integer(0), sympy.Integer(1)
        given = _given(system, unknown, range(len(names) if last else len(names) - 1))
        for number, ends in given.items():
            x = variable(names[number])
            low, high = (sympy.Rational(repr(float(end))) for end in box[number])
            orders = [(end, order) for end, values in ends.items() for order in range(len(values))]
            offset += sum(
                polynomial
                * (ends[end][order] - differentiated(offset, [x.name], [order])).subs(x, end)
                for (end, order), polynomial in zip(orders, _hermite(x, orders), strict=True)
            )
            for end, values in ends.items():
                towards = (x - end) if end == low else (end - x)
                factor *= (len(ends) * towards / (high - low)) ** len(values)
        offsets.append(str(offset))
        factors.append(str(factor))
    return None if set(factors) == {"1"} else HardConditions(names, tuple(offsets), tuple(factors))


def _given(system: System, unknown: int, variables: range) -> _Given:
    said: dict[int, dict[sympy.Expr, dict[int, sympy.Expr]]] = {}
    for condition in system.conditions:
        found = condition.said()
        for face in condition.faces if found is not None and found[0].unknown == unknown else ():
            assert found is not None  # an invariant: no faces are gone through without
            (number, place), *more = face
            end, order = sympy.Rational(repr(place)), found[0].index[number]
            if number in variables and not more and sum(found[0].index) == order:
                value = found[1].subs(variable(system.vocabulary.variables[number]), end)
                said.setdefault(number, {}).setdefault(end, {})[order] = sympy.expand(value)
    return {
        number: kept
        for number, ends in sorted(said.items())
        if (
            kept := {
                end: [orders[order] for order in takewhile(orders.__contains__, count())]
                for end, orders in ends.items()
                if 0 in orders
            }
        )
    }


def _hermite(x: sympy.Symbol, orders: Sequence[tuple[sympy.Expr, int]]) -> list[sympy.Expr]:
    """For each (end, order) the polynomial whose derivative of that order is 1 there, all others being 0."""
    powers = [sympy.S.One * x**p for p in range(len(orders))]
    rows = sympy.Matrix(
        [
            [differentiated(each, [x.name], [order]).subs(x, end) for each in powers]
            for end, order in orders
        ]
    )
    return list(sympy.Matrix([powers]) * sympy.Matrix(rows).inv())
