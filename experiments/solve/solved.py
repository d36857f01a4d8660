"""One solution with its certificate: what a run records, and what `kanrun.solve` returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import torch
from kanrun.experiments.solve.checks import lacking, notes
from kanrun.experiments.solve.problem import (
    NetworkChoice,
    SolveProblem,
    make_solve_problem,
    network_choices,
    policy_of,
    windows_of,
)
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame

from kanrun.config import EquationConfig, SolveConfig
from kanrun.config.equations import AnsatzConfig
from kanrun.config.rules import check
from kanrun.engine.equations import (
    EquationStage,
    Field,
    Monomials,
    Solution,
    System,
    Windows,
    edges_of,
    evaluate,
)
from kanrun.engine.equations import solve as solve_system
from kanrun.engine.equations.system import low_discrepancy
from kanrun.errors import UsageError
from kanrun.runs.records import Checkpoint, Table
from kanrun.study.checkpoints import model_from_checkpoint
from kanrun.study.model import Model
from kanrun.study.resources import generator
from kanrun.study.training_records import pack

Array = NDArray[np.float64]

#: Points of the table along each variable: of a curve, of a map, and of the map through the middle of a 3-D box.
RESOLUTION = {1: 401, 2: 81, 3: 61}
#: Points at which errors are measured.
MEASURED = 10_000


@dataclass(frozen=True)
class VerdictPolicy:
    """Bounds of the verdict, all relative: to the size of the equation's terms, or of the solution.

    A small residual alone proves nothing: a front may slip between the points, and an equation with too few conditions
    has many solutions. The change of the solution from the last grid is what tells most.
    """

    solved_change: float = 2e-3  #: of the solution from the last grid but one to the last
    solved_residual: float = (
        1e-2  #: root mean square at fresh points, and of the conditions at points between
    )
    failed: float = 0.1  #: from here on of either, nothing of the solution is to be trusted
    #: Residual of a network without grids: its change from stage to stage says nothing of what it cannot represent.
    unrefined_residual: float = 1e-4
    #: Change of the solution for a change of the residuals by 1, see `EquationStage.sensitivity`, above which the
    #: conditions leave the solution open. It was at most 300 for the well-posed of 38 equations, 1e5 and more for
    #: those with a condition too few.
    open_sensitivity: float = 1e4
    #: The same where an unknown has fewer conditions in a variable than the equation's order.
    lacking_sensitivity: float = 500.0
    #: Relative error against an exact solution or a reference above which nothing is called solved; errors never
    #: raise a verdict.
    solved_error: float = 1e-2
    #: Factor between the last difference from measured values and the least on any grid (the first ones follow the
    #: values more closely) above which the equation is not taken to describe them.
    misfit: float = 2.0
    #: Factor by which not knowing the others raises the standard error of a constant, above which measured values do
    #: not tell the constants apart: what separates them then are errors of the solution. It was 1.2 for D and k of a
    #: reaction, 47 for two constants that change the solution alike.
    inseparable: float = 20.0


def verdict(
    solution: Solution,
    system: System,
    error: float | None = None,
    policy: VerdictPolicy = VerdictPolicy(),
) -> tuple[str, str]:
    """`solved`, `doubtful` or `failed`, and the reason in one sentence; the worst window decides.

    `error` is the relative error where the solution is known, against which a verdict is lowered.
    """
    last = solution.last
    worst_change = max((stage.change for stage in last if stage.change is not None), default=None)
    worst = max((stage.equation for stage in last), key=lambda found: found.rms)
    place = ", ".join(
        f"{name}={at:.3g}"
        for name, at in zip(system.vocabulary.variables, worst.place, strict=True)
    )
    residual, conditions = worst.rms, max(stage.conditions.rms for stage in last)
    open_by = max(
        (stage.sensitivity for stage in last if stage.sensitivity is not None), default=0.0
    )
    changed = f"the last grid changed the solution by {worst_change or 0:.1e}"
    reason = (
        f"{'there was one grid only' if worst_change is None else changed}, the residual at fresh points is "
        f"{residual:.1e} (largest at {place}) and that of the conditions {conditions:.1e}"
    )
    measured = [each for each in (residual, conditions, worst_change, error) if each is not None]
    reason += "" if error is None else f"; the error against the known solution is {error:.1e}"
    if solution.reached < (end := float(system.box[-1, 1])):
        return "failed", (
            f"it could be followed up to {solution.reached:.6g} of {end:.6g} only, and nothing is known beyond "
            f"(a solution that is no longer smooth, or errors that grow); {reason}"
        )
    if not np.isfinite(measured).all() or max(measured) >= policy.failed:
        return "failed", reason
    if not open_by <= (policy.lacking_sensitivity if lacking(system) else policy.open_sensitivity):
        open_to = "the equation and its conditions leave the solution open: other functions satisfy them as well"
        return "doubtful", f"{open_to} (sensitivity {open_by:.1e}); {reason}"
    if any(each.data > max(policy.misfit * each.least_data, policy.solved_change) for each in last):
        data = ", ".join(
            f"{each.data:.1e} of the solution's size, on another grid {each.least_data:.1e}"
            for each in last
        )
        return (
            "doubtful",
            f"the measured values are not what the equation gives (they differ by {data}); {reason}",
        )
    if (inflated := max(stage.inflated for stage in last)) > policy.inseparable:
        return "doubtful", (
            "the measured values hardly tell the sought constants apart (not knowing the others makes a standard error "
            f"{inflated:.0f} times as large); {reason}"
        )
    refined = all(stage.intervals is not None for stage in last)
    small = max(residual, conditions) <= (
        policy.solved_residual if refined else policy.unrefined_residual
    )
    right = error is None or error <= policy.solved_error
    if small and right and worst_change is not None and worst_change <= policy.solved_change:
        return "solved", reason
    return "doubtful", reason


@dataclass(frozen=True)
class SolvedEquation:
    """A solution: call it with points (points, variables), and get the unknowns (points, unknowns) there.

    `verdict` is `solved`, `doubtful` or `failed`, `reason` says why in one sentence.
    """

    problem: SolveProblem
    network: str
    solution: Solution
    errors: Mapping[str, float | None]
    verdict: str
    reason: str
    seconds: float
    seed: int = 0

    def __repr__(self) -> str:
        return (
            f"SolvedEquation({self.problem.name} by {self.network}: {self.verdict}, {self.reason})"
        )

    def _repr_html_(self) -> str:
        facts = DataFrame.from_dict(self.summary(), orient="index").to_html(header=False, border=0)
        return f"<p><b>{escape(self.verdict)}</b>: {escape(self.reason)}</p>{facts}"

    @cached_property
    def model(self) -> Model:
        """The solution as `kanrun predict` and `load_run` see it."""
        return model_from_checkpoint(self.checkpoint(self.network))

    def __call__(self, x: ArrayLike) -> Array:
        return self.model(self._points(x))

    def derivative(self, name: str, x: ArrayLike) -> Array:
        """The derivative `name`, such as u_xx, at points (points, variables): (points,). Raises UsageError."""
        return self.model.derivative(name, self._points(x))

    def residual(self, x: ArrayLike) -> Array:
        """left - right of every equation at points, (points, equations)."""
        at, network, equations = (
            torch.as_tensor(self._points(x)),
            self.solution.network,
            self.problem.system.equations,
        )
        constants = self.solution.last[-1].constants
        parts = (
            network.split(at)
            if isinstance(network, Windows)
            else [(network, torch.arange(len(at)))]
        )
        found = torch.zeros(len(at), len(equations), dtype=at.dtype)
        for number, relation in enumerate(equations):
            monomials = Monomials.covering(
                (each.index for each in relation.derivatives), at.shape[1]
            )
            for part, where in parts:
                if len(where):
                    left, _ = evaluate(
                        relation, part, at[where], constants, monomials, jacobian=False
                    )
                    found[where, number] = left.detach()
        return found.numpy()

    @property
    def constants(self) -> dict[str, float]:
        """The sought constants."""
        return dict(
            zip(
                self.problem.system.vocabulary.constants,
                self.solution.last[-1].constants.tolist(),
                strict=True,
            )
        )

    @property
    def standard_errors(self) -> dict[str, float]:
        """Their standard errors, NaN without measured values."""
        return dict(
            zip(self.constants, self.solution.last[-1].standard_errors.tolist(), strict=True)
        )

    def summary(self) -> dict[str, Any]:
        """The certificate as one row."""
        last, found = self.solution.last, dict[str, float]()
        for name, value in self.constants.items():
            found |= {name: value, f"{name}_error": self.standard_errors[name]}
            found |= (
                {f"{name}_true": self.problem.truth[name]} if name in self.problem.truth else {}
            )
        return {
            "equation": self.problem.name,
            "network": self.network,
            "verdict": self.verdict,
            "reference": self.problem.comparison.what if self.problem.comparison else "",
            **self.errors,
            "residual_rms": max(each.equation.rms for each in last),
            "conditions_rms": max(each.conditions.rms for each in last),
            "grid_change": max(
                (each.change for each in last if each.change is not None), default=None
            ),
            "sensitivity": max(
                (each.sensitivity for each in last if each.sensitivity is not None), default=None
            ),
            "terms": last[-1].solution.form.terms,
            "unknowns": sum(each.unknowns for each in last),
            "intervals": last[-1].intervals,
            "windows": len(last),
            "solved_until": self.solution.reached,
            **found,
            "seconds": self.seconds,
        }

    def checkpoint(self, name: str) -> Checkpoint:
        """The solution as `kanrun predict` and `load_run` read it, in the user's units."""
        vocabulary, box, network = (
            self.problem.system.vocabulary,
            self.problem.system.box,
            self.solution.network,
        )
        scalings = {
            f"{what}_scaling": {"shift": [0.0] * len(names), "scale": [1.0] * len(names)}
            for what, names in (("input", vocabulary.variables), ("output", vocabulary.unknowns))
        }
        meta = {
            "network": network.describe(),
            "inputs": list(vocabulary.variables),
            "outputs": list(vocabulary.unknowns),
            "domain": box.tolist(),
            "classes": None,
            **scalings,
            "seed": self.seed,
        }
        return Checkpoint(f"{self.problem.name}-{name}-seed{self.seed}", pack(network), meta)

    def tables(self, name: str) -> Iterator[Table]:
        """The solution, the truth where it is known, and the residuals on a regular grid of the box (in three variables
        of the plane through the middle of the last one's range); collocation points and breakpoints of windows."""
        box, vocabulary = self.problem.system.box.numpy(), self.problem.system.vocabulary
        axes = [np.linspace(low, high, RESOLUTION[len(box)]) for low, high in box]
        if len(box) == 3:
            axes[2] = box[2:].mean(1)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(box))
        values, residual, comparison = self(points), self.residual(points), self.problem.comparison
        truth = None if comparison is None else comparison.values(points)
        columns = dict(zip(vocabulary.variables, points.T, strict=True))
        for i, unknown in enumerate(vocabulary.unknowns):
            columns |= {unknown: values[:, i]} | (
                {} if truth is None else {f"{unknown}_true": truth[:, i]}
            )
        yield Table(
            f"solution_{name}",
            columns | {f"residual_{i}": each for i, each in enumerate(residual.T)},
        )
        inside = np.concatenate([stage.points.numpy() for stage in self.solution.last])
        yield Table(f"points_{name}", dict(zip(vocabulary.variables, inside.T, strict=True)))
        knots = [
            (number, variable, at)
            for number, stage in enumerate(self.solution.last)
            if (edges := edges_of(stage.solution)) is not None
            for variable, row, (low, high) in zip(
                vocabulary.variables, edges, stage.solution.box.tolist(), strict=True
            )
            for at in ((low + high + row * (high - low)) / 2).tolist()
        ]
        if knots:
            yield Table(
                f"knots_{name}",
                dict(
                    zip(
                        ("window", "variable", "at"),
                        map(np.array, zip(*knots, strict=True)),
                        strict=True,
                    )
                ),
            )

    def _points(self, x: ArrayLike) -> Array:
        points, variables = np.asarray(x, dtype=np.float64), len(self.problem.system.box)
        points = points[:, None] if points.ndim == 1 and variables == 1 else points
        if points.ndim != 2 or points.shape[1] != variables:
            raise UsageError(
                f"points must have the shape (points, {variables}), not {points.shape}."
            )
        return points


