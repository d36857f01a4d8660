"""The settings of `kanrun solve`: an equation with its conditions, and how it is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kanrun.config.experiments import ExperimentConfig
from kanrun.config.registry import experiment
from kanrun.config.rules import MISSING, setting


@dataclass
class AnsatzConfig:
    """How a network's outputs become the unknown functions."""

    terms: int | None = setting(
        None,
        "products that are summed; null is 4 and more where these do not suffice, or 1 for one variable",
        minimum=1,
    )
    factors: int | None = setting(
        None, "sums of functions in each product; null is one function of each variable", minimum=1
    )


@dataclass
class EquationConfig:
    """One or more differential equations on a box."""

    name: str = setting("own", "name in tables and figures")
    # Any, not dict: what is typed in the shell replaces a mapping that is not there yet, key by key
    variables: Any = setting(
        MISSING, "each variable with its range, such as {x: [0,1], t: [0,1]}; time comes last"
    )
    unknowns: list[str] = setting(["u"], "the functions that are sought", least=1, distinct=True)
    constants: Any = setting(None, "numbers by name, for use in all formulas")
    continuation: Any = setting(
        None,
        "values of constants that are solved for first, each solution a start for the next: {nu: [0.1, 0.03]}",
    )
    formula: Any = setting(MISSING, "the equation, such as u_t = u_xx; a list for a system")
    conditions: Any = setting(
        None,
        "sentences: ['u = 0 at x=0, x=1', 'periodic in y']; or by name: "
        "{at: 'x=0, x=1', formula: 'u = 0'}, {periodic: y, formula: 'u = 0'}",
    )
    exact: Any = setting(None, "the solution where it is known, a formula; a list for a system")
    unknown_parameters: Any = setting(None, "constants that are sought, with first guesses")
    data: Any = setting(
        None,
        "measured values: a table with the variables and unknowns as columns, or "
        "{points: 200, noise: 0.01, constants: {...}} to draw them from a reference solution",
    )
    ansatz: AnsatzConfig = setting(AnsatzConfig(), "how outputs become unknowns")
    intervals: list[int] | None = setting(
        None,
        "grids, one after another; null is 5, 10, 20, 40 and finer ones where they help",
        whole=True,
        minimum=1,
        least=1,
        increasing=True,
    )
    time_windows: Any = setting(
        "auto",
        "parts of the last variable, solved one after another: a number, or auto, which cuts an equation that "
        "evolves where a network with grids needs it",
    )

    def conflicts(self, at: str) -> Iterator[str]:
        """Mappings are mappings."""
        for name in ("variables", "constants", "continuation", "conditions", "unknown_parameters"):
            value = getattr(self, name)
            sentences = name == "conditions" and isinstance(value, list | tuple)
            if (
                value is not None
                and value != MISSING
                and not isinstance(value, Mapping)
                and not sentences
            ):
                yield f"{at}{name}={value} must be a mapping, such as {{x: [0,1]}}."


@experiment(
    "solve",
    "Solve a differential equation, and say how far the solution can be trusted.",
    examples=(
        "kanrun solve",
        "kanrun solve equation=pendulum",
        "kanrun solve 'equation.variables={x: [0,1]}' 'equation.formula=u_xx = -u' "
        '\'equation.conditions={ends: {at: "x=0", formula: "u = 0"}, slope: {at: "x=0", formula: "u_x = 1"}}\'',
        "kanrun solve -m equation=heat,wave,beam",
        "kanrun solve study=paper",
    ),
    implied={"equation.variables": "equation=own"},
)
@dataclass
class SolveConfig(ExperimentConfig):
    """`kanrun solve`.

    A network is {kind: kan, hidden: [], degree: 5} (6 for equations of order 4) with the form of the equation, or as in
    {kind: kan, hidden: [2], terms: 1, factors: 1}, or {kind: mlp, hidden: [20, 20], activation: tanh}.
    """

    equation: EquationConfig = setting(MISSING, "what is solved")
    networks: list[Any] = setting(
        [{"kind": "kan"}, {"kind": "mlp"}], "what it is solved with, one after another", least=1
    )
    constraints: str = setting(
        "soft",
        "soft: residuals with a weight; hard: built into the form of the solution where they can be",
        choices=("soft", "hard"),
    )
    collocation_points: int = setting(
        2000, "collocation points inside the box", minimum=10, maximum=1_000_000
    )
    boundary_points: int = setting(60, "points of each face of the box", minimum=2, maximum=100_000)
    suite: list[Any] = setting(
        [], "equations of the group with differences, each {equation: heat, bounds: {l2: 1e-6}}"
    )
    steps: int = setting(30, "steps of Levenberg-Marquardt on each grid", minimum=1)
