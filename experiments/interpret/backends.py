"""Formulas that other programs find on the same points in the same CPU time.

They are judged like those of the search.

pyoperon (Burlacu et al., GECCO 2020) runs with its Levenberg-Marquardt steps and a Pareto front of
error and length; gplearn with its defaults, one generation after another. Both stop by the clock,
so that the seed alone does not determine their results.
"""

from __future__ import annotations

import contextlib
import operator
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import sympy
from sympy import Expr

from kanrun.engine.symbolic import (
    FittedStructure,
    SearchProblem,
    SearchStage,
    count_work,
    fit_expression,
    matched,
)
from kanrun.errors import KanrunError, UsageError
from kanrun.formulas import parse, variable
from kanrun.points import Array

#: Fraction of a search's time that a backend gets; the rest is for the constants of its formulas.
_TIME_FRACTION = 0.9
#: Operon's functions, its coefficient steps on each formula, and the parts that its time is divided
#: into.
_OPERON_SYMBOLS = "add,sub,mul,div,sin,cos,exp,log,sqrt,square,pow,constant,variable"
_OPERON_STEPS, _OPERON_PARTS = 5, 4
#: Number of generations and evaluations that no time suffices for; decimals of Operon's constants.
_UNLIMITED, _DIGITS = 10**9, 17


def check_backend(backend: str) -> None:
    """Raise UsageError if the package of the backend is not installed."""
    package = BACKENDS[backend][0]
    if find_spec(package) is None:
        raise UsageError(
            f"backend={backend} needs {package}, which is not installed. Run: pip install "
            "'kanrun[peers]'."
        )


def found_by(
    backend: str, problem: SearchProblem, seed: int
) -> Iterator[SearchStage | FittedStructure]:
    """Yield the formulas of `backend` with refitted constants; its CPU seconds count as work."""
    points = problem.data.all_points
    seconds = _TIME_FRACTION * problem.policy.search_budget
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expressions = BACKENDS[backend][1](points.x, points.y, seconds, seed)
    count_work(seconds)
    for expression in expressions:
        tried = fit_expression(backend, expression, problem.data)
        if tried is not None:
            yield from matched(tried)


def _operon(x: Array, y: Array, seconds: float, seed: int) -> list[Expr]:
    from pyoperon.sklearn import SymbolicRegressor

    model = SymbolicRegressor(
        allowed_symbols=_OPERON_SYMBOLS,
        objectives=["r2", "length"],
        optimizer_iterations=_OPERON_STEPS,
        n_threads=1,
        generations=_UNLIMITED,
        max_evaluations=_UNLIMITED,
        random_state=seed,
        warm_start=True,
    )
    began = time.process_time()
    while (left := seconds - (time.process_time() - began)) > 0:
        model.set_params(max_time=max(1, int(left / _OPERON_PARTS)))
        model.fit(x, y)
    names = [f"x{i}" for i in range(x.shape[1])]
    texts = [model.get_model_string(each["tree"], _DIGITS, names) for each in model.pareto_front_]
    expressions: list[Expr] = []
    for text in texts:
        # Numbers such as inf are no formula.
        with contextlib.suppress(KanrunError):
            expressions.append(parse(text, names))
    return expressions


def _gplearn(x: Array, y: Array, seconds: float, seed: int) -> list[Expr]:
    from gplearn.genetic import SymbolicRegressor

    model = SymbolicRegressor(
        function_set=tuple(_BY_NAME), random_state=seed, warm_start=True, low_memory=True
    )
    began, generations = time.process_time(), 0
    while time.process_time() - began < seconds:
        generations += 1
        model.set_params(generations=generations).fit(x, y)
    return [_from_prefix(iter(model._program.program))]


def _from_prefix(nodes: Iterator[Any]) -> Expr:
    """Read gplearn's list of functions, numbers of inputs and constants; log and sqrt take |x|."""
    node = next(nodes)
    if isinstance(node, int):
        return variable(f"x{node}")
    if isinstance(node, float):
        return sympy.Float(float(node), _DIGITS)
    return _BY_NAME[node.name](*(_from_prefix(nodes) for _ in range(node.arity)))


_BY_NAME: dict[str, Callable[..., Expr]] = {
    "add": sympy.Add,
    "sub": operator.sub,
    "mul": sympy.Mul,
    "div": operator.truediv,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "log": lambda a: sympy.log(sympy.Abs(a)),
    "sqrt": lambda a: sympy.sqrt(sympy.Abs(a)),
}
#: Package and function of each backend but kanrun.
BACKENDS: dict[str, tuple[str, Callable[[Array, Array, float, int], list[Expr]]]] = {
    "operon": ("pyoperon", _operon),
    "gplearn": ("gplearn", _gplearn),
}
