"""Solutions with their certificates, as a run records them and `kanrun.solve` returns them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import torch
from kanrun.experiments.solve.checks import condition_warnings
from kanrun.experiments.solve.problem import (
    NetworkChoice,
    SolveProblem,
    make_solve_problem,
    network_choices,
    policy_of,
    windows_of,
)
from kanrun.experiments.solve.published import PUBLISHED
from kanrun.experiments.solve.verdict import (
    error_points,
    errors,
    maximum,
    residual_rms,
    verdict,
)
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame

from kanrun.config import AnsatzConfig, EquationConfig, SolveConfig, check
from kanrun.engine.equations import (
    Block,
    EquationStage,
    Solution,
    edges_of,
)
from kanrun.engine.equations import solve as solve_system
from kanrun.errors import UsageError
from kanrun.runs.records import Checkpoint, Table
from kanrun.study.checkpoints import model_from_checkpoint, pack
from kanrun.study.model import Model
from kanrun.study.resources import generator

Array = NDArray[np.float64]

#: Points of the table along each variable: of a curve, of a map, and of the map through the middle
#: of a 3-D box.
RESOLUTION = {1: 401, 2: 81, 3: 61}


@dataclass(frozen=True)
class SolvedEquation:
    """A solution with its certificate; call it with points to evaluate the unknowns there.

    Attributes:
        problem: The problem that was solved.
        network: Name of the network.
        solution: The solution as the solver returned it.
        errors: Errors against a known solution, None where nothing is known.
        verdict: `solved`, `doubtful` or `failed`.
        reason: The reason of the verdict, in one sentence.
        seconds: CPU seconds.
        seed: Seed of the training.
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
        """The solution as a `kanrun.Model`."""
        return model_from_checkpoint(self.checkpoint(self.network))

    def __call__(self, x: ArrayLike) -> Array:
        """Return the unknowns at points.

        Args:
            x: Points, shape (points, variables), or (points,) for one variable.

        Returns:
            The unknowns, shape (points, unknowns).
        """
        return self.model(self._points(x))

    def derivative(self, name: str, x: ArrayLike) -> Array:
        """Compute a derivative at points.

        Args:
            name: Derivative, such as `u_xx`.
            x: Points, shape (points, variables), or (points,) for one variable.

        Returns:
            Values of the derivative, shape (points,).

        Raises:
            UsageError: If the name is not a derivative of an unknown.
        """
        return self.model.derivative(name, self._points(x))

    def residual(self, x: ArrayLike) -> Array:
        """Compute left - right of every equation at points.

        Args:
            x: Points, shape (points, variables), or (points,) for one variable.

        Returns:
            Residuals, shape (points, equations).
        """
        at, network = torch.as_tensor(self._points(x)), self.solution.network
        equations, constants = self.problem.system.equations, self.solution.last[-1].constants
        found = torch.zeros(len(at), len(equations), dtype=at.dtype)
        for part, where in network.split(at):
            for number, relation in enumerate(equations if len(where) else ()):
                block = Block("equation", relation, at[where])
                found[where, number] = block.residual(part, constants, block.points)[0].detach()
        return found.numpy()

    @property
    def constants(self) -> dict[str, float]:
        """The unknown parameters by name."""
        names, values = self.problem.system.vocabulary.constants, self.solution.last[-1].constants
        return dict(zip(names, values.tolist(), strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors of the unknown parameters; NaN without observations."""
        values = self.solution.last[-1].standard_errors.tolist()
        return dict(zip(self.constants, values, strict=True))

    def summary(self) -> dict[str, Any]:
        """Return the certificate as one row: verdict, errors, residuals, sizes and parameters."""
        last, found, truth = self.solution.last, dict[str, float](), self.problem.truth
        for name, value in self.constants.items():
            found |= {name: value, f"{name}_error": self.standard_errors[name]}
            found |= {f"{name}_true": truth[name]} if name in truth else {}
        return {
            "equation": self.problem.name,
            "network": self.network,
            "verdict": self.verdict,
            "reference": self.problem.comparison.what if self.problem.comparison else "",
            **self.errors,
            "residual_rms": residual_rms(self.solution),
            "conditions_rms": max(each.conditions.rms for each in last),
            "grid_change": maximum(each.change for each in last),
            "estimate": self.solution.estimate,
            "sensitivity": maximum(each.sensitivity for each in last),
            "terms": last[-1].solution.form.terms,
            "unknowns": sum(each.unknowns for each in last),
            "intervals": last[-1].intervals,
            "windows": len(last),
            "solved_until": self.solution.solved_until,
            **found,
            "seconds": self.seconds,
            "published": min(known)[0] if (known := PUBLISHED.get(self.problem.name)) else None,
        }

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the solution as a checkpoint, in the user's units."""
        vocabulary, network = self.problem.system.vocabulary, self.solution.network
        scalings = {
            f"{what}_scaling": {"shift": [0.0] * len(names), "scale": [1.0] * len(names)}
            for what, names in (("input", vocabulary.variables), ("output", vocabulary.unknowns))
        }
        meta = {
            "network": network.describe(),
            "inputs": list(vocabulary.variables),
            "outputs": list(vocabulary.unknowns),
            "domain": self.problem.system.box.tolist(),
            "classes": None,
            "seed": self.seed,
        }
        label = f"{self.problem.name}-{name}-seed{self.seed}"
        return Checkpoint(label, pack(network), meta | scalings)

    def tables(self, name: str) -> Iterator[Table]:
        """Yield tables of the solution on a regular grid, collocation points and breakpoints.

        The solution comes with the known one and the residuals. In three variables the grid is the
        plane through the middle of the last one's range.
        """
        box, vocabulary = self.problem.system.box.numpy(), self.problem.system.vocabulary
        names = vocabulary.variables
        axes = [np.linspace(low, high, RESOLUTION[len(box)]) for low, high in box]
        if len(box) == 3:
            axes[2] = box[2:].mean(1)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(box))
        values, residual, comparison = self(points), self.residual(points), self.problem.comparison
        columns = dict(zip(names, points.T, strict=True))
        for i, unknown in enumerate(vocabulary.unknowns):
            columns[unknown] = values[:, i]
            if comparison is not None and comparison.what != "recorded":
                columns[f"{unknown}_true"] = comparison.values(points)[:, i]
        columns |= {f"residual_{i}": each for i, each in enumerate(residual.T)}
        yield Table(f"solution_{name}", columns)
        inside = np.concatenate([stage.points.numpy() for stage in self.solution.last])
        yield Table(f"points_{name}", dict(zip(names, inside.T, strict=True)))
        knots = [
            {"window": number, "variable": variable, "at": at}
            for number, stage in enumerate(self.solution.last)
            if (edges := edges_of(stage.solution)) is not None
            for variable, row in zip(
                vocabulary.variables, stage.solution.outer(edges.T).T, strict=True
            )
            for at in row.tolist()
        ]
        if knots:
            frame = DataFrame(knots)
            yield Table(f"knots_{name}", {str(each): frame[each].to_numpy() for each in frame})

    def _points(self, x: ArrayLike) -> Array:
        points, variables = np.asarray(x, dtype=np.float64), len(self.problem.system.box)
        points = points[:, None] if points.ndim == 1 and variables == 1 else points
        if points.ndim != 2 or points.shape[1] != variables:
            raise UsageError(
                f"Points must have the shape (points, {variables}), not {points.shape}."
            )
        return points


def stage_row(
    problem: SolveProblem, stage: EquationStage, points: Array
) -> dict[str, float | int | None]:
    """Return a grid as a row of metrics.csv, with errors in this window's part of the box."""
    low, high = stage.solution.box.numpy().T
    inside = points[((points >= low) & (points <= high)).all(axis=1)]
    return {
        "window": stage.window,
        "until": float(high[-1]),
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


def _timed(
    stages: Generator[EquationStage, None, Solution], spent: list[float]
) -> Generator[EquationStage, None, Solution]:
    """Yield the stages and return the solution; add the CPU seconds of each to `spent`."""
    while True:
        began = time.process_time()
        try:
            stage = next(stages)
        except StopIteration as end:
            solution: Solution = end.value
            return solution
        finally:
            spent.append(time.process_time() - began)
        yield stage


def solutions(
    cfg: SolveConfig, problem: SolveProblem, choice: NetworkChoice, seed: int
) -> Iterator[EquationStage | SolvedEquation]:
    """Yield every grid as it ends, then the solution."""
    windows, drawn = windows_of(cfg, problem.system, choice.ansatz), generator(seed, "training")
    spent, start, policy = list[float](), None, policy_of(cfg)
    for system in problem.easier:
        ansatz = replace(choice.ansatz, grows=choice.ansatz.direct, widens=False)
        stages = solve_system(system, ansatz, policy, drawn, windows, start)
        easier = yield from _timed(stages, spent)
        start = easier.last[-1].solution
    stages = solve_system(problem.system, choice.ansatz, policy, drawn, windows, start)
    solution, seconds = (yield from _timed(stages, spent)), sum(spent)
    measured = errors(problem, solution.network, error_points(problem, seed))
    outcome, reason = verdict(solution, problem.system, measured["l2"])
    if outcome != "solved" and (remarks := condition_warnings(problem.system)):
        reason += f"; {remarks[0]}"
    yield SolvedEquation(problem, choice.label, solution, measured, outcome, reason, seconds, seed)


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
    tolerance: float = 1e-6,
    seed: int = 0,
) -> SolvedEquation:
    """Solve a differential equation and report how reliable the solution is.

    Args:
        formula: Equation such as `u_t = u_xx`; a list for a system.
        variables: Range of each variable; time comes last.
        conditions: Sentences such as `u = 0 at x=0, x=1` or `u_x periodic in x`.
        unknowns: Names of the unknown functions.
        constants: Numbers by name, for use in all formulas.
        exact: The solution, if known; a list for a system.
        continuation: Values of constants that are solved for first, each solution being the next
            initial guess.
        unknown_parameters: Initial guesses of parameters to be estimated from `data`.
        data: Observations: a file, or columns by name.
        network: An entry of the setting `networks` of `kanrun solve`.
        terms: Number of products that are summed; default: as many as help.
        intervals: Grids in turn; default: as fine as helps.
        time_windows: Number of parts of the last variable, or `auto`.
        constraints: `soft`, or `hard` to build in the conditions where possible.
        tolerance: Estimated relative error at which a solution in windows of time or on tensor
            products of splines ends.
        seed: Seed of the training.

    Returns:
        The solution with its certificate.

    Raises:
        UsageError: If the equation, a condition or the data are invalid.
        TrainingFailed: If the residual is not finite at any start.

    Examples:
        >>> from kanrun import solve
        >>> decay = solve("u_x = -u", {"x": (0, 1)}, ["u = 1 at x=0"], intervals=[4])
        >>> decay([[1.0]]).round(4)
        array([[0.3679]])
        >>> decay.derivative("u_x", [[0.0]]).round(3)
        array([-1.])
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
    cfg = SolveConfig(
        seed=seed,
        equation=given,
        networks=networks,
        constraints=constraints,
        tolerance=tolerance,
    )
    check(cfg)
    problem = make_solve_problem(cfg, seed)
    (choice,) = network_choices(cfg, problem.system)
    problem = problem.compared_for(choice)
    return next(
        each for each in solutions(cfg, problem, choice, seed) if isinstance(each, SolvedEquation)
    )
