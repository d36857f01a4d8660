"""Richer fields of the same function: inserted knots, added terms, values extended in time."""

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

from kanrun.engine.equations.fields import Field, OutputForm
from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import (
    breakpoints_of,
    fit_coefficients,
    sample_points,
    spline_values,
)

#: Factor by which halving an interval is assumed to reduce its squared residual. An interval is
#: halved twice before another one is halved once if its residual is this many times larger.
HALVED = 0.01
#: Intervals narrower than twice this fraction of the range are not halved.
NARROWEST = 1e-6
#: Largest difference of the spacings of breakpoints that count as uniform, on [-1, 1].
UNIFORM = 1e-9
#: Fraction of the mean squared residual per interval below which residuals count as equal.
NEGLIGIBLE_SQUARES = 1e-12


def edges_of(solution: Field) -> Float[Tensor, "variables points"] | None:
    """Return the breakpoints of each variable on [-1, 1]; None for a network without grids."""
    layers = list(solution.network.edge_layers)
    if solution.intervals is None or not layers:
        return None
    return breakpoints_of(layers[0].knots, layers[0].spec.degree).detach()


def insert_knots(
    solution: Field, intervals: int, points: Tensor, squares: Float[Tensor, " points"]
) -> Field:
    """Return the same function on more intervals, most of them where `squares` are large.

    `squares` are squared residuals at `points`. Each interval of a variable collects those of its
    slab, and the interval with the largest sum is halved. Hidden layers keep uniform knots, as does
    a last variable of fixed polynomials. A smaller number of intervals than at present replaces the
    knots.
    """
    edges, layers = edges_of(solution), list(solution.network.edge_layers)
    inner = solution.inner(points)
    assert edges is not None  # An invariant: called for networks with grids only.
    if intervals < edges.shape[1] - 1:
        return solution.with_network(solution.network.refined(intervals, inner).network)
    rows = [_split(edges[i], inner[:, i], squares, intervals) for i in range(len(edges))]
    if solution.form.fixed_last:
        rows[-1] = torch.linspace(-1, 1, intervals + 1).to(edges)
    breakpoints = torch.stack(rows)
    spacing = breakpoints.diff(dim=1)
    uniform = bool((spacing.amax(1) - spacing.amin(1) < UNIFORM).all())
    first, _ = layers[0].moved(breakpoints, uniform=uniform)
    hidden = [layer.refined(intervals)[0] for layer in layers[1:]]
    return solution.with_network(KAN.of_layers([first, *hidden]))


def _split(edges: Tensor, at: Tensor, squares: Tensor, intervals: int) -> Tensor:
    number = (torch.searchsorted(edges.contiguous(), at.contiguous()) - 1).clamp(0, len(edges) - 2)
    sums = squares.new_zeros(len(edges) - 1).index_add_(0, number, squares)
    ends = edges.tolist()
    floor = float(sums.sum()) * NEGLIGIBLE_SQUARES / len(sums) + np.finfo(float).tiny
    pairs = zip(sums.tolist(), pairwise(ends), strict=True)
    cells = [(-each - floor, low, high) for each, (low, high) in pairs]
    heapq.heapify(cells)
    while len(cells) < intervals and cells[0][0] <= 0:
        size, low, high = cells[0]
        if high - low < 2 * NARROWEST * (ends[-1] - ends[0]):
            heapq.heapreplace(cells, (inf, low, high))
            continue
        heapq.heapreplace(cells, (size * HALVED, low, (low + high) / 2))
        heapq.heappush(cells, (size * HALVED, (low + high) / 2, high))
    return edges.new_tensor([*sorted(low for _, low, _ in cells), ends[-1]])


