"""Formulas that other programs find on the same points in the same CPU seconds; what they find is judged as ours is.

pyoperon (Burlacu et al., GECCO 2020) with its Levenberg-Marquardt steps and a Pareto front of error and length; gplearn
with its own defaults, one generation after the other. Both stop by the clock, so that their results are not those of
the seed alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import sympy
from kanrun.experiments.interpret.result import Array

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


@dataclass(frozen=True)
class PeerPolicy:
    """What the peers may use: the `share` of the time of a search, as the rest goes into the constants of what they
    found; Operon's `symbols`, its coefficient `steps` on each formula, `slices` of its time; gplearn's `functions`."""

    share: float = 0.9
    symbols: str = "add,sub,mul,div,sin,cos,exp,log,sqrt,square,pow,constant,variable"
    steps: int = 5
    slices: int = 4
    functions: tuple[str, ...] = ("add", "sub", "mul", "div", "sin", "cos", "log", "sqrt")


def check_backend(backend: str) -> None:
    """Raises UsageError where the package of another program is not installed."""
    package = BACKENDS[backend][0]
    if find_spec(package) is None:
        raise UsageError(
            f"backend={backend}: {package} is not installed; install it by pip install 'kanrun[peers]'."
        )


def found_by(
    backend: str, problem: SearchProblem, seed: int
) -> Iterator[SearchStage | FittedStructure]:
    """The formulas of `backend`, with their constants refitted; its CPU seconds are work, as those of a search are."""
    together, began = problem.data.all_points, time.monotonic()
    seconds = PeerPolicy().share * problem.policy.searching * problem.policy.budget
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expressions = BACKENDS[backend][1](together.x, together.y, seconds, seed)
    count_work(seconds)
    for expression in expressions:
        tried = fit_expression(backend, expression, problem)
        if tried is not None:
            yield from matched(tried, began)


def _operon(
    x: Array, y: Array, seconds: float, seed: int, policy: PeerPolicy = PeerPolicy()
) -> list[sympy.Expr]:
    from pyoperon.sklearn import SymbolicRegressor

    model = SymbolicRegressor(
        allowed_symbols=policy.symbols,
        objectives=["r2", "length"],
        optimizer_iterations=policy.steps,
        n_threads=1,
        generations=_FOREVER,
        max_evaluations=_FOREVER,
        random_state=seed,
        warm_start=True,
    )
    began = time.process_time()
    while (left := seconds - (time.process_time() - began)) > 0:
        model.set_params(max_time=max(1, int(left / policy.slices)))
        model.fit(x, y)
    names = [f"x{i}" for i in range(x.shape[1])]
    texts = [model.get_model_string(each["tree"], _DIGITS, names) for each in model.pareto_front_]
    return [each for text in texts if (each := _parsed(text, names)) is not None]


def _parsed(text: str, names: list[str]) -> sympy.Expr | None:
    try:
        return parse(text, names)
    except KanrunError:  # numbers such as inf
        return None


def _gplearn(
    x: Array, y: Array, seconds: float, seed: int, policy: PeerPolicy = PeerPolicy()
) -> list[sympy.Expr]:
    from gplearn.genetic import SymbolicRegressor

    model = SymbolicRegressor(
        function_set=policy.functions, random_state=seed, warm_start=True, low_memory=True
    )
    began, generations = time.process_time(), 0
    while time.process_time() - began < seconds:
        generations += 1
        model.set_params(generations=generations).fit(x, y)
    return [_from_prefix(iter(model._program.program))]


def _from_prefix(nodes: Iterator[Any]) -> sympy.Expr:
    """gplearn's list of functions, numbers of inputs and constants; its functions take |x| where they must."""
    node = next(nodes)
    if isinstance(node, int):
        return variable(f"x{node}")
    if isinstance(node, float):
        return sympy.Float(float(node), 17)
    return _BY_NAME[node.name](*(_from_prefix(nodes) for _ in range(node.arity)))


_BY_NAME: dict[str, Callable[..., sympy.Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "log": lambda a: sympy.log(sympy.Abs(a)),
    "sqrt": lambda a: sympy.sqrt(sympy.Abs(a)),
}
#: Generations and evaluations that no time suffices for; decimals of Operon's constants.
_FOREVER, _DIGITS = 10**9, 17
#: The package and the function of each program but kanrun.
BACKENDS: dict[str, tuple[str, Callable[[Array, Array, float, int], list[sympy.Expr]]]] = {
    "operon": ("pyoperon", _operon),
    "gplearn": ("gplearn", _gplearn),
}
