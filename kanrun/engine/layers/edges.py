"""Pure functions that evaluate the edges of a layer, phi = w_b b + w_s spline, from parameters.

    y[n, o] = sum_i (w_b[o, i] b(x[n, i]) + w_s[o, i] sum_f B_f(x[n, i]) c[o, i, f])

Here n is the sample, o the output, i the input and f the basis function. Values, slopes, and rows
of the Jacobian are computed from the same basis functions. All functions are differentiable to any
order, under any transform of `torch.func` and under `torch.compile`. No tensor of the shape
(samples, inputs, outputs) is created, with two exceptions on grids with many intervals:
`torch.vmap` and forward mode (`torch.func.jvp`, `jacfwd`, `hessian`), and `torch.compile`, which
fuses the tensor away.

Multiplication nodes (KAN 2.0: Liu et al., arXiv 2408.10205, section 3.1) are products of two sums.
A layer with n nodes, of which the last m are multiplication nodes, has n + m sums. The last 2 m
sums are the factors, in consecutive pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from operator import index
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from kanrun.config.registry import MODELS
from kanrun.config.rules import typed
from kanrun.engine.splines import (
    Batch,
    Extrapolation,
    Grid,
    Inputs,
    Place,
    is_traced,
    local_basis,
    local_basis_at,
    locate,
    pull_back,
    splines_of_edges,
    sums_of_splines,
    table_index,
)
from kanrun.errors import UsageError

Domain = Sequence[float] | Sequence[Sequence[float]] | Tensor


@dataclass(frozen=True)
class EdgeSpec:
    """Form of the functions on the edges of a layer, phi = w_b b + w_s spline.

    This is eq. 2.10 of arXiv 2404.19756.

    Attributes:
        degree: Degree of the splines; ignored by `KAN` and `KANLayer`, which have an argument
            `degree`.
        base: Name of the base function b: `silu`, `identity`, `zero` (no base function), `tanh`,
            `relu`, `gelu`, `sigmoid`, `sin` or `gaussian`.
        extrapolation: Values of an edge function outside its grid. `linear`: it continues with the
            slope at the end; `constant`: it keeps the value at the end; `zero`: it is zero; `base`:
            the spline keeps its value at the end, and the base function continues by its formula.
        trained_scales: Weights that are trained besides the coefficients. `all`: w_b and w_s;
            `base`: only w_b, if there is a base function; `none`.

    Examples:
        >>> from kanrun import KAN, EdgeSpec
        >>> KAN([2, 5, 1], edges=EdgeSpec(base="silu")).edge_layers[0].spec.base
        'silu'
    """

    degree: int = 3
    base: str = "zero"
    extrapolation: Extrapolation = "linear"
    trained_scales: Literal["all", "base", "none"] = "all"


#: Edges that consist of splines without a base function.
SPLINES = EdgeSpec()


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.sigmoid(x)
    b = x * share
    return b, torch.addcmul(share, b, 1 - share)


#: Functions that return a base function b(x) and its derivative b'(x) elementwise, by name. Both
#: can be differentiated to any order in every mode, unlike torch's silu.
BASES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "silu": _silu,
    "identity": lambda x: (x, torch.ones_like(x)),
    "zero": lambda x: (torch.zeros_like(x), torch.zeros_like(x)),
    "tanh": lambda x: (torch.tanh(x), 1 - torch.tanh(x).square()),
    "relu": lambda x: (functional.relu(x), (x > 0).to(x.dtype)),
    "gelu": lambda x: (
        functional.gelu(x),
        torch.special.ndtr(x) + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi),
    ),
    "sigmoid": lambda x: (torch.sigmoid(x), torch.sigmoid(x) * (1 - torch.sigmoid(x))),
    "sin": lambda x: (torch.sin(x), torch.cos(x)),
    "gaussian": lambda x: (torch.exp(-x.square()), -2 * x * torch.exp(-x.square())),
}


def base_values(name: str, grid: Grid, x: Batch, derivative: Literal[0, 1] = 0) -> Batch:
    """Return b(x) or its derivative, with the grid's extrapolation outside the grid."""
    return torch.zeros_like(x) if name == "zero" else continued_base(x, name, grid)[derivative]


