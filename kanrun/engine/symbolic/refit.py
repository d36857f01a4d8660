"""Joint refit of all constants and spline coefficients of a graph: Levenberg-Marquardt in float64.

Loss = mean squared residual + penalty * var(y) * sum over splines of G^(2m - 1) |D^m c|^2, m = degree + 2. Columns
are scaled to norm one, so that damping is in the units of the parameters. Steps are taken from the normal equations
while the damping keeps them well conditioned and from a QR factorisation below that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import Spline
from kanrun.engine.symbolic.graph import Graph

#: Damping below which normal equations would lose digits that QR keeps.
_QR_BELOW = 1e-7
_LARGEST_DAMPING = 1e8

Rows = Callable[[Graph], tuple[Array, Array]]


@dataclass(frozen=True)
class RefitSettings:
    """`steps` at most; stops when the root mean square residual is below `floor`, or gains less than `gain`
    (relative) in `patience` steps in a row. `extra` appends rows (residual, Jacobian), such as a sparsity penalty."""

    steps: int = 40
    floor: float = 0.0
    gain: float = 1e-4
    patience: int = 3
    penalty: float = 0.0
    damping: float = 1e-2
    extra: Rows | None = None


@dataclass(frozen=True)
class Fitted:
    """The graph after the fit, its root mean square error on the data, and the steps taken, of those `tried`."""

    graph: Graph
    rmse: float
    steps: int
    tried: int = 0


def refit(graph: Graph, x: Array, y: Array, settings: RefitSettings = RefitSettings()) -> Fitted:
    """`graph` (or the best met on the way) fitted to y (N,) at x (N, inputs).

    A graph that is not finite on the data comes back as it is, with rmse = inf: nothing can be fitted from there.
    """
    with np.errstate(all="ignore"):
        fitted = _descend(graph, x, y, settings)
    count_work(COSTS.refit(len(graph.edges), graph.parameters.size, y.size, fitted.steps + 1, fitted.tried))
    return fitted


def _descend(graph: Graph, x: Array, y: Array, settings: RefitSettings) -> Fitted:
    parameters, damping, slow = graph.parameters, settings.damping, 0
    residual, jacobian, rmse = _system(graph, x, y, settings)
    loss = float(residual @ residual)
    if not np.isfinite(loss) or not np.isfinite(jacobian).all() or parameters.size == 0:
        return Fitted(graph, rmse if np.isfinite(rmse) else np.inf, 0)
    taken = tried = 0
    for _ in range(settings.steps):
        scale = np.sqrt(np.einsum("np,np->p", jacobian, jacobian))
        scale[scale == 0] = 1.0
        scaled = jacobian / scale
        accepted = False
        while damping < _LARGEST_DAMPING:
            move = _solve(scaled, residual, damping) / scale
            trial = graph.with_parameters(parameters - move)
            value = _loss(trial, x, y, settings)
            tried += 1
            if np.isfinite(value) and value < loss:
                accepted = True
                break
            damping = max(damping * 6, 1e-12)
        if not accepted:
            break
        taken += 1
        slow = slow + 1 if value > loss * (1 - settings.gain) else 0
        graph, parameters, loss = trial, parameters - move, value
        damping = max(damping / 8, 1e-16)
        residual, jacobian, rmse = _system(graph, x, y, settings)
        if not np.isfinite(jacobian).all() or rmse <= settings.floor or slow >= settings.patience:
            break
    return Fitted(graph, rmse, taken, tried)


def _solve(jacobian: Array, residual: Array, damping: float) -> Array:
    width = jacobian.shape[1]
    if damping > _QR_BELOW:
        normal = jacobian.T @ jacobian
        normal[np.diag_indices(width)] += damping
        try:
            factor = scipy.linalg.cho_factor(normal, check_finite=False)
            return np.asarray(scipy.linalg.cho_solve(factor, jacobian.T @ residual, check_finite=False))
        except scipy.linalg.LinAlgError:
            pass  # not positive definite by rounding: the factorisation below has no such limit
    stacked = np.concatenate([jacobian, np.sqrt(damping) * np.eye(width)])
    q, r = np.linalg.qr(stacked)
    target = q[: jacobian.shape[0]].T @ residual
    diagonal = np.abs(np.diagonal(r))
    if diagonal.min() > 0:
        return np.asarray(scipy.linalg.solve_triangular(r, target, check_finite=False))
    return np.asarray(np.linalg.lstsq(r, target, rcond=None)[0])


def _system(graph: Graph, x: Array, y: Array, settings: RefitSettings) -> tuple[Array, Array, float]:
    value, jacobian = graph.linearise(x)
    root = np.sqrt(y.size)
    residuals, blocks = [(value - y) / root], [jacobian / root]
    rmse = float(np.sqrt(np.mean((value - y) ** 2)))
    if settings.penalty > 0:
        rows = _roughness(graph, settings.penalty * float(np.var(y)))
        residuals.append(rows @ graph.parameters)
        blocks.append(rows)
    if settings.extra is not None:
        residual, block = settings.extra(graph)
        residuals.append(residual)
        blocks.append(block)
    return np.concatenate(residuals), np.concatenate(blocks), rmse


def _loss(graph: Graph, x: Array, y: Array, settings: RefitSettings) -> float:
    total = float(np.mean((graph(x) - y) ** 2))
    if settings.penalty > 0:
        rows = _roughness(graph, settings.penalty * float(np.var(y)))
        total += float(np.sum((rows @ graph.parameters) ** 2))
    if settings.extra is not None:
        total += float(np.sum(settings.extra(graph)[0] ** 2))
    return total


def _roughness(graph: Graph, weight: float) -> Array:
    """Rows whose squares sum to weight * sum_edges G^(2m - 1) |D^m c|^2."""
    blocks = []
    sizes = [edge.function.parameters.size for edge in graph.edges]
    for edge, start in zip(graph.edges, np.cumsum([0, *sizes]), strict=False):
        if isinstance(edge.function, Spline):
            order = min(edge.function.degree + 2, edge.function.parameters.size - 1)
            difference = np.diff(np.eye(edge.function.parameters.size), order, axis=0)
            block = np.zeros((difference.shape[0], sum(sizes)))
            block[:, start : start + difference.shape[1]] = difference
            blocks.append(np.sqrt(weight) * edge.function.intervals ** (order - 0.5) * block)
    return np.concatenate(blocks) if blocks else np.zeros((0, sum(sizes)))
