"""The short list of structures that the shape search goes through, from sums to depth four."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kanrun.engine.symbolic.modules import tree, with_product
from kanrun.engine.symbolic.skeletons import Plain, Product, Skeleton, Sum, Term

#: Inputs up to which a product of a function of each is tried.
_MOST_FACTORS = 6


def first_shapes(inputs: Sequence[int]) -> list[Skeleton]:
    """[n,1], [n,1,1], then one multiplication node beside the sum, inside and outside an outer function.

    `inputs` are the columns in use; with one, a function and nothing else.
    """
    terms: tuple[Term, ...] = tuple(inputs)
    if len(terms) == 1:
        return [Skeleton("1-1", Sum(terms))]
    shapes = tops(terms, f"{len(terms)}")
    if len(terms) == 2:
        for j in inputs:
            shapes.append(Skeleton(f"f{j}*g(f0+f1)", Sum((Plain(Product((j, Sum(terms)))),)), 1.5))
            inner = Sum((Plain(Product(terms)),))
            shapes.append(Skeleton(f"f{j}*g(f0*f1)", Sum((Plain(Product((j, inner))),)), 1.5))
    return shapes


def tops(terms: tuple[Term, ...], name: str) -> list[Skeleton]:
    """The ways in which a formula's outermost parts go together."""
    shapes = [Skeleton(f"{name}-1", Sum(terms)), Skeleton(f"{name}-1-1", Sum((Sum(terms),)))]
    if 1 < len(terms) <= _MOST_FACTORS:
        shapes.append(Skeleton(f"{name}-1 with product", with_product(terms)))
        shapes.append(Skeleton(f"{name}-1-1 with product", Sum((with_product(terms),))))
    return shapes


def tree_shapes(families: Sequence[Sequence[tuple[int, ...]]], inputs: Sequence[int]) -> list[Skeleton]:
    """Structures whose parts are the modules found, with sums or products inside each."""
    shapes = []
    for family in families:
        inner = [module for module in family if len(module) > 1]
        for count in range(min(len(inner), 2) + 1):
            for products in itertools.combinations(inner, count):
                terms = tree(family, inputs, frozenset(products))
                shown = " ".join("".join(map(str, module)) + ("*" if module in products else "") for module in family)
                shapes += tops(terms, f"({shown})")
    return shapes


def deep_shapes(inputs: int) -> list[tuple[int, ...]]:
    """Fully connected KANs for what no structure above reaches, up to depth four."""
    shapes = [(inputs, 2, 1), (inputs, 2, 1, 1), (inputs, 5, 1)]
    return [*shapes, (inputs, 4, 2, 1), (inputs, 3, 2, 1, 1)] if inputs > 2 else shapes