class _Bases(torch.autograd.Function):
    """Local basis and extrapolated base function, differentiable to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, place: Place, grid: Grid) -> tuple[Tensor, Tensor]:
        values, slopes = continued_base(x, name, grid)
        ctx.save_for_backward(x, slopes)
        ctx.rest = name, place, grid
        return local_basis_at(place, grid, 0), values

    @staticmethod
    def backward(ctx: Any, by_basis: Tensor, by_base: Tensor) -> tuple[Tensor | None, ...]:
        (x, slopes), (name, place, grid) = ctx.saved_tensors, ctx.rest
        if torch.is_grad_enabled():  # computed again, so that the slopes can be differentiated
            slopes = continued_base(x, name, grid)[1]
        return torch.addcmul(pull_back(by_basis, x, place, grid, 1), by_base, slopes), *[None] * 3


_bases: Callable[[Tensor, str, Place, Grid], tuple[Tensor, Tensor]] = _Bases.apply


def continued_base(x: Tensor, name: str, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return b(x) and its derivative, with the grid's extrapolation outside the grid."""
    if grid.extrapolation == "base":
        return BASES[name](x)
    held = x.clamp(grid.low, grid.high)
    values, slopes = BASES[name](held)
    if grid.extrapolation == "linear":
        return torch.addcmul(values, x - held, slopes), slopes
    inside = x == held
    return values if grid.extrapolation == "constant" else values * inside, slopes * inside


@dataclass(frozen=True)
class EdgesAt:
    """Basis functions and base function of a layer's edges, evaluated at inputs x.

    Either both are given as values, or both as slopes (first derivatives).

    Attributes:
        x: The inputs.
        basis: Values or slopes of the k + 1 nonzero basis functions.
        interval: Index of the first nonzero basis function.
        base: Values or slopes of the base function.
    """

    x: Inputs
    basis: Float[Tensor, "samples inputs local"]
    interval: Int[Tensor, "samples inputs"]
    base: Inputs


