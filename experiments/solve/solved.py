"""One solution with its certificate: what a run records, and what `kanrun.solve` returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from kanrun.experiments.solve.checks import notes
from kanrun.experiments.solve.problem import (
    NetworkChoice,
    SolveProblem,
    make_solve_problem,
    network_choices,
    policy_of,
    windows_of,
)
from kanrun.experiments.solve.records import checkpoint, random_points, residuals
from kanrun.experiments.solve.verdict import errors, verdict
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame

from kanrun.config import EquationConfig, SolveConfig
from kanrun.config.equations import FormConfig
from kanrun.config.rules import check
from kanrun.engine.equations import EquationStage, Solution
from kanrun.engine.equations import solve as solve_system
from kanrun.errors import UsageError
from kanrun.study.checkpoints import model_from_checkpoint
from kanrun.study.model import Model
from kanrun.study.resources import generator

Array = NDArray[np.float64]


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
        return f"SolvedEquation({self.problem.name} by {self.network}: {self.verdict}, {self.reason})"

    def _repr_html_(self) -> str:
        facts = DataFrame.from_dict(self.summary(), orient="index").to_html(header=False, border=0)
        return f"<p><b>{escape(self.verdict)}</b>: {escape(self.reason)}</p>{facts}"

    @cached_property
    def model(self) -> Model:
        """The solution as `kanrun predict` and `load_run` see it."""
        return model_from_checkpoint(checkpoint(self.problem, self.solution.network, self.network, self.seed))

    def __call__(self, x: ArrayLike) -> Array:
        return self.model(self._points(x))

    def derivative(self, name: str, x: ArrayLike) -> Array:
        """The derivative `name`, such as u_xx, at points (points, variables): (points,). Raises UsageError."""
        return self.model.derivative(name, self._points(x))

    def residual(self, x: ArrayLike) -> Array:
        """left - right of every equation at points, (points, equations)."""
        found = residuals(self.problem, self.solution.network, self.solution.constants, self._points(x))
        return np.stack(found, axis=1)

    @property
    def constants(self) -> dict[str, float]:
        """The sought constants."""
        return dict(zip(self.problem.system.vocabulary.constants, map(float, self.solution.constants), strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Their standard errors, NaN without measured values."""
        names = self.problem.system.vocabulary.constants
        return dict(zip(names, map(float, self.solution.standard_errors), strict=True))

    def summary(self) -> dict[str, Any]:
        """The certificate as one row."""
        last, found = self.solution.last, dict[str, float]()
        for name, value in self.constants.items():
            found |= {name: value, f"{name}_error": self.standard_errors[name]}
            found |= {f"{name}_true": self.problem.truth[name]} if name in self.problem.truth else {}
        return {
            "equation": self.problem.name,
            "network": self.network,
            "verdict": self.verdict,
            "against": self.problem.comparison.what if self.problem.comparison else "",
            **self.errors,
            "residual_rms": max(each.equation.rms for each in last),
            "conditions_rms": max(each.conditions.rms for each in last),
            "change": max((each.change for each in last if each.change is not None), default=None),
            "sensitivity": max((each.sensitivity for each in last if each.sensitivity is not None), default=None),
            "terms": last[-1].solution.form.terms,
            "unknowns": sum(each.unknowns for each in last),
            "intervals": last[-1].intervals,
            "windows": len(last),
            "reached": self.solution.reached,
            **found,
            "seconds": self.seconds,
        }

    def _points(self, x: ArrayLike) -> Array:
        points, variables = np.asarray(x, dtype=np.float64), len(self.problem.system.box)
        points = points[:, None] if points.ndim == 1 and variables == 1 else points
        if points.ndim != 2 or points.shape[1] != variables:
            raise UsageError(f"points must have the shape (points, {variables}), not {points.shape}.")
        return points


def solutions(
    cfg: SolveConfig, problem: SolveProblem, choice: NetworkChoice, seed: int
) -> Iterator[EquationStage | SolvedEquation]:
    """Every grid as it ends, then the solution."""
    windows, drawn = windows_of(cfg, problem.system, choice.ansatz), generator(seed, "training")
    start, began = None, time.process_time()
    for system in (*problem.easier, problem.system):
        ansatz = choice.ansatz if system is problem.system else replace(choice.ansatz, grows=False, widens=False)
        stages = solve_system(system, ansatz, policy_of(cfg), drawn, windows, start)
        while True:
            try:
                yield next(stages)
            except StopIteration as end:
                solution: Solution = end.value
                break
        start = solution.last[-1].solution
    seconds = time.process_time() - began
    measured = errors(problem, solution.network, random_points(problem, seed))
    outcome, reason = verdict(solution, problem.system, measured["l2"])
    if outcome != "solved" and (remarks := notes(problem.system)):
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
    find: Mapping[str, float] | None = None,
    data: str | Mapping[str, Sequence[float]] | None = None,
    network: Mapping[str, Any] | None = None,
    terms: int | None = None,
    intervals: Sequence[int] | None = None,
    windows: int | str = "auto",
    hard: bool = False,
    seed: int = 0,
) -> SolvedEquation:
    """The solution of a differential equation with its certificate.

    `variables` gives each variable its range, time last; `conditions` are sentences such as "u = 0 at x=0, x=1" or
    "u_x periodic in x". `continuation` holds values of constants that are solved for first. `find` holds first guesses
    of constants that are sought, `data` measured values: a file or columns by name. `network` is one of the settings
    `networks` of `kanrun solve`; `hard` builds in conditions where they can be.

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
        variables={name: list(ends) for name, ends in variables.items()},
        unknowns=list(unknowns),
        constants=None if constants is None else dict(constants),
        continuation=None if continuation is None else {name: list(each) for name, each in continuation.items()},
        formula=formula if isinstance(formula, str) else list(formula),
        conditions=dict(conditions) if isinstance(conditions, Mapping) else list(conditions),
        exact=exact if exact is None or isinstance(exact, str) else list(exact),
        find=None if find is None else dict(find),
        data=data,
        form=FormConfig(terms=terms),
        intervals=None if intervals is None else list(intervals),
        windows=windows,
    )
    cfg = SolveConfig(
        seed=seed, equation=given, networks=[dict(network or {"kind": "kan"})], conditions="hard" if hard else "soft"
    )
    check(cfg)
    problem = make_solve_problem(cfg, seed)
    (choice,) = network_choices(cfg, max(relation.order for relation in problem.system.equations))
    return next(each for each in solutions(cfg, problem, choice, seed) if isinstance(each, SolvedEquation))
