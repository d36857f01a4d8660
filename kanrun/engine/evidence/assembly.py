"""Terms to one ordinary KAN: main effects through one straight hidden node, pairs as squared nodes, centres as bells.

h'W h / 2 = sum_r lambda_r (v_r'h)^2 / 2 by the eigenvectors of W: node r is v_r'h, a sum of functions of one input
each, and its outer edge is the parabola lambda_r z^2 / 2, which a cubic spline holds exactly. A weighted sum of members
has the weighted sum of their W, so a stack is one network too. Beyond the range that training rows give a node its
parabola continues in a straight line, so that combinations of values that no row has do not grow as squares.

A centre z of neighbourhoods is a node whose edges are the parabolas w_j (x_j - z_j)^2 / 2, and psi(s) = exp(-s) behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy import linalg
from scipy.interpolate import make_interp_spline

from kanrun.engine.evidence.basis import DEGREE
from kanrun.engine.evidence.design import SHAPES, Design, TableFunctions, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.radial import INTERVALS, RadialBasis, psi
from kanrun.engine.layers import EdgeSpec, SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import Extrapolation, breakpoints_of

OUTER_INTERVALS = 2  # of the outer edges: lines and parabolas need no more, bells `INTERVALS`
_NODE_ROWS = 100_000  # by which nodes are judged
_ROOM = 0.1  # of a node's range on the training rows, on either side, before its parabola goes on straight


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Directions (nodes, functions) of the squared nodes of one output, and half of their eigenvalues."""

    directions: ndarray
    factors: ndarray


def network_of(  # noqa: PLR0913 (keywords)
    fit_terms: Sequence[Terms],
    design: Design,
    h: TableFunctions,
    noise: ndarray | float,
    policy: EvidencePolicy,
    *,
    split: bool = False,
    hidden: bool = False,
    local: bool = False,
    extrapolation: Extrapolation = "linear",
) -> KAN:
    """The network of these terms, an output each; [inputs, outputs] where there are no pairs.

    `h` are the functions of the training rows, `noise` the standard deviation of what is left of each output. With
    `split` the one logit of two classes becomes -f/2 and f/2. With `hidden` there is a hidden layer without pairs too;
    with `local` the outer edges have the intervals of bells even where there are no neighbourhoods.
    `extrapolation` is that of the edges of the inputs. The network equals the terms but for the nodes left out, where
    no node leaves the range of its training rows.
    """
    outer_spec = EdgeSpec(degree=DEGREE, base="zero", trained_scales="none")
    spec = replace(outer_spec, extrapolation=extrapolation)
    mixing = np.array([[-0.5], [0.5]]) if split else np.eye(len(fit_terms))
    some = h.some(_NODE_ROWS)
    noises = np.broadcast_to(noise, len(fit_terms))
    nodes = [_nodes(one, some, each, policy) for one, each in zip(fit_terms, noises, strict=True)]
    offsets = np.array([one.offset for one in fit_terms])
    functions = len(design.lines)
    main = np.stack([one.main[:functions] for one in fit_terms])
    breakpoints = torch.as_tensor(design.basis.breakpoints)
    local = local or design.radial is not None
    if not hidden and not local and not any(len(one.factors) for one in nodes):
        layer = SplineLayer.on_grid(breakpoints, len(mixing), spec, uniform=False)
        edges = _shaped(_edges(design, mixing @ main), policy)
        edges[:, 0] += (mixing @ offsets)[:, None]  # B-splines sum to one
        _write(layer, edges, None)
        return KAN.of_layers([layer])
    directions = np.concatenate([main, *(one.directions for one in nodes)])
    bells = (
        design.radial.of_centres(np.stack([one.main[functions:] for one in fit_terms]))
        if design.radial
        else None
    )
    count = len(directions) + (0 if bells is None else bells.shape[1])
    inner = SplineLayer.on_grid(breakpoints, count, spec, uniform=False)
    edges = _shaped(_edges(design, directions), policy, len(main))
    if design.radial:
        edges = np.concatenate([edges, _parabolas(design.radial, inner.knots.numpy())])
    _write(inner, edges, None)
    ends = [
        (reach.min(0), reach.max(0)) for reach in (block @ directions.T for _, block in h.blocks())
    ]
    low, high = (np.array(each) for each in zip(*ends, strict=True))
    low, high = low.min(0), high.max(0)
    room = np.maximum(_ROOM * (high - low), 1e-6 * np.maximum(1.0, np.abs(high)))
    cuts = np.linspace(
        low - room, high + room, (INTERVALS if local else OUTER_INTERVALS) + 1, axis=1
    )
    if bells is not None:
        bell = psi().t[DEGREE:-DEGREE]
        cuts = np.concatenate([cuts, np.tile(bell, (bells.shape[1], 1))])
    outer = SplineLayer.on_grid(torch.as_tensor(cuts), len(mixing), outer_spec, uniform=True)
    coefficients = _outer(outer.knots.numpy()[: len(directions)], nodes, offsets)
    if bells is not None:
        coefficients = np.concatenate([coefficients, bells[:, :, None] * psi().c], 1)
    _write(outer, np.tensordot(mixing, coefficients, 1), mixing @ np.any(coefficients, axis=2) != 0)
    return KAN.of_layers([inner, outer])


def _parabolas(radial: RadialBasis, knots: ndarray) -> Float[ndarray, "centres inputs functions"]:
    """B-spline coefficients of w_j (x_j - z_j)^2 / 2, as the blossoms of `_outer`."""
    line, square = _powers(knots)
    centres = radial.centres[:, :, None]
    return np.asarray(radial.precisions[:, None] / 2 * (square - 2 * centres * line + centres**2))


