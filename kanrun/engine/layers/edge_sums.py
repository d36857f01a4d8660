"""The whole of a spline layer as one product, with its own derivatives.

    y[n, o] = sum_i mask[o, i] (w_b[o, i] b(x[n, i]) + w_s[o, i] sum_f B_f(x[n, i]) c[o, i, f])

Forward and first derivatives run on kernels chosen by the width of the grid (`splines.dense`, `splines.sparse`);
neither makes a tensor of samples x inputs x outputs. A derivative that must itself be differentiable, and everything
inside `torch.func`, is composed of differentiable parts instead (`layers.composed`), to any order; `torch.compile` has
a form of its own (`layers.fused`), differentiable once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanrun.engine.layers import composed, fused
from kanrun.engine.layers.composed import Edges, masked
from kanrun.engine.splines import dense, prefers_sparse, sparse
from kanrun.engine.splines.scratch import scratch
from kanrun.engine.splines.tracing import is_compiled, is_traced

#: Most products of coefficients with their gradient that are held at once.
PRODUCTS = 1 << 18


def edge_sums(x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges) -> Tensor:
    """y (samples, outputs) of x (samples, inputs), differentiable in all four tensors; see the module.

    `coefficients` (outputs, inputs, G + k); the weights (outputs, inputs).
    """
    if is_compiled():
        return fused.edge_sums(x, coefficients, base_weight, spline_weight, edges)
    if is_traced():
        return composed.edge_sums(x, coefficients, base_weight, spline_weight, edges)
    return _edge_sums(x, coefficients, base_weight, spline_weight, edges)


class _EdgeSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, coefficients: Tensor, base_weight: Tensor, spline_weight: Tensor, edges: Edges
    ) -> Tensor:
        grid, outputs = edges.grid, coefficients.shape[0]
        wide = prefers_sparse(grid.functions, grid.degree, x.dtype, outputs, x.numel())
        kernel = sparse if wide else dense
        scale, keep = masked(spline_weight, edges), any(ctx.needs_input_grad)
        sums: tuple[Tensor, Any] = kernel.spline_sums(x, coefficients, scale, grid, keep)
        y, kept = sums
        base = None
        if edges.base.name != "zero":
            base = edges.base(x)
            y.addmm_(base, masked(base_weight, edges).t())
        if keep:
            ctx.edges, ctx.kernel, ctx.kept = edges, kernel, kept
            ctx.save_for_backward(x, coefficients, base_weight, spline_weight, base)
        return y.contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, coefficients, base_weight, spline_weight, base = ctx.saved_tensors
        if torch.is_grad_enabled() or is_traced():
            return *composed.gradients(g, x, coefficients, base_weight, spline_weight, ctx.edges), None
        need_x, need_c, need_b, need_s, _ = ctx.needs_input_grad
        g = g.contiguous()
        wanted = (need_x, need_c or need_s)
        edges, scale = ctx.edges, masked(spline_weight, ctx.edges)
        by_x, by_table = ctx.kernel.gradients(g, x, coefficients, scale, edges.grid, ctx.kept, wanted)
        by_base = by_scale = None
        if by_table is not None:
            by_scale = _dots(by_table, coefficients) if need_s else None
            by_table.mul_(spline_weight[..., None])
        if base is not None:
            by_base = g.t() @ base if need_b else None
            if by_x is not None:
                by_x = (g @ masked(base_weight, edges)).mul_(edges.base.slope(x)).add_(by_x)
        if edges.mask is not None:
            by_table, by_base, by_scale = (_mask_(part, edges.mask) for part in (by_table, by_base, by_scale))
        return by_x, by_table, by_base, by_scale, None


_edge_sums: Callable[[Tensor, Tensor, Tensor, Tensor, Edges], Tensor] = _EdgeSums.apply


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Sums over the last dimension of a b; as a matrix product, which a sum over few numbers is slower than."""
    if a.numel() > PRODUCTS and a.shape[0] > 1:
        size = max(1, PRODUCTS * a.shape[0] // a.numel())
        return torch.cat([_dots(first, second) for first, second in zip(a.split(size), b.split(size), strict=True)])
    terms = torch.mul(a, b, out=scratch("products", tuple(a.shape), a))
    return terms.view(-1, a.shape[-1]).mv(a.new_ones(a.shape[-1])).view(a.shape[:-1])


def _mask_(gradient: Tensor | None, mask: Tensor) -> Tensor | None:
    """`gradient` (outputs, inputs, ...) with zeros written where `mask` is false."""
    if gradient is None:
        return None
    return gradient.mul_(mask if gradient.ndim == mask.ndim else mask[..., None])