@dataclass(frozen=True)
class Edges:
    """Parameters of a layer's edges; the weights of pruned edges are zero.

    Attributes:
        spec: Form of the edge functions.
        grid: Grid of the splines.
        coefficients: Spline coefficients c.
        base_weight: Weights w_b of the base function.
        spline_weight: Weights w_s of the splines.
        mask: False for pruned edges.
        trains_base: Whether the weights of the base function are unknowns.
    """

    spec: EdgeSpec
    grid: Grid
    coefficients: Float[Tensor, "out inputs functions"]
    base_weight: Float[Tensor, "out inputs"]
    spline_weight: Float[Tensor, "out inputs"]
    mask: Bool[Tensor, "out inputs"]
    trains_base: bool

    def at(self, x: Inputs, derivative: Literal[0, 1] = 0) -> EdgesAt:
        """Return the basis functions and the base function at x, or their slopes."""
        name = self.spec.base
        grid = self.grid
        if derivative or name == "zero" or is_traced():
            basis, interval = local_basis(x, grid, derivative)
            return EdgesAt(x, basis, interval, base_values(name, grid, x, derivative))
        place = locate(x.detach(), grid)
        basis, base = _bases(x, name, place, grid)
        return EdgesAt(x, basis, place.interval, base)

    def sums(self, at: EdgesAt) -> Float[Tensor, "samples out"]:
        """Return the sums of the edge functions over the inputs, which are the layer's outputs."""
        y = sums_of_splines(
            at.basis, at.interval, self.coefficients * self.spline_weight[..., None]
        )
        return y if self.spec.base == "zero" else torch.addmm(y, at.base, self.base_weight.T)

    def values(self, at: EdgesAt) -> Float[Tensor, "samples out inputs"]:
        """Return the value of each edge function, or its slope if `at` holds slopes."""
        y = splines_of_edges(at.basis, at.interval, self.coefficients) * self.spline_weight
        return y if self.spec.base == "zero" else y + at.base[:, None] * self.base_weight

    def write_rows(
        self,
        block: Float[Tensor, "samples y terms"],
        upstream: Float[Tensor, "samples y out"],
        at: EdgesAt,
    ) -> None:
        """Write the layer's columns of the network's Jacobian into `block`.

        `upstream` is d y / d s, the derivative of the network's outputs y with respect to the
        layer's sums s. With the layer's inputs x, the columns are d y / d c = upstream w_s B(x) and
        d y / d w_b = upstream b(x).
        """
        count = self.mask.numel() * at.basis.shape[-1]
        factors = upstream[..., None] * self.spline_weight
        edges = block[..., :count].unflatten(-1, (*self.mask.shape, -1))
        torch.mul(factors[..., None], at.basis[:, None, None], out=edges)
        if self.trains_base:
            slopes = upstream[..., None] * (at.base[:, None] * self.mask)[:, None]
            block[..., count:] = slopes.flatten(-2)

    def columns(self, at: EdgesAt, start: int) -> Int[Tensor, "samples terms"]:
        """Return the index of the unknown for each column that `write_rows` writes.

        The layer's first unknown has the index `start`.
        """
        outputs, inputs, functions = self.coefficients.shape
        near = table_index(at.interval, at.basis.shape[-1], functions) + start
        rows = torch.arange(outputs, device=near.device)[:, None] * (inputs * functions)
        columns = (near[:, None] + rows).flatten(1)
        if self.trains_base:
            weights = torch.arange(outputs * inputs, device=near.device)
            weights += start + self.coefficients.numel()
            columns = torch.cat([columns, weights.expand(len(columns), -1)], 1)
        return columns


def linearised(
    layers: Sequence[Edges], products: Sequence[int], x: Tensor
) -> tuple[Tensor, Float[Tensor, "samples y terms"], Int[Tensor, "samples terms"], int]:
    """Return the network's outputs at x, their Jacobian, and the number of unknowns.

    Only entries of the Jacobian that can be nonzero are stored, as values (samples, outputs, terms)
    and their column numbers (samples, terms). `products` has the number of multiplication nodes of
    each layer. Derivatives with respect to each layer's outputs are propagated backwards.
    """
    trace = list[tuple[EdgesAt, Tensor]]()
    columns = list[Tensor]()
    unknowns = 0
    y = x
    for layer, count in zip(layers, products, strict=True):
        at = layer.at(y)
        sums = layer.sums(at)
        trace.append((at, sums))
        columns.append(layer.columns(at, unknowns))
        unknowns += layer.coefficients.numel() + layer.mask.numel() * layer.trains_base
        y = nodes_of(sums, count)
    terms = [each.shape[1] for each in columns]
    rows = y.new_empty(*y.shape, sum(terms))
    upstream = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device).expand(*y.shape, -1)
    blocks = rows.split(terms, -1)
    for number in range(len(layers) - 1, -1, -1):
        layer, (at, sums), count = layers[number], trace[number], products[number]
        if count:  # map gradients of nodes to gradients of sums
            plain = sums.shape[-1] - 2 * count
            swapped = sums[:, None, plain:].unflatten(-1, (count, 2)).flip(-1)
            factors = (upstream[..., plain:, None] * swapped).flatten(-2)
            upstream = torch.cat([upstream[..., :plain], factors], -1)
        layer.write_rows(blocks[number], upstream, at)
        if number:
            upstream = upstream @ layer.values(layer.at(at.x, 1))
    return y, rows, torch.cat(columns, 1), unknowns