def _powers(knots: Float[ndarray, "inputs knots"]) -> tuple[ndarray, ndarray]:
    """B-spline coefficients (inputs, functions) of z and of z^2.

    Coefficient i belongs to the three knots after knot i: those of z are their means, those of z^2 the means of the
    products of two of them (the blossoms of z and z^2).
    """
    a, b, c = (knots[:, i : knots.shape[1] - DEGREE - 1 + i] for i in (1, 2, 3))
    return (a + b + c) / 3, (a * b + a * c + b * c) / 3


def blended(networks: Sequence[KAN], maps: Sequence[tuple[ndarray, ndarray]]) -> KAN:
    """The sum of networks of one output over the same inputs, each through its piecewise linear map (from, to).

    A third layer has the maps as edges, by Schoenberg's approximation: straight lines exactly, and never outside the
    range of the map, whose ends go on as constants.
    """
    first, second = ([one.layer(i) for one in networks] for i in (0, 1))
    edges = np.concatenate([one.coefficients.detach().numpy() for one in first])
    inner = SplineLayer.on_grid(
        breakpoints_of(first[0].knots, DEGREE), len(edges), first[0].spec, uniform=False
    )
    _write(inner, edges, None)
    cuts = torch.cat([breakpoints_of(one.knots, DEGREE) for one in second])
    middle = SplineLayer.on_grid(cuts, len(networks), second[0].spec, uniform=True)
    flat = linalg.block_diag(*(one.coefficients.detach().numpy().reshape(1, -1) for one in second))
    mask = linalg.block_diag(*(one.mask.numpy() for one in second))
    _write(middle, flat.reshape(len(networks), len(cuts), -1), mask)
    points = max(len(values) for values, _ in maps)
    ends = [
        values if len(values) == points else np.linspace(values[0], values[-1], points)
        for values, _ in maps
    ]
    spec = replace(second[0].spec, extrapolation="constant")
    outer = SplineLayer.on_grid(torch.as_tensor(np.stack(ends)), 1, spec, uniform=False)
    knots = outer.knots.numpy()
    centres = (knots[:, 1:-3] + knots[:, 2:-2] + knots[:, 3:-1]) / DEGREE
    ways = [make_interp_spline(*one, k=1)(at) for at, one in zip(centres, maps, strict=True)]
    _write(outer, np.stack(ways)[None], None)
    return KAN.of_layers([inner, middle, outer])


def _nodes(terms: Terms, h: ndarray, noise: float, policy: EvidencePolicy) -> _Nodes:
    """The eigenvectors of the pairs, without the small ones that together change the training rows the least."""
    count = h.shape[1]
    if terms.pairs is None or terms.places is None:
        return _Nodes(np.zeros((0, count)), np.zeros(0))
    inside = np.flatnonzero(np.any(terms.pairs != 0, axis=0))
    active = terms.places[inside]
    values, vectors = np.linalg.eigh(terms.pairs[np.ix_(inside, inside)])
    part = (h[:, active] @ vectors) ** 2 * (values / 2)
    part -= part.mean(0)
    order = np.argsort((part**2).mean(0))[::-1]
    rest = part[:, order][:, ::-1].cumsum(1)[:, ::-1].std(0)  # of all from this one on
    keep = order[: min(int(np.sum(rest > policy.remainder * noise)), policy.most_nodes)]
    directions = np.zeros((len(keep), count))
    directions[:, active] = vectors[:, keep].T
    return _Nodes(directions, values[keep] / 2)


def _edges(design: Design, weights: ndarray) -> ndarray:
    """B-spline coefficients (nodes, inputs, G + k) of weights (nodes, functions) of the scaled functions."""
    basis = design.basis
    scaled = weights / np.sqrt(basis.roughness)
    out = np.zeros((len(weights), basis.inputs, basis.breakpoints.shape[1] - 1 + DEGREE))
    for j, coefficients in enumerate(basis.coefficients):
        out[:, j] = scaled[:, basis.column == j] @ coefficients.T
    return out


def _shaped(edges: ndarray, policy: EvidencePolicy, main: int | None = None) -> ndarray:
    """The edges of main effects, whose differences of the wrong sign by rounding become zero."""
    for j, shape in policy.shapes:
        if shape in ("increasing", "decreasing"):
            sign = SHAPES[shape]
            for edge in edges[:main]:
                turn = (
                    sign if edge[j, -1] * sign >= edge[j, 0] * sign else -sign
                )  # the logit of the first of two classes
                edge[j] = turn * np.maximum.accumulate(turn * edge[j])
    return edges


def _write(layer: SplineLayer, coefficients: ndarray, mask: ndarray | None) -> None:
    with torch.no_grad():
        layer.coefficients.copy_(torch.as_tensor(coefficients))
        if mask is not None:
            layer.mask.copy_(torch.as_tensor(mask))


def _outer(
    knots: ndarray, nodes: Sequence[_Nodes], offsets: ndarray
) -> Float[ndarray, "terms nodes functions"]:
    """B-spline coefficients of the straight edges of the main nodes and the parabolas of the squared ones."""
    line, square = _powers(knots)
    out = np.zeros((len(nodes), *line.shape))
    first = len(nodes)
    for t, (one, offset) in enumerate(zip(nodes, offsets, strict=True)):
        out[t, t] = line[t] + offset
        last = first + len(one.factors)
        out[t, first:last] = one.factors[:, None] * square[first:last]
        first = last
    return out