def measuring_points(problem: SolveProblem, seed: int) -> Array:
    """The points (points, variables) at which errors are measured."""
    return low_discrepancy(problem.system.box, MEASURED, seed).numpy()


def errors(
    problem: SolveProblem, network: Field | Windows, points: Array
) -> dict[str, float | None]:
    """Relative L2 and H1 errors, mean squared and largest error at `points` (points, variables)."""
    found: dict[str, float | None] = {"l2": None, "h1": None, "mse": None, "max_error": None}
    if problem.comparison is None or not len(points):
        return found
    at, truth = torch.as_tensor(points), problem.comparison.values(points)
    with torch.no_grad():
        difference = network(at).numpy() - truth
    found |= {"mse": float(np.mean(difference**2)), "max_error": float(np.abs(difference).max())}
    if truth.any():  # else no error is relative to it
        found["l2"] = float(np.sqrt(np.mean(difference**2) / np.mean(truth**2)))
        if problem.comparison.slopes is not None:
            unit = np.eye(points.shape[1], dtype=int).tolist()
            slopes = np.stack(
                [network.derivative(at, row).numpy() for row in unit], axis=2
            ).reshape(len(points), -1)
            known = problem.comparison.slopes(points)
            square = np.sum(difference**2) + np.sum((slopes - known) ** 2)
            found["h1"] = float(np.sqrt(square / (np.sum(truth**2) + np.sum(known**2))))
    return found


