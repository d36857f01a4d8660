"""Budgets of work, and the clock that stops a search which takes longer than it counts."""

import itertools
import threading

import numpy as np
import pytest
from made_graphs import one_edge

from kanrun import interpret
from kanrun.engine.symbolic import budget as budget_module
from kanrun.engine.symbolic.budget import Budget, WorkSpent, count_work, limited, work_done
from kanrun.engine.symbolic.candidates import choose
from kanrun.engine.symbolic.problem import SearchData, SearchProblem
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.sparse import LARGEST_SAMPLE, SparseSearch

X = np.linspace(-1, 1, 200)[:, None]


def work_of(steps, points=200):
    x = X[:points]
    before = work_done()
    y = np.sin(2 * x[:, 0])
    settings = RefitSettings(steps=steps, gain=0.0, patience=1000)
    refit(one_edge("sin", 1.0, 0.1, 1.0, 0.0), SearchData(x, y, x, y), settings)
    return work_done() - before


def test_more_steps_and_more_points_are_more_work():
    assert 0 < work_of(1) < work_of(3)
    assert work_of(1, 50) < work_of(1, 200)


def test_regressions_count_their_points_and_use_only_part_of_a_long_table():
    def regression(rows):
        x = np.random.default_rng(0).uniform(1, 2, (rows, 2))
        y = np.sin(9 * x[:, 0] * x[:, 1]) + x[:, 1]
        data = SearchData(x, y, x, y)
        return SparseSearch(SearchProblem(data, choose(["exp"])), data)

    def work(rows):
        before = work_done()
        regression(rows).run(short=True)
        return work_done() - before

    assert work(800) > 1.5 * work(100)
    assert regression(4 * LARGEST_SAMPLE).y.size == LARGEST_SAMPLE


def test_a_budget_is_over_when_its_work_is_done():
    budget = Budget(1.0)
    count_work(0.6)
    assert not budget.over
    assert np.isclose(budget.used, 0.6)
    count_work(0.6)
    assert budget.over
    assert list(limited((count_work(1.0) for _ in range(9)), Budget(5.5))) == [None] * 5


def test_each_thread_has_its_own_clock():
    before = work_done()
    thread = threading.Thread(target=count_work, args=(2.0,))
    thread.start()
    thread.join()
    assert work_done() == before


def test_a_limit_ends_a_refit_while_it_runs():
    with pytest.raises(WorkSpent), Budget(0.5 * work_of(10)).enforced():
        work_of(10)


def test_budget_inside_an_enforced_limit_is_no_larger():
    with Budget(1.0).enforced():
        assert Budget(60.0).units < 1.0


def test_timed_budget_stops_by_the_clock_whatever_work_was_counted(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(budget_module, "thread_time", lambda: clock[0])
    timed = Budget(2.0, timed=True)
    untimed = Budget(2.0)
    with timed.enforced():
        clock[0] = 5.9  # the limit is 1.5 * 2 + 3
        count_work(0.0)
        clock[0] = 6.1
        with pytest.raises(WorkSpent):
            count_work(0.0)
    assert timed.stopped
    with untimed.enforced():
        count_work(0.0)  # the limit has been removed
    assert not untimed.stopped


def test_a_search_that_takes_far_longer_than_it_counts_keeps_its_best_and_says_so(monkeypatch):
    """After the first formula, the clock advances by 5 CPU seconds at every count."""
    x = np.random.default_rng(0).uniform(1, 2, (60, 2))
    y = x[:, 0] * x[:, 1] ** 2 * (1 + 1e-3 * np.sin(40 * x[:, 0]))
    found = interpret(x, y, budget=3.0)
    assert "another machine" not in found.sentence
    calls = itertools.count()
    passed = lambda: 5.0 * max(next(calls) - 400, 0)  # noqa: E731
    monkeypatch.setattr(budget_module, "thread_time", passed)
    found = interpret(x, y, budget=3.0)
    assert found.formula is not None
    assert "far beyond budget=3; kept the best result so far, and another machine may" in (
        found.sentence
    )
