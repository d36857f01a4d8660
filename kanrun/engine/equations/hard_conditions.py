"""Conditions built into the form of a solution: u = g(x) + b(x) N(x), b zero on the faces of these conditions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy
import torch
from torch import Tensor

from kanrun.engine.equations.jets import Index, Monomials
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.forms import NumpyFunction
from kanrun.formulas.parsing import parse_expression


@dataclass(frozen=True)
class HardConditions:
    """g and b of each unknown as formulas of `variables`; text, so that they are stored and read as formulas are."""

    variables: tuple[str, ...]
    offsets: tuple[str, ...]
    factors: tuple[str, ...]

    @cached_property
    def _parsed(self) -> tuple[list[sympy.Expr], list[sympy.Expr]]:
        return (
            [parse_expression(text, self.variables) for text in self.offsets],
            [parse_expression(text, self.variables) for text in self.factors],
        )

    @cached_property
    def _compiled(self) -> dict[tuple[bool, int, Index], NumpyFunction]:
        return {}

    def __deepcopy__(self, memo: dict[int, object]) -> HardConditions:
        """Itself: nothing in it changes, and its compiled formulas are many."""
        return self

    def apply(self, jets: Tensor, x: Tensor, monomials: Monomials) -> Tensor:
        """g + b N from N's jets (components, points, unknowns) in the user's units."""
        offset, factor = (self._jets(x, monomials, of_factor=each) for each in (False, True))
        return offset + monomials.multiply(factor, jets)

    def _jets(self, x: Tensor, monomials: Monomials, *, of_factor: bool) -> Tensor:
        points = x.detach().cpu().numpy()
        columns = []
        for index in monomials.indices:
            parts = [self._function(of_factor, unknown, index)(points) for unknown in range(len(self.offsets))]
            columns.append(np.stack(parts, axis=1) / monomials.factorial(index))
        return torch.as_tensor(np.stack(columns)).to(x)

    def _function(self, of_factor: bool, unknown: int, index: Index) -> NumpyFunction:
        key = (of_factor, unknown, index)
        if key not in self._compiled:
            expression = self._parsed[of_factor][unknown]
            for name, times in zip(self.variables, index, strict=True):
                expression = sympy.diff(expression, variable(name), times) if times else expression
            found = to_numpy(expression, self.variables)
            assert isinstance(found, NumpyFunction)  # which is what to_numpy makes
            self._compiled[key] = found
        return self._compiled[key]