def stage_row(
    problem: SolveProblem, stage: EquationStage, points: Array
) -> dict[str, float | int | None]:
    """A grid as a row of stages.csv; errors are of this window's part of the box."""
    low, high = stage.solution.box.numpy().T
    inside = points[((points >= low) & (points <= high)).all(axis=1)]
    return {
        "window": stage.window,
        "intervals": stage.intervals,
        "unknowns": stage.unknowns,
        "steps": stage.steps,
        "objective": stage.objective,
        "residual_rms": stage.equation.rms,
        "residual_max": stage.equation.largest,
        "conditions_rms": stage.conditions.rms,
        "grid_change": stage.change,
        **errors(problem, stage.solution, inside),
        "seconds": stage.seconds,
        **dict(zip(problem.system.vocabulary.constants, stage.constants.tolist(), strict=True)),
    }


def solutions(
    cfg: SolveConfig, problem: SolveProblem, choice: NetworkChoice, seed: int
) -> Iterator[EquationStage | SolvedEquation]:
    """Every grid as it ends, then the solution."""
    windows, drawn = windows_of(cfg, problem.system, choice.ansatz), generator(seed, "training")
    solved, began = list[Solution](), time.process_time()

    for system in (*problem.easier, problem.system):
        ansatz = (
            choice.ansatz
            if system is problem.system
            else replace(choice.ansatz, grows=False, widens=False)
        )
        start = solved[-1].last[-1].solution if solved else None
        solved.append(
            (yield from solve_system(system, ansatz, policy_of(cfg), drawn, windows, start))
        )
    seconds = time.process_time() - began
    measured = errors(problem, solved[-1].network, measuring_points(problem, seed))
    outcome, reason = verdict(solved[-1], problem.system, measured["l2"])
    if outcome != "solved" and (remarks := notes(problem.system)):
        reason += f"; {remarks[0]}"
    yield SolvedEquation(
        problem, choice.label, solved[-1], measured, outcome, reason, seconds, seed
    )


