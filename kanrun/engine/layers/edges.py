"""The functions on a layer's edges, phi = w_b b + w_s spline, as pure functions of their numbers.

    y[n, o] = sum_i (w_b[o, i] b(x[n, i]) + w_s[o, i] sum_f B_f(x[n, i]) c[o, i, f])

Values, slopes, and rows of the Jacobian come from the same basis functions. Everything is
differentiable to any order, under any transform, and compiled. No tensor of samples x inputs x
outputs is made, except on wide grids under `torch.vmap`, in forward mode (`torch.func.jvp`,
`jacfwd`, `hessian`) and under `torch.compile`, which fuses it away.

Nodes that multiply (KAN 2.0: Liu et al., arXiv 2408.10205, section 3.1) are products of two sums.
The last 2 m sums of a layer are the factors of m products, two after each other: a layer of n + m
sums has n nodes, the products last.
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

from kanrun.config.conversion import typed
from kanrun.config.registry import MODELS
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

EdgeScaling = Literal["separate", "single"]
Domain = Sequence[float] | Sequence[Sequence[float]] | Tensor


@dataclass(frozen=True)
class EdgeSpec:
    """Functions on the edges of a layer.

    Attributes:
        degree: Degree of the splines; `KAN` and `KANLayer` take theirs as an argument.
        base: Name of the base function b, see `BASES`.
        edge_scaling: `separate`: phi = w_b b + w_s spline (arXiv 2404.19756, eq. 2.10); `single`:
            phi = w (b + spline).
        extrapolation: Continuation of the whole edge beyond its grid: `linear` continues value and
            slope from the border, `constant` the value, `zero` is zero. Under `base` the spline
            keeps its value and the base function continues by its formula.
        trained_scales: Weights that are trained with the coefficients: `all`; `base`, all except
            those that only scale the coefficients (w_s, and w without a base); or `none`.

    Examples:
        >>> from kanrun import KAN, EdgeSpec
        >>> KAN([2, 5, 1], edges=EdgeSpec(base="silu")).edge_layers[0].spec.base
        'silu'
    """

    degree: int = 3
    base: str = "zero"
    edge_scaling: EdgeScaling = "separate"
    extrapolation: Extrapolation = "linear"
    trained_scales: Literal["all", "base", "none"] = "all"


#: Edges of splines alone.
SPLINES = EdgeSpec()


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.sigmoid(x)
    b = x * share
    return b, torch.addcmul(share, b, 1 - share)


#: Base functions b and their derivatives b' by name. Both are elementwise and can be differentiated
#: to any order in every mode, which torch's own silu cannot.
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
    """Return b(x) or b'(x), continued beyond the grid by its policy."""
    return torch.zeros_like(x) if name == "zero" else continued_base(x, name, grid)[derivative]


class _Bases(torch.autograd.Function):
    """Local basis and continued base, whose derivatives have derivatives of every order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, place: Place, grid: Grid) -> tuple[Tensor, Tensor]:
        values, slopes = continued_base(x, name, grid)
        ctx.save_for_backward(x, slopes)
        ctx.rest = name, place, grid
        return local_basis_at(place, grid, 0), values

    @staticmethod
    def backward(ctx: Any, by_basis: Tensor, by_base: Tensor) -> tuple[Tensor | None, ...]:
        (x, slopes), (name, place, grid) = ctx.saved_tensors, ctx.rest
        if torch.is_grad_enabled():  # for further derivatives
            slopes = continued_base(x, name, grid)[1]
        return torch.addcmul(pull_back(by_basis, x, place, grid, 1), by_base, slopes), *[None] * 3


_bases: Callable[[Tensor, str, Place, Grid], tuple[Tensor, Tensor]] = _Bases.apply


def continued_base(x: Tensor, name: str, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return b(x) and b'(x), continued by the policy of the grid."""
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
    """Bases of a layer's edges at inputs x: `basis` holds the k + 1 functions from `interval`.

    `base` holds the values of the base function.
    """

    x: Inputs
    basis: Float[Tensor, "samples inputs local"]
    interval: Int[Tensor, "samples inputs"]
    base: Inputs


