"""Which inputs act together: modules of a trained network, found by how its gradient turns.

A set A of inputs is a module of f when f(x) = F(u(x_A), x_rest): then the direction of the gradient within A does not
depend on the rest. (Udrescu et al., arXiv 2006.10782, call this generalised symmetry.) The tests only propose
structures; training decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.refit import train_graph
from kanrun.engine.symbolic.search_problem import SearchProblem
from kanrun.engine.symbolic.templates import Template, first_shapes, kan_shape, tree_shapes

Gradient = Callable[[Array], Array]


def module_scores(
    gradient: Gradient,
    x: Array,
    generator: np.random.Generator,
    inputs: Sequence[int],
    points: int = 400,
) -> dict[tuple[int, ...], float]:
    """For every subset of 2 ... n - 1 of the n `inputs`, the median sine of the angle by which the gradient within it
    turns when the other inputs change, relative to how much it turns at all, on so many `points`; 0 for a module.

    `gradient` maps x (N, columns) to (N, columns), in units of each input's spread.
    """
    pick = generator.permutation(x.shape[0])[:points]
    here, there = x[pick], x[np.roll(pick, 1)]
    scores = {}
    base = gradient(here)
    for count in range(2, len(inputs)):
        for subset in itertools.combinations(inputs, count):
            inside = list(subset)
            swapped = there.copy()
            swapped[:, inside] = here[:, inside]
            scores[subset] = _turn(base[:, inside], gradient(swapped)[:, inside])
    return scores


def _turn(first: Array, second: Array) -> float:
    """Median sine of the angle between rows, as if opposite directions were the same; weighted by length."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    use = lengths > 0.02 * np.median(lengths)
    if not use.any():
        return 1.0
    cosine = np.einsum("ni,ni->n", first[use], second[use]) / lengths[use]
    return float(np.median(np.sqrt(np.clip(1 - cosine**2, 0, None))))


def trees(scores: dict[tuple[int, ...], float], threshold: float) -> list[list[tuple[int, ...]]]:
    """Nested families of modules, most promising first: the clearest module, then those that neither cut it nor one
    another.

    Each family has at least one module; a set that is a union of others is left out when they explain it.
    """
    order = sorted(
        (s for s in scores if scores[s] < threshold), key=lambda s: scores[s] * (1 + 0.3 * len(s))
    )
    families = []
    for first in order[:3]:
        family = [first]
        for other in order:
            if other not in family and all(_nested(other, member) for member in family):
                family.append(other)
        family.sort(key=len)
        if family not in families:
            families.append(family)
    return families


def _nested(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    first, second = set(a), set(b)
    return first <= second or second <= first or not first & second


def module_templates(
    problem: SearchProblem, generator: np.random.Generator
) -> tuple[list[Template], float]:
    """Structures from the modules of a wide KAN, none where it did not train or nothing acts together; and its
    error."""
    data, policy = problem.data, problem.policy
    width, intervals = policy.surrogate
    shape = (data.x.shape[1], width, 1)
    wide = replace(policy.training, starts=2, grids=(intervals,))
    starts = (
        kan_shape(shape, data.x, data.y, 4, policy.degree, generator) for _ in range(wide.starts)
    )
    trained = train_graph(starts, data, wide)
    if trained.error > policy.training.hopeless:
        return [], trained.error
    spread = data.x.std(0)

    def gradient(x: Array) -> Array:
        return np.asarray(np.stack(trained.graph.derivatives(x)[1], axis=1) * spread)

    strength = np.sqrt(np.mean(gradient(data.x) ** 2, axis=0)) / data.y_std
    used = [i for i in range(shape[0]) if strength[i] > max(2 * trained.error, 1e-3)]
    if not 2 < len(used) <= policy.module_inputs:
        return (first_shapes(used) if 0 < len(used) < shape[0] else []), trained.error
    rows = np.where(np.isin(np.arange(shape[0]), used), data.x, data.x.mean(0))
    scores = module_scores(gradient, rows, generator, used)
    families = trees(scores, max(policy.module, policy.uncertain * trained.error))
    return tree_shapes(families, used), trained.error
