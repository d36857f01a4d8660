"""Richer fields of the same function: knots inserted where the residual is, terms added, values held in time."""

from __future__ import annotations

import heapq
import itertools
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import inf

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from kanrun.engine.equations.field import Field, OutputForm
from kanrun.engine.layers import SplineLayer, move_layer, refine_layer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import breakpoints_of, fit_coefficients, sample_points


def edges_of(solution: Field) -> Float[Tensor, "variables points"] | None:
    """The breakpoints of each variable on [-1, 1]; None for a network without grids."""
    layers = list(solution.network.edge_layers)
    if solution.intervals is None or not layers:
        return None
    return breakpoints_of(layers[0].knots, layers[0].spec.degree).detach()


def insert(
    solution: Field,
    intervals: int,
    points: Tensor,
    squares: Float[Tensor, " points"],
    halved: float,
    narrowest: float,
) -> Field:
    """The same function on `intervals` intervals in each variable, more of them where `squares` are large.

    `squares` are squared residuals at `points`; each variable's intervals collect those of their slabs, and the one
    with the largest sum is halved, after which its halves count `halved` times as much each. Hidden layers keep equally
    spaced knots, as does a last variable of fixed polynomials. A number of intervals below the present one draws them
    anew.
    """
    edges, layers, inner = (
        edges_of(solution),
        list(solution.network.edge_layers),
        solution.inner(points),
    )
    assert edges is not None  # an invariant: asked of networks with grids only
    if intervals < edges.shape[1] - 1:
        return solution.with_network(solution.network.refined(intervals, inner).network)
    rows = [
        _split(edges[i], inner[:, i], squares, intervals, halved, narrowest)
        for i in range(len(edges))
    ]
    if solution.form.fixed_last:
        rows[-1] = torch.linspace(-1, 1, intervals + 1).to(edges)
    breakpoints = torch.stack(rows)
    spacing = breakpoints.diff(dim=1)
    uniform = bool((spacing.amax(1) - spacing.amin(1) < 1e-9).all())
    first, _ = move_layer(layers[0], breakpoints, uniform=uniform)
    rest = [refine_layer(layer, intervals)[0] for layer in layers[1:]]
    return solution.with_network(KAN.of_layers([first, *rest]))


def _split(
    edges: Tensor, at: Tensor, squares: Tensor, intervals: int, halved: float, narrowest: float
) -> Tensor:
    number = (torch.searchsorted(edges.contiguous(), at.contiguous()) - 1).clamp(0, len(edges) - 2)
    sums = squares.new_zeros(len(edges) - 1).index_add_(0, number, squares)
    ends, floor = edges.tolist(), float(sums.sum()) * 1e-12 / len(sums) + 1e-300
    cells = [
        (-each - floor, low, high)
        for each, (low, high) in zip(sums.tolist(), pairwise(ends), strict=True)
    ]
    heapq.heapify(cells)
    while len(cells) < intervals and cells[0][0] <= 0:
        size, low, high = cells[0]
        if high - low < 2 * narrowest * (ends[-1] - ends[0]):
            heapq.heapreplace(cells, (inf, low, high))
            continue
        heapq.heapreplace(cells, (size * halved, low, (low + high) / 2))
        heapq.heappush(cells, (size * halved, (low + high) / 2, high))
    return edges.new_tensor([*sorted(low for _, low, _ in cells), ends[-1]])


def with_terms(
    solution: Field, count: int, size: float, generator: Generator, *, lowest: bool = False
) -> Field:
    """The field with `count` more terms, or without as many of its last ones where that is negative; one stays.

    In a separated form further ones leave the function as it is: their first factors are zero, the others polynomials,
    the `lowest` or those that follow on the terms that are there. Else they have random numbers of that size in the
    last layer.
    """
    *others, last = solution.network.edge_layers
    form = solution.form
    made_form = replace(form, terms=max(1, form.terms + count))
    edges = breakpoints_of(last.knots, last.spec.degree)
    made = SplineLayer.on_grid(edges, made_form.outputs, last.spec, uniform=last.uniform)
    if form.separated:
        made.mask.copy_(made_form.mask(last.inputs))
    with torch.no_grad():
        for (name, new), (_, old) in zip(
            made.named_parameters(), last.named_parameters(), strict=True
        ):
            parts = old.unflatten(0, (form.unknowns, form.terms, form.factors))[
                :, : made_form.terms
            ]
            more = torch.ones_like(parts[:, :1]).expand(-1, max(count, 0), *parts.shape[2:]).clone()
            if name == "coefficients" and form.separated:
                every = _polynomials(last, made_form).unflatten(
                    0, (form.unknowns, made_form.terms, form.factors)
                )
                more = every[:, : max(count, 0)] if lowest else every[:, form.terms :]
            elif name == "coefficients":
                more = size * torch.randn(more.shape, generator=generator, dtype=more.dtype)
            new.copy_(torch.cat([parts, more], dim=1).flatten(0, 2))
    return Field(
        KAN.of_layers([*others, made]), made_form, solution.box, solution.sizes, solution.hard
    )


def with_polynomials(field: Field) -> Field:
    """The zero function in a separated form: first factors zero, the others products of Legendre polynomials.

    Its residuals are linear in the first factors, so that the first step solves a linear equation among all functions
    sum_r f_r(x_1) P_r(x_2, ...).
    """
    made = deepcopy(field)
    (layer,) = made.network.edge_layers
    with torch.no_grad():
        layer.coefficients.copy_(_polynomials(layer, field.form))
    return made


def _polynomials(layer: SplineLayer, form: OutputForm) -> Tensor:
    """Coefficients (outputs, inputs, functions) of a separated form: term r has the r-th product of polynomials."""
    inputs = layer.inputs
    degrees = sorted(
        itertools.product(range(form.terms), repeat=inputs - 1), key=lambda each: (sum(each), each)
    )
    x = sample_points(layer.grid, layer.spec.degree + 1)
    table = np.moveaxis(np.polynomial.legendre.legvander(x.cpu().numpy(), form.terms - 1), 2, 1)
    values = torch.as_tensor(table).to(layer.coefficients)
    fitted = fit_coefficients(x, values, layer.grid)  # (degrees, inputs, functions)
    result = layer.coefficients.new_zeros(
        form.unknowns, form.terms, inputs, inputs, layer.coefficients.shape[2]
    )
    for term in range(form.terms):
        for number, degree in enumerate(degrees[term], start=1):
            result[:, term, number, number] = fitted[degree, number]
    return result.flatten(0, 2)


def held(solution: Field, box: Tensor) -> Field:
    """On `box`, which follows in the last variable: everywhere what `solution` is at its end of that variable.

    The first layer's functions of the last variable become constants, the values at their ends; edges have no base. In
    a separated form of two variables the first term takes over what all have been, the others begin anew.
    """
    made, edges, form = deepcopy(solution), edges_of(solution), solution.form
    assert edges is not None  # an invariant: asked of networks with grids only
    first = made.network.edge_layers[0]
    with torch.no_grad():
        ends = first.spline_values(edges[:, -1][None])[0, :, -1:]
        if form.separated and len(box) == 2:
            parts = first.coefficients.unflatten(0, (form.unknowns, form.terms, 2))[:, :, 0, 0]
            total = (parts * ends.unflatten(0, (form.unknowns, form.terms, 2))[:, :, 1]).sum(1)
            first.coefficients.copy_(_polynomials(first, form))
            first.coefficients.unflatten(0, (form.unknowns, form.terms, 2))[:, 0, 0, 0] = total
        else:
            first.coefficients[:, -1] = ends
        made.box.copy_(box)
    return made
