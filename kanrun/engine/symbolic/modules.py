"""Which inputs act together: modules of a trained network, found by how its gradient turns.

A set A of inputs is a module of f when f(x) = F(u(x_A), x_rest): then the direction of the gradient within A does not
depend on the rest. (Udrescu et al., arXiv 2006.10782, call this generalised symmetry.) The tests only propose
structures; training decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.skeletons import Plain, Product, Sum, Term

Gradient = Callable[[Array], Array]

#: Inputs up to which all subsets are tested.
MOST_INPUTS = 9
_POINTS = 400


def module_scores(gradient: Gradient, x: Array, generator: np.random.Generator) -> dict[tuple[int, ...], float]:
    """For every subset of 2 ... n - 1 inputs, the median sine of the angle by which the gradient within it turns when
    the other inputs change, relative to how much it turns at all; 0 for a module.

    `gradient` maps x (N, n) to (N, n), in units of each input's spread.
    """
    inputs = x.shape[1]
    pick = generator.permutation(x.shape[0])[:_POINTS]
    here, there = x[pick], x[np.roll(pick, 1)]
    scores = {}
    base = gradient(here)
    for count in range(2, inputs):
        for subset in itertools.combinations(range(inputs), count):
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
    order = sorted((s for s in scores if scores[s] < threshold), key=lambda s: scores[s] * (1 + 0.3 * len(s)))
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


def tree(
    family: Sequence[tuple[int, ...]], inputs: Sequence[int], products: frozenset[tuple[int, ...]]
) -> tuple[Term, ...]:
    """The top level's terms: each module one Sum over its parts, with a product of them where `products` names it."""
    parts: dict[tuple[int, ...], Term] = {(i,): i for i in inputs}
    for module in sorted(family, key=len):
        inner = [key for key in parts if set(key) <= set(module)]
        terms = tuple(parts.pop(key) for key in inner)
        parts[module] = with_product(terms) if module in products else Sum(terms)
    return tuple(parts.values())


def with_product(terms: tuple[Term, ...]) -> Sum:
    """The sum of a function of each term and of the product of a function of each."""
    return Sum((*terms, Plain(Product(terms))))