@dataclass(frozen=True)
class Edges:
    """Numbers of a layer's edges. Weights are zero for pruned edges."""

    spec: EdgeSpec
    grid: Grid
    coefficients: Float[Tensor, "out inputs functions"]
    base_weight: Float[Tensor, "out inputs"]
    spline_weight: Float[Tensor, "out inputs"]
    mask: Bool[Tensor, "out inputs"]
    trains_base: bool

    def at(self, x: Inputs, derivative: Literal[0, 1] = 0) -> EdgesAt:
        """Return the bases at x, or their slopes."""
        name = self.spec.base
        grid = self.grid
        if derivative or name == "zero" or is_traced():
            basis, interval = local_basis(x, grid, derivative)
            return EdgesAt(x, basis, interval, base_values(name, grid, x, derivative))
        place = locate(x.detach(), grid)
        basis, base = _bases(x, name, place, grid)
        return EdgesAt(x, basis, place.interval, base)

    def sums(self, at: EdgesAt) -> Float[Tensor, "samples out"]:
        """Return the sums over the inputs, which are the layer's outputs."""
        y = sums_of_splines(
            at.basis, at.interval, self.coefficients * self.spline_weight[..., None]
        )
        return y if self.spec.base == "zero" else torch.addmm(y, at.base, self.base_weight.T)

    def values(self, at: EdgesAt) -> Float[Tensor, "samples out inputs"]:
        """Return each edge's value, or its slope for the slopes of the bases."""
        y = splines_of_edges(at.basis, at.interval, self.coefficients) * self.spline_weight
        return y if self.spec.base == "zero" else y + at.base[:, None] * self.base_weight

    def write_rows(
        self,
        block: Float[Tensor, "samples y terms"],
        upstream: Float[Tensor, "samples y out"],
        at: EdgesAt,
    ) -> None:
        """Write the layer's columns of the Jacobian into `block`, with upstream = d y / d x_out.

        d y / d coefficient = upstream w_s B(x_in) and d y / d w_b = upstream b(x_in).
        """
        count = self.mask.numel() * at.basis.shape[-1]
        factors = upstream[..., None] * self.spline_weight
        edges = block[..., :count].unflatten(-1, (*self.mask.shape, -1))
        torch.mul(factors[..., None], at.basis[:, None, None], out=edges)
        if self.trains_base:
            each = at.base[:, None]
            if self.spec.edge_scaling == "single":
                each = each + splines_of_edges(at.basis, at.interval, self.coefficients)
            each = upstream[..., None] * (each * self.mask)[:, None]
            block[..., count:] = each.flatten(-2)

    def columns(self, at: EdgesAt, start: int) -> Int[Tensor, "samples terms"]:
        """Return the unknowns that the columns of `write_rows` belong to, counted from `start`."""
        outputs, inputs, functions = self.coefficients.shape
        near = table_index(at.interval, at.basis.shape[-1], functions) + start
        rows = torch.arange(outputs, device=near.device)[:, None] * (inputs * functions)
        found = (near[:, None] + rows).flatten(1)
        if self.trains_base:
            weights = torch.arange(outputs * inputs, device=near.device)
            weights += start + self.coefficients.numel()
            found = torch.cat([found, weights.expand(len(found), -1)], 1)
        return found


def linearised(
    layers: Sequence[Edges], products: Sequence[int], x: Tensor
) -> tuple[Tensor, Float[Tensor, "samples y terms"], Int[Tensor, "samples terms"], int]:
    """Return f(x), the rows of its Jacobian with their columns, and the number of unknowns.

    Layer by layer, d y / d x_out is propagated backwards.
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
        if count:  # from nodes to sums
            plain = sums.shape[-1] - 2 * count
            swapped = sums[:, None, plain:].unflatten(-1, (count, 2)).flip(-1)
            factors = (upstream[..., plain:, None] * swapped).flatten(-2)
            upstream = torch.cat([upstream[..., :plain], factors], -1)
        layer.write_rows(blocks[number], upstream, at)
        if number:
            upstream = upstream @ layer.values(layer.at(at.x, 1))
    return y, rows, torch.cat(columns, 1), unknowns


def nodes_of(sums: Float[Tensor, "*batch sums"], products: int) -> Float[Tensor, "*batch nodes"]:
    """Return the values of a layer's nodes."""
    if not products:
        return sums
    plain = sums.shape[-1] - 2 * products
    return torch.cat([sums[..., :plain], sums[..., plain::2] * sums[..., plain + 1 :: 2]], -1)


def of_sums(nodes: Float[Tensor, nodes * rest], products: int) -> Float[Tensor, sums * rest]:
    """Return values of nodes for each of their sums: those of products are repeated."""
    if not products:
        return nodes
    plain = nodes.shape[0] - products
    return torch.cat([nodes[:plain], nodes[plain:].repeat_interleave(2, 0)])


# -------------------- checks of what callers give


def checked_edges(edges: EdgeSpec, degree: int, intervals: int, initialisation: str) -> EdgeSpec:
    """Return the edges of a fresh layer, with splines of `degree`.

    Raise UsageError for a setting that breaks the rule of a KAN.
    """
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
    """Return the widths; raise UsageError unless they are at least two positive whole numbers."""
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
    """Raise UsageError for an unsupported precision and for a missing device."""
    if dtype not in (None, torch.float32, torch.float64):
        raise UsageError(
            f"dtype={dtype} must be torch.float32 or torch.float64. Use torch.autocast for lower "
            "precision."
        )
    try:
        torch.empty(0, dtype=dtype, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either for missing devices.
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"device={device} cannot be used: {reason}.") from None


def domain_of(
    domain: Domain, inputs: int, dtype: torch.dtype | None, device: torch.device | str | None
) -> Float[Tensor, "inputs 2"]:
    """Return (low, high) of each input, from one pair for all or one for each.

    Raise UsageError for another shape.
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
    """Raise UsageError unless x (..., inputs) has the precision of `like`, or autocast is on."""
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
