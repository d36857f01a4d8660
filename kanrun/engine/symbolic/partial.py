"""Networks that stay numeric on some edges: each edge is snapped only if the network stays as good as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kanrun.engine.symbolic.candidates import Candidate
from kanrun.engine.symbolic.effort import Effort, refit_effort
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.matching import Match, match_edge
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.selection import JOINT_STEPS, MATCHING_EFFORT, joint

#: Candidates of an edge that are tried in the network, and rounds over the edges that were refused.
_TRIED, _ROUNDS = 3, 2


@dataclass(frozen=True)
class Decision:
    """What became of edge `index` of the network: `symbolic` as `candidate`, or numeric, and why."""

    index: int
    symbolic: bool
    candidate: str
    r2: float
    why: str


@dataclass(frozen=True)
class Mixed:
    """The network with what candidates could take over, its relative validation error, and a decision an edge."""

    graph: Graph
    error: float
    decisions: tuple[Decision, ...]

    @property
    def symbolic(self) -> int:
        return sum(decision.symbolic for decision in self.decisions)


@dataclass
class _Progress:
    graph: Graph
    allowed: float
    reference: float
    effort: Effort
    decisions: dict[int, Decision] = field(default_factory=dict)


def partly_symbolic(
    network: Graph,
    samples: Samples,
    candidates: Sequence[Candidate],
    known: dict[int, list[Match]],
    allowed: float,
    limit: float,
) -> Mixed:
    """`network` with edges snapped one by one, the clearest first, as long as its relative validation error after a
    joint refit stays at most `allowed`.

    `known` are matches found before (composites among them) by edge; no candidate is tried after an effort of `limit`.
    """
    state = _Progress(network, allowed, max(samples.error(network), 1e-300), Effort(limit))
    for _ in range(_ROUNDS):
        before = len(state.graph.numeric_edges())
        for index in _by_clarity(state.graph, known):
            if state.effort.over:
                state.decisions.setdefault(index, Decision(index, False, "", np.nan, "the search was long enough"))
                continue
            _decide(state, index, samples, candidates, known.get(index, []))
        if len(state.graph.numeric_edges()) in (0, before):
            break
    decisions = tuple(state.decisions[index] for index in sorted(state.decisions))
    return Mixed(state.graph, samples.error(state.graph), decisions)


def _by_clarity(graph: Graph, known: dict[int, list[Match]]) -> list[int]:
    best = {i: min((match.score for match in known.get(i, [])), default=0.0) for i in graph.numeric_edges()}
    return sorted(best, key=lambda i: best[i])


def _decide(
    state: _Progress, index: int, samples: Samples, candidates: Sequence[Candidate], known: list[Match]
) -> None:
    """Tries the edge's best candidates, matched to the network as it is by now."""
    values, outs = state.graph.edge_outputs(samples.x)
    fresh = match_edge(values[state.graph.edges[index].source], outs[index], candidates)
    names = {match.name for match in fresh}
    matches = sorted([*fresh, *(match for match in known if match.name not in names)], key=lambda match: match.score)
    tried: list[tuple[float, Match]] = []
    state.effort.spend(MATCHING_EFFORT)
    for match in matches[:_TRIED]:
        if tried and state.effort.over:
            break
        snapped = state.graph.with_function(index, match.function)
        state.effort.spend(refit_effort(snapped, samples.y.size, JOINT_STEPS))
        trial = joint(snapped, samples, 1e-16)
        if trial.error <= state.allowed:
            state.graph = trial.graph
            state.decisions[index] = Decision(index, True, match.name, match.r2, "the network stays as good")
            return
        tried.append((trial.error, match))
    state.decisions[index] = _refusal(index, tried, state.reference)


def _refusal(index: int, tried: list[tuple[float, Match]], reference: float) -> Decision:
    if not tried:
        return Decision(index, False, "", np.nan, "no candidate is defined where its argument lies")
    error, match = min(tried, key=lambda entry: entry[0])
    if not np.isfinite(error):
        return Decision(
            index, False, match.name, match.r2, "its best candidates leave their domain or their constants diverge"
        )
    why = f"its best candidate would make the network {error / reference:.3g} times as wrong"
    return Decision(index, False, match.name, match.r2, why)
