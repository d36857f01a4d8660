"""What an interpretation is asked and what it answers, in the units of a search and in the user's."""

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
    FittedStructure,
    Formula,
    Graph,
    SearchData,
    SearchPolicy,
    SearchStage,
    SimplificationPolicy,
    as_written,
    exact_decimals,
    rename_variables,
    round_numbers,
    simplify_expression,
)
from kanrun.formulas import as_variables, to_numpy, variable
from kanrun.runs.records import Note
from kanrun.targets import Scaling

Array = NDArray[np.float64]

#: Numbers of this size are scaled.
_LARGE = 1e3
#: Formulas in the user's units are simplified once more.
_RESCALED = SimplificationPolicy(budget=0.5)
#: Relative difference of values at which a number is another one that is written differently.
_SAME = 1e-12


@dataclass(frozen=True)
class Options:
    """How a formula is sought: `hidden` fixes the network's hidden widths, trained with the weight `sparsity`
    (None: the shape is searched); a formula may be `error_tolerance` worse than the network and still stand for it. `backend` is
    what searches."""

    candidates: tuple[Candidate, ...]
    hidden: tuple[int, ...] | None = None
    sparsity: float = 1e-3
    error_tolerance: float = 0.1
    policy: SearchPolicy = field(default_factory=SearchPolicy)
    backend: str = "kanrun"


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
class InterpretationProblem:
    """One output to interpret. `samples`, `check` and `network` are in the units of a search: inputs under `scaling`,
    the output less `shift` and divided by `unit`. `only` is whether the target has no other output; `dimensions` are
    the exponents of the base units of the inputs and the output, where they are known."""

    inputs: tuple[str, ...]
    samples: SearchData
    check: Check
    scaling: Scaling
    unit: float
    shift: float = 0.0
    network: SourceNetwork | None = None
    dimensions: Array | None = None
    name: str = "y"
    output: str = "y"
    only: bool = True
    kind: str = ""
    noise: float = 0.0
    notes: tuple[Note, ...] = ()

    def points(self) -> tuple[Array, Array]:
        """The samples in the user's units."""
        return self.scaling.invert(self.samples.x), self.samples.y * self.unit + self.shift

    @property
    def graph_difference(self) -> float | None:
        """The largest difference between a given network and its graph, in the user's units."""
        return self.network.difference * self.unit if self.network is not None else None

    def restored(self, result: Interpretation) -> Interpretation:
        """The result with its formulas, network and errors in the user's units and, where they can stand in a formula,
        names."""
        network, certificate, names = result.network, result.certificate, as_variables(self.inputs)
        formulas = [
            rename_variables(self._formula(f), names) if f else None
            for f in (result.formula, result.approximation)
        ]
        if network is not None:
            given = network
            network = lambda x: self.unit * given(self.scaling.apply(x)) + self.shift  # noqa: E731
        if certificate is not None:
            errors = {
                name: self.unit * getattr(certificate, name)
                for name in ("difference", "formula_rmse", "network_rmse")
            }
            certificate = replace(certificate, **errors)
        return replace(
            result,
            formula=formulas[0],
            approximation=formulas[1],
            network=network,
            certificate=certificate,
        )

    def _formula(self, formula: Formula) -> Formula:
        """A formula that was found on scaled data, in the user's units."""
        scaled = self.scaling.shift.any() or (self.scaling.scale != 1).any()
        if not scaled and self.unit == 1 and self.shift == 0:
            return formula

        def number(value: float) -> sympy.Expr:
            rounded = f"{value:.0e}"
            power_of_ten = value > 0 and rounded.startswith("1e") and float(rounded) == value
            return sympy.Rational(str(value)) if power_of_ten else sympy.Float(value, 17)

        names = formula.names
        columns = zip(
            map(variable, names),
            self.scaling.shift.tolist(),
            self.scaling.scale.tolist(),
            strict=True,
        )
        swap = {
            name: (name - (sympy.Float(shift, 17) if shift else 0)) / number(scale)
            for name, shift, scale in columns
        }
        expression = exact_decimals(formula.expression).xreplace(swap) * number(self.unit)
        if self.shift:
            return replace(formula, expression=expression + sympy.Float(self.shift, 17))
        if not formula.splines:
            points = self.scaling.invert(self.samples.validation_x)
            values = to_numpy(expression, names)(points)

            def same(form: sympy.Expr) -> bool:
                return np.allclose(
                    to_numpy(form, names)(points), values, rtol=_SAME, atol=0, equal_nan=True
                )

            expression = as_written(
                simplify_expression(round_numbers(expression, same), names, points, _RESCALED)
            )
        return replace(formula, expression=expression)


@dataclass(frozen=True)
class Interpretation:
    """The outcome.

    `outcome` is `exact` (the formula gives all points to rounding, or is the known truth), `formula` (as good as the
    network), `partly numeric` (the formula has functions f1, f2, ... where no candidate was good enough), `wrong` (it
    gives all points, but is not the known truth), or `failed`, with `formula` None; `sentence` says what happened.
    `approximation` is the best formula of candidates alone where that is worse than the network; `decisions` say of
    every edge whether it became symbolic, and why not.
    """

    outcome: str
    sentence: str
    formula: Formula | None = None
    network: Callable[[Array], Array] | None = None
    certificate: Certificate | None = None
    structure: str = ""
    seconds: float = 0.0
    tried: FittedStructure | None = None
    steps: tuple[SearchStage, ...] = field(default=(), repr=False)
    approximation: Formula | None = None
    decisions: tuple[Decision, ...] = ()
    relative: bool = (
        False  # noise was found to be in proportion to y, so that errors are those of its logarithm
    )

    @property
    def stages(self) -> list[SearchStage]:
        """The steps of the structure chosen, the last one of each stage."""
        return list(
            {step.stage: step for step in self.steps if step.name == self.structure}.values()
        )

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
