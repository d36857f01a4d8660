"""Targets that a formula defines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from kanrun.config import ExpressionTarget
from kanrun.formulas import parse, to_numpy, variables_in
from kanrun.targets.data import Array, Target
from kanrun.targets.domains import check_finite, read_domain


@dataclass(frozen=True)
class OneOutput:
    """A function (N, d) to (N, 1) from one to (N,)."""

    value: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        return self.value(x)[:, None]


def formula_target(
    name: str, expression: sympy.Expr, inputs: Sequence[str], domain: Any, default: Any = None
) -> Target:
    """The target of an expression in `inputs`, with its domain read and its values on it checked."""
    box = read_domain(domain, len(inputs), default)
    function = OneOutput(to_numpy(expression, inputs))
    return check_finite(Target(name, tuple(inputs), ("y",), box, expression, function))


def build_expression(config: ExpressionTarget) -> Target:
    """The user's formula. Its inputs are the variables written in it, also one that cancels such as x2 in
    x0 + 0*x2, so that irrelevant inputs can be had."""
    expression = parse(config.formula)
    text = " ".join(config.formula.split())
    name = text if len(text) <= 60 else text[:57] + "..."
    return formula_target(name, expression, variables_in(config.formula), config.domain)