def nodes_of(sums: Float[Tensor, "*batch sums"], products: int) -> Float[Tensor, "*batch nodes"]:
    """Return the values of a layer's nodes, given its sums and number of multiplication nodes."""
    if not products:
        return sums
    plain = sums.shape[-1] - 2 * products
    return torch.cat([sums[..., :plain], sums[..., plain::2] * sums[..., plain + 1 :: 2]], -1)


def of_sums(nodes: Float[Tensor, nodes * rest], products: int) -> Float[Tensor, sums * rest]:
    """Return, for each sum, the value of the node that it belongs to.

    A multiplication node has two sums, so its value appears twice.
    """
    if not products:
        return nodes
    plain = nodes.shape[0] - products
    return torch.cat([nodes[:plain], nodes[plain:].repeat_interleave(2, 0)])


# -------------------- checks of what callers give


def checked_edges(edges: EdgeSpec, degree: int, intervals: int, initialisation: str) -> EdgeSpec:
    """Return `edges` with this `degree`; raise UsageError if an argument of a KAN is invalid."""
    if not isinstance(edges, EdgeSpec):
        raise UsageError(f"edges={edges!r} must be an EdgeSpec, such as EdgeSpec(base='silu').")
    if not isinstance(intervals, int):
        raise UsageError(
            f"intervals={intervals!r} must be a whole number. Use refine() for finer grids of a "
            "network."
        )
    spec = replace(edges, degree=degree)
    shared = {key: value for key, value in asdict(spec).items() if key != "trained_scales"}
    typed(MODELS["kan"], {"intervals": intervals, "initialisation": initialisation, **shared})
    return spec


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the widths `shape` as a tuple of integers.

    Raises UsageError unless `shape` consists of at least two positive whole numbers.
    """
    try:
        widths = () if isinstance(shape, str) else tuple(map(index, shape))
    except TypeError:
        widths = ()
    if len(widths) < 2 or min(widths) < 1:
        raise UsageError(
            f"shape={shape!r} must be widths, inputs first and outputs last, such as [2, 5, 1]."
        )
    return widths


def check_place(dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Raise UsageError if the precision is not supported or the device is not available."""
    if dtype not in (None, torch.float32, torch.float64):
        raise UsageError(
            f"dtype={dtype} must be torch.float32 or torch.float64. Use torch.autocast for lower "
            "precision."
        )
    try:
        torch.empty(0, dtype=dtype, device=device)
    # torch raises one or the other for a missing device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"device={device} cannot be used: {reason}.") from None


def domain_of(
    domain: Domain, inputs: int, dtype: torch.dtype | None, device: torch.device | str | None
) -> Float[Tensor, "inputs 2"]:
    """Convert `domain`, one pair (low, high) for all inputs or one per input, to a tensor.

    Raises UsageError if `domain` has another shape or is not finite.
    """
    check_place(dtype, device)
    try:
        ends = torch.as_tensor(domain, dtype=dtype or torch.get_default_dtype(), device=device)
    except (TypeError, ValueError):
        ends = torch.empty(0)
    if ends.shape not in ((2,), (inputs, 2)):
        raise UsageError(
            f"domain={domain!r} must be (low, high), or one pair for each of {inputs} inputs."
        )
    if not (ends.is_meta or bool(ends.isfinite().all())):
        raise UsageError(f"domain={domain!r} must be finite.")
    return ends.expand(inputs, 2)


def check_samples(x: Tensor, inputs: int, like: Tensor) -> None:
    """Raise UsageError unless x has the shape (..., inputs) and the precision of `like`.

    Under autocast, the precision may differ.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"x must be a tensor of {like.dtype}, not {kind}.")
    if x.ndim == 0 or x.shape[-1] != inputs:
        raise UsageError(
            f"x has {x.shape[-1] if x.ndim else 'no'} columns, and the layer has {inputs} inputs."
        )
    if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
        raise UsageError(
            f"x holds {x.dtype} and the layer {like.dtype}. Convert one of them with .to()."
        )
