"""Whole assignments of functions to a graph's edges, the most promising first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from kanrun.engine.symbolic.edges import EdgeFunction
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.matching import Match


def assignments(matches: dict[int, list[Match]], per_edge: int) -> Iterator[dict[int, EdgeFunction]]:
    """One match an edge, in the order of the sum of their scores."""
    edges = list(matches)
    lists = [matches[i][:per_edge] for i in edges]
    first = (0,) * len(edges)
    heap, seen = [(sum(choices[0].score for choices in lists), first)], {first}
    while heap:
        score, chosen = heapq.heappop(heap)
        yield {i: choices[k].function for i, choices, k in zip(edges, lists, chosen, strict=True)}
        for position in range(len(edges)):
            k = chosen[position]
            step = (*chosen[:position], k + 1, *chosen[position + 1 :])
            if k + 1 < len(lists[position]) and step not in seen:
                seen.add(step)
                more = lists[position][k + 1].score - lists[position][k].score
                heapq.heappush(heap, (score + more, step))


def assigned(graph: Graph, functions: dict[int, EdgeFunction]) -> Graph:
    for i, function in functions.items():
        graph = graph.with_function(i, function)
    return graph
