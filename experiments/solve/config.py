"""Settings of `kanrun solve`: the equation and the solver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from kanrun.config import (
    DISTINCT,
    FREE_TEXT,
    INCREASING,
    MISSING,
    Count,
    ExperimentConfig,
    Positive,
    copied,
    experiment,
)

#: Setting of any type: number, string, list or mapping. Mappings have no type of their own, because
#: the command line may set a key that the mapping does not have yet.
AsTyped = Annotated[Any, FREE_TEXT]


@dataclass
class EquationConfig:
    """One or more differential equations on a box, with conditions and observations."""

    name: Annotated[str, "name in tables and figures"] = "own"
    variables: Annotated[
        AsTyped, "range of each variable, such as {x: [0,1], t: [0,1]}; time comes last"
    ] = MISSING
    unknowns: Annotated[list[str], Meta(min_length=1), "unknown functions", DISTINCT] = copied(
        ["u"]
    )
    constants: Annotated[AsTyped, "numbers by name, for use in all formulas"] = None
    continuation: Annotated[
        AsTyped,
        "parameter continuation: values of constants to solve for first, each solution being "
        "the initial guess for the next: {nu: [0.1, 0.03]}",
    ] = None
    formula: Annotated[AsTyped, "the equation, such as u_t = u_xx; a list for a system"] = MISSING
    conditions: Annotated[
        AsTyped,
        "sentences: ['u = 0 at x=0, x=1', 'periodic in y']; or by name: {at: 'x=0, x=1', "
        "formula: 'u = 0'}, {periodic: y, formula: 'u = 0'}",
    ] = None
    exact: Annotated[AsTyped, "formula of the solution, if known; a list for a system"] = None
    reference: Annotated[
        AsTyped,
        "table with the variables and unknowns as columns: known values at some points, at "
        "which the run reports errors: a file, columns by name, or the name of a table of the "
        "program",
    ] = None
    unknown_parameters: Annotated[AsTyped, "unknown parameters with initial guesses"] = None
    data: Annotated[
        AsTyped,
        "measurements: a table with the variables and unknowns as columns, or {points: 200, "
        "noise: 0.01, constants: {...}} to draw them from a reference solution",
    ] = None
    intervals: Annotated[
        Annotated[list[Count], Meta(min_length=1)] | None,
        "grids in turn; null is as fine as helps, in general 5, 10, 20, 40 and finer ones",
        INCREASING,
    ] = None

    def check(self) -> None:
        """Raise UsageError if an equation cannot be parsed."""
        from kanrun.formulas.equation_syntax import Vocabulary, read_relation

        constants = (*(self.unknown_parameters or ()), *(self.constants or ()))
        vocabulary = Vocabulary(tuple(self.variables), tuple(self.unknowns), constants)
        equations = self.formula if isinstance(self.formula, list | tuple) else [self.formula]
        for text in equations:
            read_relation(str(text), vocabulary)
        # Values are checked after names, because this import loads sympy.
        from kanrun.formulas.equations import parse_relation

        for text in equations:
            parse_relation(str(text), vocabulary)

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error for each setting that must be a mapping but is not."""
        for name in ("variables", "constants", "continuation", "conditions", "unknown_parameters"):
            value = getattr(self, name)
            sentences = name == "conditions" and isinstance(value, list | tuple)
            if not sentences and not isinstance(value, Mapping | None) and value != MISSING:
                yield f"{at}{name}={value} must be a mapping, such as {{x: [0,1]}}."


@dataclass
class NetworkConfig:
    """KAN that is trained instead of the one that fits the equation; null keeps the default."""

    hidden: Annotated[list[Count], "nodes of the hidden layers"] = copied([])
    terms: Annotated[
        Count | None, "products that are summed; null is as many as help, 1 for one variable"
    ] = None
    factors: Annotated[Count | None, "factors of each product; null is one per variable"] = None
    degree: Annotated[
        Annotated[int, Meta(ge=1, le=20)] | None,
        "degree of the splines; null is 5, or 2 more than the order of the equation if that is "
        "larger",
    ] = None


@experiment(
    "solve",
    "Solve a differential equation and report its reliability.",
    examples=(
        "kanrun solve",
        "kanrun solve equation=pendulum",
        "kanrun solve 'equation.variables={x: [0,1]}' 'equation.formula=u_xx = -u' "
        '\'equation.conditions=["u = 0 at x=0","u_x = 1 at x=0"]\'',
        "kanrun solve -m equation=heat,wave,beam",
        "kanrun solve study=paper",
    ),
    implied=dict.fromkeys(("equation.variables", "equation.formula"), "equation=own"),
    figures=("convergence", "windows", "solution"),
)
@dataclass
class SolveConfig(ExperimentConfig):
    """`kanrun solve`."""

    equation: Annotated[EquationConfig, "equation to solve"] = copied(EquationConfig())
    network: Annotated[NetworkConfig, "KAN that represents the solution"] = copied(NetworkConfig())
    tolerance: Annotated[
        float,
        Meta(ge=1e-12, le=0.1),
        "estimated relative L2 error at which a solution in windows of time or on tensor "
        "products of splines ends",
    ] = 1e-06
    budget: Annotated[Positive, "total work, in approximate seconds of one core"] = 60.0
