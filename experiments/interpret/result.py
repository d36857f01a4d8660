"""The question and the answer of an interpretation, in the units of a search and in the user's."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic import (
    EXACT,
    Candidate,
    Certificate,
    Decision,
    FittedStructure,
    Formula,
    Graph,
    SearchData,
    SearchPolicy,
    SearchStage,
    as_written,
    equivalent_forms,
    exact_decimals,
    rename_variables,
    round_numbers,
)
from kanrun.errors import UsageError
from kanrun.formulas import as_variables, to_numpy, variable
from kanrun.runs.records import Note
from kanrun.targets import Scaling

Array = NDArray[np.float64]

#: Size of numbers above which (or below its reciprocal) a column is scaled.
_LARGE = 1e3
#: Work of simplifying formulas in the user's units once more.
_RESCALED = 0.5


@dataclass(frozen=True)
class Options:
    """Settings of an interpretation.

    Attributes:
        candidates: Functions that edges may become.
        hidden: Hidden widths of the network; None searches the shape.
        sparsity: Weight of the sparsity penalty of a network of fixed shape.
        error_tolerance: Relative increase of the network's error that a formula may cause.
        policy: Policy of the search.
        backend: Program that searches.
    """

    candidates: tuple[Candidate, ...]
    hidden: tuple[int, ...] | None = None
    sparsity: float = 1e-3
    error_tolerance: float = 0.1
    policy: SearchPolicy = field(default_factory=SearchPolicy)
    backend: str = "kanrun"


@dataclass(frozen=True)
class SourceNetwork:
    """A network trained elsewhere: `itself`, and as a graph, `whole` and `pruned`.

    `difference` is the largest between itself and whole; `faithful` says whether that is small
    compared with its error.
    """

    itself: Callable[[Array], Array]
    whole: Graph
    pruned: Graph
    difference: float
    faithful: bool


@dataclass(frozen=True)
class VerificationData:
    """Points (x, y) that nothing was chosen on, their domain, and the true function if known."""

    x: Array
    y: Array
    domain: Array
    truth: Callable[[Array], Array] | None = None
    expression: sympy.Expr | None = None


@dataclass(frozen=True)
class InterpretationProblem:
    """One output to interpret.

    Attributes:
        inputs: Names of the inputs.
        samples: Points of the search, in its units.
        held_out: Points of the verification, in the units of the search.
        scaling: From the user's inputs to the units of the search.
        unit: The output of the search is the user's less `shift`, divided by `unit`.
        shift: See `unit`.
        network: A network trained elsewhere, in the units of the search.
        dimensions: Exponents of the base units of the inputs and the output, if they are known.
        name: Name of the target (and output).
        output: Name of the output.
        only: Whether the target has no other output.
        kind: Kind of the target.
        noise: Relative noise of the samples.
        notes: Notes on the data.
    """

    inputs: tuple[str, ...]
    samples: SearchData
    held_out: VerificationData
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
        """Return the samples in the user's units."""
        return self.scaling.invert(self.samples.x), self.samples.y * self.unit + self.shift

    def restored(self, result: Interpretation) -> Interpretation:
        """Return the result in the user's units and, if formulas can contain them, names."""
        names, certificate = as_variables(self.inputs), result.certificate
        formula, approximation = (
            rename_variables(self._restored_formula(f), names) if f else None
            for f in (result.formula, result.approximation)
        )
        if certificate is not None:
            errors = ("difference", "formula_rmse", "network_rmse")
            scaled = {name: self.unit * getattr(certificate, name) for name in errors}
            certificate = replace(certificate, **scaled)
        return replace(
            result,
            formula=formula,
            approximation=approximation,
            network=self._restored_function(result.network) if result.network else None,
            certificate=certificate,
        )

    def _restored_function(self, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda x: self.unit * function(self.scaling.apply(x)) + self.shift

    def _restored_formula(self, formula: Formula) -> Formula:
        shifts, scales = self.scaling.shift.tolist(), self.scaling.scale.tolist()
        if not any(shifts) and not self.shift and {self.unit, *scales} == {1.0}:
            return formula
        names = formula.names
        swap = {
            variable(name): (variable(name) - _number(shift)) / _number(scale)
            for name, shift, scale in zip(names, shifts, scales, strict=True)
        }
        expression = exact_decimals(formula.expression).xreplace(swap) * _number(self.unit)
        expression += _number(self.shift)
        if formula.splines:
            return replace(formula, expression=expression, values=self._restored_function(formula))
        if not self.shift:
            points = self.scaling.invert(self.samples.validation_x)
            values = to_numpy(expression, names)(points)

            def same(form: sympy.Expr) -> bool:
                other = to_numpy(form, names)(points)
                return np.allclose(other, values, rtol=EXACT, atol=0, equal_nan=True)

            rounded = round_numbers(expression, same)
            expression = as_written(equivalent_forms(rounded, names, points, _RESCALED)[0])
        return replace(formula, expression=expression)


def _number(value: float) -> sympy.Expr:
    """Return 0 and powers of ten exactly, other numbers as decimal numbers."""
    text = f"{value:.0e}"
    is_exact = value == 0 or (text.startswith("1e") and float(text) == value)
    return sympy.Rational(text) if is_exact else sympy.Float(value, 17)


@dataclass(frozen=True)
class Interpretation:
    """The result of an interpretation.

    Attributes:
        outcome: `exact` (the formula reproduces all points, or is the known true formula),
            `formula` (as good as the network), `partly numeric` (it contains functions f1, f2, ...
            where no candidate was good enough), `wrong` (it reproduces all points, but is not the
            known true formula), or `failed`, without a formula.
        sentence: The outcome as a sentence.
        formula: The formula, a function of points (samples, inputs).
        network: The network that it was compared with, or verified against.
        certificate: The verification.
        structure: Name of the structure that was chosen.
        seconds: Time of the search.
        structure_fit: The structure that was chosen, with its network and the matches of its edges.
        steps: Stages of all structures.
        approximation: The best formula of candidates alone, if it is worse than the network.
        decisions: For every edge, whether it became symbolic, and the reason.
        relative: Whether noise is proportional to the output, so that errors are those of its
            logarithm.
    """

    outcome: str
    sentence: str
    formula: Formula | None = None
    network: Callable[[Array], Array] | None = None
    certificate: Certificate | None = None
    structure: str = ""
    seconds: float = 0.0
    structure_fit: FittedStructure | None = None
    steps: tuple[SearchStage, ...] = field(default=(), repr=False)
    approximation: Formula | None = None
    decisions: tuple[Decision, ...] = ()
    relative: bool = False

    @property
    def stages(self) -> list[SearchStage]:
        """Steps of the structure chosen, the last one of each stage."""
        chosen = {step.stage: step for step in self.steps if step.name == self.structure}
        return list(chosen.values())

    def __str__(self) -> str:
        return str(self.formula) if self.formula else self.sentence

    def __repr__(self) -> str:
        return f"Interpretation({self.outcome}: {self})"

    def _repr_html_(self) -> str:
        said = f"<p>{html.escape(self.sentence)}</p>"
        return self.formula._repr_html_() + said if self.formula else said


def decimal_scales(values: Array) -> Scaling:
    """Return powers of ten that bring very large or small columns (samples, features) near one.

    Units such as metres for distances between stars must not decide what is found. Other columns
    stay unchanged: formulas have simple constants in their own units.
    """
    size = np.abs(values).max(axis=0, initial=0.0)
    far = (size > 0) & ((size > _LARGE) | (size < 1 / _LARGE))
    exponents = np.floor(np.log10(np.where(far, size, 1.0)))
    return Scaling(np.zeros(size.size), np.array([float(f"1e{int(k)}") for k in exponents]))


def check_inputs(x: Array) -> None:
    """Raise UsageError if no input varies."""
    if not (np.ptp(x, axis=0) > 0).any():
        raise UsageError("No input varies: there is nothing that the output could depend on.")