def solve(  # noqa: PLR0913 (keywords of a public function)
    formula: str | Sequence[str],
    variables: Mapping[str, Sequence[float | str]],
    conditions: Mapping[str, Any] | Sequence[str] = (),
    *,
    unknowns: Sequence[str] = ("u",),
    constants: Mapping[str, float | str] | None = None,
    exact: str | Sequence[str] | None = None,
    continuation: Mapping[str, Sequence[float]] | None = None,
    unknown_parameters: Mapping[str, float] | None = None,
    data: str | Mapping[str, Sequence[float]] | None = None,
    network: Mapping[str, Any] | None = None,
    terms: int | None = None,
    intervals: Sequence[int] | None = None,
    time_windows: int | str = "auto",
    constraints: str = "soft",
    seed: int = 0,
) -> SolvedEquation:
    """The solution of a differential equation with its certificate.

    `variables` gives each variable its range, time last; `conditions` are sentences such as "u = 0 at x=0, x=1" or
    "u_x periodic in x". `continuation` holds values of constants that are solved for first. `unknown_parameters` holds initial
    guesses of constants that are unknown, `data` measured values: a file or columns by name. `network` is one of the settings
    `networks` of `kanrun solve`; `constraints="hard"` builds in conditions where they can be.

    Examples:
        >>> from kanrun import solve
        >>> decay = solve("u_x = -u", {"x": (0, 1)}, ["u = 1 at x=0"], exact="exp(-x)", intervals=[4])
        >>> decay([[1.0]]).round(4)
        array([[0.3679]])
        >>> decay.derivative("u_x", [[0.0]]).round(3)
        array([-1.])

    Raises UsageError for an equation, condition or table that breaks a rule, TrainingFailed where the
    residual is nowhere finite.
    """
    given = EquationConfig(
        variables=variables,
        unknowns=list(unknowns),
        constants=constants,
        continuation=continuation,
        formula=formula,
        conditions=conditions,
        exact=exact,
        unknown_parameters=unknown_parameters,
        data=data,
        ansatz=AnsatzConfig(terms=terms),
        intervals=None if intervals is None else list(intervals),
        time_windows=time_windows,
    )
    networks = [dict(network or {"kind": "kan"})]
    cfg = SolveConfig(seed=seed, equation=given, networks=networks, constraints=constraints)
    check(cfg)
    problem = make_solve_problem(cfg, seed)
    (choice,) = network_choices(cfg, problem.system.order)
    return next(
        each for each in solutions(cfg, problem, choice, seed) if isinstance(each, SolvedEquation)
    )
