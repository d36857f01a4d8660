"""Formulas of one variable for points with noise, or too few to be exact: nonlinear regression that seeks its model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.description_length import SearchData, length_of
from kanrun.engine.symbolic.dictionary import dictionary, waves
from kanrun.engine.symbolic.edge_matching import EdgeMatch
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.search_problem import UnivariatePolicy
from kanrun.engine.symbolic.trees import Subgraph
from kanrun.engine.symbolic.univariate import Sought, UnivariateSearch


def regression_formulas(
    t: Array, values: Array, candidates: Sequence[Candidate], budget: Budget, policy: UnivariatePolicy
) -> list[Graph]:
    """Graphs of one input for values (N,) at t (N,), shortest description first: one or two entries of the dictionary,
    then term after term, first of plain functions, then of compositions too; all constants are fitted to all points."""
    order = np.argsort(t, kind="stable")
    search = _Regression(t[order], values[order], candidates, 0.0, policy)
    target = Sought(search.y, None)
    with np.errstate(all="ignore"):
        every = dictionary(search.t, candidates) + waves(search.t, candidates)
        plain = every.chosen([i for i, family in enumerate(every.families) if "(" not in family])
        for entries in (plain, every.simplest(policy.entries)):
            search.singles(target, entries)
            search.pairs(target, entries, None, policy.singles)
            for _ in search.grown(entries, budget):
                if budget.over:
                    break
    return [match.function.graph for match in search.best() if isinstance(match.function, Subgraph)]


class _Regression(UnivariateSearch):
    """What is found is ranked by its description length."""

    def ranked(self, found: list[EdgeMatch]) -> list[EdgeMatch]:
        data = SearchData(self.t[:, None], self.y, self.t[:, None], self.y)

        def length(match: EdgeMatch) -> float:
            graph = match.function.graph if isinstance(match.function, Subgraph) else Graph(1, ("sum",), ())
            return length_of(match.loss**0.5, graph.parameters.size, graph.complexity, data)

        return sorted(found, key=length)
