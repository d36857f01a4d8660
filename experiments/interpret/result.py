"""What an interpretation is asked and what it answers."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic import (
    Candidate,
    Certificate,
    Decision,
    Formula,
    Graph,
    SearchPolicy,
    SearchStage,
    SimplificationPolicy,
    Tried,
    exactly,
    round_numbers,
    simplified,
    written,
)
from kanrun.formulas import to_numpy, variable
from kanrun.targets import Scaling

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """How a formula is sought: `hidden` fixes the network's hidden widths, trained with the weight `sparsity`
    (None: the shape is searched); a formula may be `slack` worse than the network and still stand for it. `dimensions`
    are the exponents of the base units of inputs and output; `program` is what searches."""

    candidates: tuple[Candidate, ...]
    hidden: tuple[int, ...] | None = None
    sparsity: float = 1e-3
    slack: float = 0.1
    policy: SearchPolicy = field(default_factory=SearchPolicy)
    dimensions: Array | None = None
    program: str = "kanrun"


@dataclass(frozen=True)
class SourceNetwork:
    """A network trained elsewhere: `itself`, and as a graph, `whole` and `pruned`.

    `difference` is the largest between itself and whole; `faithful` is whether that is small beside its own error.
    """

    itself: Callable[[Array], Array]
    whole: Graph
    pruned: Graph
    difference: float
    faithful: bool


@dataclass(frozen=True)
class Check:
    """What the result is held against: points (x, y) that nothing was chosen on, and the truth where it is known."""

    x: Array
    y: Array
    domain: Array
    truth: Callable[[Array], Array] | None = None
    expression: sympy.Expr | None = None


@dataclass(frozen=True)
class Interpretation:
    """The outcome.

    `outcome` is `exact` (the formula gives all points to rounding), `formula` (as good as the network), `partly
    numeric` (the formula has functions f1, f2, ... where no candidate was good enough), or `failed`, with `formula`
    None; `sentence` says what happened. `approximation` is the best formula of candidates alone where that is worse
    than the network; `decisions` say of every edge whether it became symbolic, and why not.
    """

    outcome: str
    sentence: str
    formula: Formula | None
    network: Callable[[Array], Array] | None
    certificate: Certificate | None
    structure: str
    seconds: float
    tried: Tried | None = None
    steps: tuple[SearchStage, ...] = field(default=(), repr=False)
    approximation: Formula | None = None
    decisions: tuple[Decision, ...] = ()
    relative: bool = False  # noise was found to be in proportion to y, so that errors are those of its logarithm

    @property
    def stages(self) -> list[SearchStage]:
        """The steps of the structure chosen, the last one of each stage."""
        return list({step.stage: step for step in self.steps if step.name == self.structure}.values())

    def __str__(self) -> str:
        return str(self.formula) if self.formula else self.sentence

    def __repr__(self) -> str:
        return f"Interpretation({self.outcome}: {self})"

    def _repr_html_(self) -> str:
        said = f"<p>{html.escape(self.sentence)}</p>"
        return self.formula._repr_html_() + said if self.formula else said


def tens(values: Array) -> Scaling:
    """Powers of ten that bring columns (N, features) of very large or very small numbers near one; units such as metres
    for distances between stars must not decide what is found. Others stay as they are: formulas have simple constants
    in their own units."""
    size = np.abs(values).max(axis=0, initial=0.0)
    far = (size > 0) & ((size > _LARGE) | (size < 1 / _LARGE))
    exponents = np.floor(np.log10(np.where(far, size, 1.0)))
    return Scaling(np.zeros(size.size), np.array([float(f"1e{int(k)}") for k in exponents]))


#: Numbers of this size are scaled.
_LARGE = 1e3
#: Formulas in the user's units are simplified once more.
_RESCALED = SimplificationPolicy(budget=0.5)
#: Relative difference of values at which a number is another one that is written differently.
_SAME = 1e-12


def in_units(formula: Formula, inputs: Scaling, out_shift: float, out_scale: float, points: Array) -> Formula:
    """A formula that was found on scaled data, in the user's units; `points` (N, d) are in the user's units too."""

    def number(value: float) -> sympy.Expr:
        rounded = f"{value:.0e}"
        power_of_ten = value > 0 and rounded.startswith("1e") and float(rounded) == value
        return sympy.Rational(str(value)) if power_of_ten else sympy.Float(value, 17)

    scales = zip(formula.names, inputs.shift.tolist(), inputs.scale.tolist(), strict=True)
    swap = {variable(name): (variable(name) - (sympy.Float(s, 17) if s else 0)) / number(c) for name, s, c in scales}
    expression = exactly(formula.expression).xreplace(swap) * number(out_scale)
    if out_shift:
        return replace(formula, expression=expression + sympy.Float(out_shift, 17))
    if not formula.splines:
        values = to_numpy(expression, formula.names)(points)

        def same(form: sympy.Expr) -> bool:
            return np.allclose(to_numpy(form, formula.names)(points), values, rtol=_SAME, atol=0, equal_nan=True)

        expression = round_numbers(expression, same)
        expression = written(simplified(expression, formula.names, points, _RESCALED))
    return replace(formula, expression=expression)
