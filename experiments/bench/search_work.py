"""Seconds that a unit of work takes, by which searches for formulas are limited (`budget` of `kanrun interpret`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import sympy
import threadpoolctl  # type: ignore[import-untyped]

from kanrun.engine.symbolic import Budget, choose, match_edge, match_formulas, simplified
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.templates import kan_shape
from kanrun.formulas import parse
from kanrun.runs.records import Record, Row

#: Networks (widths, intervals) and points of the refits.
_NETWORKS = (((1, 1), 20, 800), ((2, 1, 1), 10, 2000), ((2, 2, 1), 20, 2000), ((4, 2, 1), 10, 1000))
_FORMULA = "(x0^3-1)/(x0-1)+sin(x0)^2*exp(2*log(x0))+tanh(atanh(x0/2)+atanh(x0/3))"


def search_work(rounds: int, seed: int) -> Iterator[Record]:
    """Units and seconds of processor time of the parts that a search consists of, the median of `rounds` rounds."""
    generator = np.random.default_rng(seed)
    t = generator.uniform(0.1, 4.0, 800)
    cases: dict[str, Callable[[], object]] = {}
    for shape, intervals, count in _NETWORKS:
        x = generator.uniform(-1, 1, (count, shape[0]))
        y = np.sin(3 * x.sum(axis=1)) + 0.1 * generator.normal(size=count)
        graph = kan_shape(shape, x, y, intervals, 3, generator)
        settings = RefitSettings(steps=8, gain=0.0, patience=99)
        name = "refit of " + "-".join(map(str, shape)) + f", {intervals} intervals, {count} points"
        cases[name] = partial(refit, graph, x, y, settings)
    curve, hard = np.sin(1.1 * t) + 0.3 * t**2.3, np.sin(t) ** 3 * np.log(1 + t**2) + np.tanh(t)
    cases["candidates of an edge"] = lambda: match_edge(t, curve, choose(None))
    cases["formulas of an edge"] = lambda: match_formulas(t, hard, choose(None), 0.0, Budget(6.0))
    points = np.linspace(0.2, 0.9, 40)[:, None]
    cases["simplification"] = lambda: _simplified_anew(points)
    with threadpoolctl.threadpool_limits(1):
        for name, case in cases.items():
            case()
            measured = [_measured(case) for _ in range(rounds)]
            units = float(np.median([each[0] for each in measured]))
            seconds = float(np.median([each[1] for each in measured]))
            yield Row("work", {"case": name, "units": units, "seconds": seconds, "seconds_per_unit": seconds / units})


def _simplified_anew(points: np.ndarray) -> sympy.Expr:
    """As in a run of its own: sympy remembers what it has simplified."""
    sympy.core.cache.clear_cache()
    return simplified(parse(_FORMULA), ["x0"], points)


def _measured(case: Callable[[], object]) -> tuple[float, float]:
    budget, began = Budget(np.inf), time.process_time()
    case()
    return budget.used, time.process_time() - began
