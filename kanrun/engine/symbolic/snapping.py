"""From a trained network to a formula: pruned, retrained on finer grids, its edges snapped, wholly or in part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kanrun.engine.symbolic.budget import Effort, refit_effort
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.graph_training import TrainedGraph, extend
from kanrun.engine.symbolic.pruning import eliminate, without_detours
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SearchSettings
from kanrun.engine.symbolic.selection import JOINT_STEPS, MATCHING_EFFORT, Selected, joint, select, select_further
from kanrun.engine.symbolic.templates import fitted_grids


@dataclass(frozen=True)
class Stage:
    """One stage of one structure; `error` is relative to the spread, on validation data.

    Stages are `train`, `prune`, `retrain`, `snap` (candidates in place, constants as matched), `refit`, then of the
    structure that was chosen `mix` (where edges stay numeric), `round` and `verify`. `values` is the stage's model
    where that is not `graph`.
    """

    stage: str
    name: str
    graph: Graph
    error: float
    seconds: float
    values: Callable[[Array], Array] | None = None

    @property
    def model(self) -> Callable[[Array], Array]:
        return self.values or self.graph


@dataclass(frozen=True)
class Tried:
    """A structure's pruned and retrained network and, where there is one, its formula."""

    name: str
    network_error: float
    selected: Selected

    @property
    def network(self) -> Graph:
        return self.selected.network

    @property
    def formula(self) -> Graph | None:
        return self.selected.graph

    @property
    def formula_error(self) -> float:
        return self.selected.error

    @property
    def matches(self) -> dict[int, list[EdgeMatch]]:
        return self.selected.matches

    def is_exact(self, exact: float) -> bool:
        return self.formula is not None and self.formula_error <= exact


#: Grid on which edges are pruned: fine enough to tell, coarse enough to be quick.
_PRUNING_INTERVALS = 8


def refine_to_formula(
    name: str, trained: TrainedGraph, samples: SearchData, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Stage | Tried]:
    """Prunes a trained network, extends its grids again, and snaps its edges, with composites where they must be."""
    for event in snapped(name, trained, samples, candidates, settings):
        if isinstance(event, Tried):
            yield from deepened(event, samples, candidates, settings)
        else:
            yield event


def snapped(
    name: str, trained: TrainedGraph, samples: SearchData, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Stage | Tried]:
    """Prunes a trained network, extends its grids again, and snaps its edges to single candidates."""
    began = time.monotonic()
    pruned = pruned_network(trained, samples, settings)
    yield Stage("prune", name, pruned, samples.error(pruned), time.monotonic() - began)
    began = time.monotonic()
    network = retrained(pruned, trained, samples, settings)
    yield Stage("retrain", name, network.graph, network.error, time.monotonic() - began)
    began = time.monotonic()
    selected = select(network.graph, samples, candidates, settings.exact, settings.selection)
    yield from _steps(name, selected, samples, time.monotonic() - began)
    yield Tried(name, network.error, selected)


def deepened(
    tried: Tried, samples: SearchData, candidates: Sequence[Candidate], settings: SearchSettings
) -> Iterator[Stage | Tried]:
    """What was tried, after a longer search where it is not exact yet."""
    if tried.is_exact(settings.exact):
        yield tried
        return
    began = time.monotonic()
    selected = select_further(tried.selected, samples, candidates, settings.exact, settings.selection)
    if selected.error < tried.selected.error:
        yield from _steps(tried.name, selected, samples, time.monotonic() - began)
    yield replace(tried, selected=selected)


def _steps(name: str, selected: Selected, samples: SearchData, seconds: float) -> Iterator[Stage]:
    if selected.graph is not None and selected.snapped is not None:
        yield Stage("snap", name, selected.snapped, samples.error(selected.snapped), seconds - selected.refitting)
        yield Stage("refit", name, selected.graph, selected.error, selected.refitting)


def pruned_network(trained: TrainedGraph, samples: SearchData, settings: SearchSettings) -> Graph:
    """The network without the edges and nodes it does not need, which are tried out on a coarser grid; the trained
    network itself where nothing could go."""
    penalty = settings.numeric.penalty
    coarse = trained.graph
    if max((intervals_of(trained.graph)), default=0) > _PRUNING_INTERVALS:
        coarse = fitted_grids(trained.graph, samples.x, intervals=_PRUNING_INTERVALS)
        coarse = refit(coarse, samples.x, samples.y, RefitSettings(steps=15, penalty=penalty, gain=1e-2)).graph
    pruned = eliminate(coarse, samples, slack=0.3, floor=1e-7, penalty=penalty)
    pruned = without_detours(pruned, samples, slack=0.3, floor=1e-7, penalty=penalty)
    return trained.graph if pruned.active_edges == coarse.active_edges else pruned


def retrained(pruned: Graph, trained: TrainedGraph, samples: SearchData, settings: SearchSettings) -> TrainedGraph:
    """A pruned network on finer grids again; as it is where nothing was pruned."""
    if pruned is trained.graph:
        return trained
    return extend(pruned, samples, settings.numeric.grids[-2:], settings.numeric)


def intervals_of(graph: Graph) -> list[int]:
    """G of every spline."""
    return [edge.function.intervals for edge in graph.edges if isinstance(edge.function, Spline)]


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
    samples: SearchData,
    candidates: Sequence[Candidate],
    known: dict[int, list[EdgeMatch]],
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


def _by_clarity(graph: Graph, known: dict[int, list[EdgeMatch]]) -> list[int]:
    best = {i: min((match.score for match in known.get(i, [])), default=0.0) for i in graph.numeric_edges()}
    return sorted(best, key=lambda i: best[i])


def _decide(
    state: _Progress, index: int, samples: SearchData, candidates: Sequence[Candidate], known: list[EdgeMatch]
) -> None:
    """Tries the edge's best candidates, matched to the network as it is by now."""
    values, outs = state.graph.edge_outputs(samples.x)
    fresh = match_edge(values[state.graph.edges[index].source], outs[index], candidates)
    names = {match.name for match in fresh}
    matches = sorted([*fresh, *(match for match in known if match.name not in names)], key=lambda match: match.score)
    tried: list[tuple[float, EdgeMatch]] = []
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


def _refusal(index: int, tried: list[tuple[float, EdgeMatch]], reference: float) -> Decision:
    if not tried:
        return Decision(index, False, "", np.nan, "no candidate is defined where its argument lies")
    error, match = min(tried, key=lambda entry: entry[0])
    if not np.isfinite(error):
        return Decision(
            index, False, match.name, match.r2, "its best candidates leave their domain or their constants diverge"
        )
    why = f"its best candidate would make the network {error / reference:.3g} times as wrong"
    return Decision(index, False, match.name, match.r2, why)