def with_terms(
    solution: Field, count: int, size: float, generator: Generator, *, lowest: bool = False
) -> Field:
    """Return the field with `count` further terms, or without its last ones if negative; one stays.

    In a separated form, further terms leave the function as it is. Their first factors are zero,
    the others polynomials: the `lowest`, or those that follow on the present ones. Otherwise they
    have random coefficients of this size in the last layer.
    """
    *others, last = solution.network.edge_layers
    form, more = solution.form, max(count, 0)
    new_form = replace(form, terms=max(1, form.terms + count))
    edges = breakpoints_of(last.knots, last.spec.degree)
    layer = SplineLayer.on_grid(edges, new_form.outputs, last.spec, uniform=last.uniform)
    if form.separated:
        layer.mask.copy_(new_form.mask(last.inputs))
    with torch.no_grad():
        pairs = zip(layer.named_parameters(), last.parameters(), strict=True)
        for (name, new), old in pairs:
            parts = old.unflatten(0, (form.unknowns, form.terms, form.factors))
            parts = parts[:, : new_form.terms]
            added = torch.ones_like(parts[:, :1]).expand(-1, more, *parts.shape[2:]).clone()
            if name == "coefficients" and form.separated:
                every = _polynomials(last, new_form)
                every = every.unflatten(0, (form.unknowns, new_form.terms, form.factors))
                added = every[:, :more] if lowest else every[:, form.terms :]
            elif name == "coefficients":
                added = size * torch.randn(added.shape, generator=generator, dtype=added.dtype)
            new.copy_(torch.cat([parts, added], dim=1).flatten(0, 2))
    network = KAN.of_layers([*others, layer])
    return Field(network, new_form, solution.box, solution.sizes, solution.hard)


def with_polynomials(field: Field) -> Field:
    """Return the zero function in a separated form: zero times Legendre polynomials.

    Its residuals are linear in the first factors. The first step therefore solves a linear equation
    among all functions sum_r f_r(x_1) P_r(x_2, ...).
    """
    made = deepcopy(field)
    (layer,) = made.network.edge_layers
    with torch.no_grad():
        layer.coefficients.copy_(_polynomials(layer, field.form))
    return made


def _polynomials(layer: SplineLayer, form: OutputForm) -> Tensor:
    """Return coefficients (outputs, inputs, functions) of products of polynomials, one per term."""
    inputs = layer.inputs
    products = itertools.product(range(form.terms), repeat=inputs - 1)
    degrees = sorted(products, key=lambda each: (sum(each), each))
    x = sample_points(layer.grid, layer.spec.degree + 1)
    table = np.moveaxis(np.polynomial.legendre.legvander(x.cpu().numpy(), form.terms - 1), 2, 1)
    values = torch.as_tensor(table).to(layer.coefficients)
    fitted = fit_coefficients(x, values, layer.grid)  # (degrees, inputs, functions)
    shape = (form.unknowns, form.terms, inputs, inputs, layer.coefficients.shape[2])
    result = layer.coefficients.new_zeros(shape)
    for term in range(form.terms):
        for number, degree in enumerate(degrees[term], start=1):
            result[:, term, number, number] = fitted[degree, number]
    return result.flatten(0, 2)


def extend_constant(solution: Field, box: Tensor) -> Field:
    """Extend `solution` into the next window `box` as a constant in time.

    The first layer's functions of the last variable become constants, their values at the end;
    edges have no base. In a separated form of two variables the first term takes over the sum of
    all terms, and the others restart.
    """
    made, edges, form = deepcopy(solution), edges_of(solution), solution.form
    assert edges is not None  # An invariant: called for networks with grids only.
    first = made.network.edge_layers[0]
    with torch.no_grad():
        ends = spline_values(edges[:, -1][None], first.coefficients, first.grid)[0, :, -1:]
        if form.separated and len(box) == 2:
            shape = (form.unknowns, form.terms, 2)
            parts = first.coefficients.unflatten(0, shape)[:, :, 0, 0]
            total = (parts * ends.unflatten(0, shape)[:, :, 1]).sum(1)
            first.coefficients.copy_(_polynomials(first, form))
            first.coefficients.unflatten(0, shape)[:, 0, 0, 0] = total
        else:
            first.coefficients[:, -1] = ends
        made.box.copy_(box)
    return made
