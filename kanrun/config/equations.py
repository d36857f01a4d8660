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
    """Form of the unknown functions in terms of the outputs of a network."""

    terms: int | None = setting(
        None,
        "number of products that are summed; null is 4 and more if they help, 1 for one variable",
        minimum=1,
    )
    factors: int | None = setting(
        None,
        "factors of each product, sums of functions of all variables; null is one per variable",
        minimum=1,
    )


@dataclass
class EquationConfig:
    """One or more differential equations on a box."""

    name: str = setting("own", "name in tables and figures")
    # Any instead of dict: the shell may set keys of a mapping that does not exist yet.
    variables: Any = setting(
        MISSING,
        "range of each variable, such as {x: [0,1], t: [0,1]}; time comes last",
        free_text=True,
    )
    unknowns: list[str] = setting(["u"], "unknown functions", least=1, distinct=True)
    constants: Any = setting(None, "numbers by name, for use in all formulas", free_text=True)
    continuation: Any = setting(
        None,
        "parameter continuation: values of constants to solve for first, each solution being the "
        "initial guess for the next: {nu: [0.1, 0.03]}",
        free_text=True,
    )
    formula: Any = setting(
        MISSING, "the equation, such as u_t = u_xx; a list for a system", free_text=True
    )
    conditions: Any = setting(
        None,
        "sentences: ['u = 0 at x=0, x=1', 'periodic in y']; or by name: "
        "{at: 'x=0, x=1', formula: 'u = 0'}, {periodic: y, formula: 'u = 0'}",
        free_text=True,
    )
    exact: Any = setting(
        None, "formula of the solution, if known; a list for a system", free_text=True
    )
    unknown_parameters: Any = setting(
        None, "unknown parameters with initial guesses", free_text=True
    )
    data: Any = setting(
        None,
        "measurements: a table with the variables and unknowns as columns, or "
        "{points: 200, noise: 0.01, constants: {...}} to draw them from a reference solution",
        free_text=True,
    )
    ansatz: AnsatzConfig = setting(AnsatzConfig(), "form of the unknowns")
    intervals: list[int] | None = setting(
        None,
        "grids in turn; null is 5, 10, 20, 40 and finer ones if they help",
        whole=True,
        minimum=1,
        least=1,
        increasing=True,
    )
    time_windows: Any = setting(
        "auto",
        "parts of the last variable that are solved in turn: a number, or auto, which cuts an "
        "evolution equation if a network with grids needs it",
    )

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error for each mapping that is not one."""
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
    "Solve a differential equation and report how reliable the solution is.",
    examples=(
        "kanrun solve",
        "kanrun solve equation=pendulum",
        "kanrun solve 'equation.variables={x: [0,1]}' 'equation.formula=u_xx = -u' "
        '\'equation.conditions=["u = 0 at x=0","u_x = 1 at x=0"]\'',
        "kanrun solve -m equation=heat,wave,beam",
        "kanrun solve study=paper",
    ),
    implied={"equation.variables": "equation=own"},
)
@dataclass
class SolveConfig(ExperimentConfig):
    """`kanrun solve`.

    A network is {kind: kan, hidden: [], degree: 5} (6 for equations of order 4) with the ansatz of
    the equation, or {kind: kan, hidden: [2], terms: 1, factors: 1}, or
    {kind: mlp, hidden: [20, 20], activation: tanh}.
    """

    equation: EquationConfig = setting(MISSING, "equation to solve")
    networks: list[Any] = setting(
        [{"kind": "kan"}, {"kind": "mlp"}], "networks that solve it, in turn", least=1
    )
    constraints: str = setting(
        "soft",
        "conditions as weighted residuals (soft), or built into the solution where possible (hard)",
        choices=("soft", "hard"),
    )
    collocation_points: int = setting(
        2000, "collocation points inside the box", minimum=10, maximum=1_000_000
    )
    boundary_points: int = setting(60, "points of each face of the box", minimum=2, maximum=100_000)
    suite: list[Any] = setting(
        [], "equations of the group with further settings: {equation: heat, bounds: {l2: 1e-6}}"
    )
    steps: int = setting(30, "steps of Levenberg-Marquardt per grid", minimum=1)
