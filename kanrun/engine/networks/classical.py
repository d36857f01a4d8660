"""Models that KANs are compared with: the multi-layer perceptron, and curves of one input.

The curves are polynomials, Bezier curves and B-splines. They map x (..., 1) to basis(x) @
coefficients, shape (..., outputs), so they are linear in their coefficients. They are fitted by
least squares in float64, with the solution of smallest norm if the data do not determine it.
Outside their domain [low, high], polynomials and Bezier curves continue as polynomials, and
B-splines linearly.

An MLP can be matched to the size of a KAN. Its hidden layers have equal widths except the last,
because with equal widths only, the size would change in large steps. Of the widths whose size is
within the tolerance, the most even ones are used; if there are none, the nearest.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from kanrun.engine.layers import check_place, check_samples, checked_shape
from kanrun.engine.least_squares import DenseRows
from kanrun.engine.networks.network import ACTIVATION_FLOPS, Network
from kanrun.engine.splines import (
    Grid,
    dense_rows,
    local_basis,
    uniform_breakpoints,
)
from kanrun.errors import UsageError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "sin": torch.sin,
    "identity": lambda x: x,
}


class MLP(Network):
    """A multi-layer perceptron: linear layers x W^T + b with activation functions between them.

    It maps x (..., inputs) to (..., outputs). Initial weights and biases are uniform within
    +-1 / sqrt(fan in), as is torch's default.

    Args:
        shape: The widths, such as [2, 16, 1] for 2 inputs, 16 hidden nodes and 1 output.
        activation: Name of the activation function: `silu`, `relu`, `tanh`, `gelu`, `sin` or
            `identity`.
        generator: Random number generator; None: torch's global generator.
        dtype: torch.float32 or torch.float64; None: torch's default.
        device: Device of the parameters; None: torch's default device.

    Raises:
        UsageError: If an argument is invalid.

    Examples:
        >>> from kanrun import MLP
        >>> MLP([2, 16, 1], "tanh").count()
        65
    """

    kind = "mlp"

    def __init__(
        self,
        shape: Sequence[int],
        activation: str = "silu",
        *,
        generator: Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = checked_shape(shape)
        if activation not in ACTIVATIONS:
            raise UsageError(
                f"activation={activation} is not known. Choose one of {', '.join(ACTIVATIONS)}."
            )
        check_place(dtype, device)
        self.activation = activation
        # With device=None, `skip_init` would leave the parameters without memory.
        where = torch.get_default_device() if device is None else device
        self.linear = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b, dtype=dtype, device=where)
            for a, b in itertools.pairwise(shape)
        )
        with torch.no_grad():
            for layer in self.linear:
                weight, bias = layer.parameters()
                for parameter in (weight, bias):
                    # Drawn in float64, so that a seed means the same start in every precision.
                    drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_((2 * drawn - 1) / math.sqrt(weight.shape[1]))

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch out"]:
        weight = next(self.parameters())
        check_samples(x, weight.shape[1], weight)
        act = ACTIVATIONS[self.activation]
        for linear in self.linear[:-1]:
            x = act(linear(x))
        last: Tensor = self.linear[-1](x)
        return last

    @property
    def shape(self) -> tuple[int, ...]:
        layers = [layer for layer in self.linear if isinstance(layer, nn.Linear)]
        return (layers[0].in_features, *(layer.out_features for layer in layers))

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "activation": self.activation}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> MLP:
        return cls(
            description["shape"],
            description["activation"],
            generator=Generator(),
            dtype=torch.float64,
        )

    def flops(self) -> dict[str, float | None]:
        return mlp_flops(self.shape, self.activation)

    def lower(self) -> list[Network]:
        networks: list[Network] = []
        for count in range(1, len(self.linear)):
            networks.append(copy(self))
            networks[-1]._modules = {"linear": self.linear[:count]}
        return networks

    def linearise(
        self, x: Float[Tensor, "samples inputs"]
    ) -> tuple[Float[Tensor, "samples out"], DenseRows]:
        """Return f(x) and the Jacobian, computed layer by layer.

        The derivative of an output with respect to a weight is its derivative with respect to the
        node's sum, times the weight's input.
        """
        act = ACTIVATIONS[self.activation]
        sums = list[Tensor]()
        reaching = [x.detach().requires_grad_()]
        with torch.enable_grad():
            for linear in self.linear:
                sums.append(linear(reaching[-1]))
                reaching.append(act(sums[-1]))
            outputs = sums[-1].T
            slopes = [torch.autograd.grad(y.sum(), sums, retain_graph=True) for y in outputs]
        columns: list[Tensor] = []
        by_layer = zip(*slopes, strict=True)
        for linear, before, derivatives in zip(self.linear, reaching, by_layer, strict=False):
            weight, bias = linear.parameters()
            upstream = torch.stack(derivatives, 1)
            inputs = before.detach()[:, None, None, :]
            if weight.requires_grad:
                columns.append((upstream[..., None] * inputs).flatten(2))
            if bias.requires_grad:
                columns.append(upstream)
        return sums[-1].detach(), DenseRows(torch.cat(columns, dim=-1).flatten(0, 1))


class Curve(Network):
    """A curve of one input: basis functions at x times `coefficients` (functions, outputs)."""

    domain: Tensor

    def __init__(self, functions: int, outputs: int, domain: Float[Tensor, "1 2"]) -> None:
        super().__init__()
        self.register_buffer("domain", domain.clone())
        self.coefficients = nn.Parameter(domain.new_zeros(functions, outputs))

    def basis(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch functions"]:
        raise TypeError("a Curve has no basis of its own")

    def forward(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch out"]:
        return self.basis(x) @ self.coefficients

    def linearise(
        self, x: Float[Tensor, "samples 1"]
    ) -> tuple[Float[Tensor, "samples out"], DenseRows]:
        """Return f(x) and the Jacobian, which consists of the values of the basis functions."""
        with torch.no_grad():
            basis = self.basis(x)
            unit = torch.eye(self.coefficients.shape[1], dtype=x.dtype, device=x.device)
            rows = (basis[:, None, :, None] * unit[None, :, None, :]).flatten(2)
            return basis @ self.coefficients, DenseRows(rows.flatten(0, 1))

    def fit_linear(
        self,
        x: Float[Tensor, "samples 1"],
        y: Float[Tensor, "samples out"],
        roots: Tensor | None = None,
    ) -> bool:
        rows = (each if roots is None else each * roots for each in (self.basis(x), y))
        design, right = (each.double().cpu() for each in rows)
        solution = torch.linalg.lstsq(design, right, driver="gelsd").solution
        with torch.no_grad():
            self.coefficients.copy_(solution)
        return True

    def unit(self, x: Tensor) -> Tensor:
        """Return the position of x (..., 1) in the domain, from 0 to 1."""
        low = self.domain[0, :1]
        high = self.domain[0, 1:]
        return (x - low) / (high - low)

    @property
    def extrapolation_note(self) -> str:
        return "the polynomial continues"

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, int(self.coefficients.shape[1]))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "functions": self.coefficients.shape[0],
            "outputs": self.coefficients.shape[1],
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Curve:
        domain = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        extra = {"degree": description["degree"]} if "degree" in description else {}
        return cls(description["functions"], description["outputs"], domain, **extra)


class Polynomial(Curve):
    """A polynomial of degree `functions` - 1 in the well-conditioned Chebyshev basis."""

    kind = "polynomial"

    def basis(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch functions"]:
        t = 2 * self.unit(x).movedim(-1, 0) - 1
        functions = self.coefficients.shape[0]
        values = torch.cat([torch.ones_like(t), t])
        while len(values) < functions:
            # Compute up to m more polynomials at once from T_0, ..., T_m by
            # T_(m + k) = 2 T_m T_k - T_(m - k).
            near = slice(1, functions - len(values) + 1)
            further = 2 * values[-1:] * values[near] - values.flip(0)[near]
            values = torch.cat([values, further])
        return values[:functions].movedim(0, -1)


def bernstein(u: Float[Tensor, "*batch"], degree: int) -> Float[Tensor, "*batch functions"]:
    """Return the Bernstein polynomials binom(n, i) u^i (1 - u)^(n - i) at u, in u's precision.

    The largest binomial coefficients of degrees above 1000 exceed float64.
    """
    # Computed in float64, because binomial coefficients of degrees above 130 exceed float32.
    t = u.double().unsqueeze(-1)
    index = torch.arange(degree + 1, dtype=t.dtype, device=t.device)
    binomials = t.new_tensor([float(math.comb(degree, i)) for i in range(degree + 1)])
    values: Tensor = binomials * t**index * (1 - t) ** (degree - index)
    return values.to(u.dtype)


class Bezier(Curve):
    """A Bezier curve of degree `functions` - 1, whose coefficients are the control points."""

    kind = "bezier"

    def basis(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch functions"]:
        return bernstein(self.unit(x), self.coefficients.shape[0] - 1).squeeze(-2)


class BSpline(Curve):
    """A B-spline of `degree` on uniform breakpoints.

    Its coefficients are the control points (de Boor points).
    """

    kind = "bspline"
    knots: Tensor

    def __init__(
        self, functions: int, outputs: int, domain: Float[Tensor, "1 2"], *, degree: int
    ) -> None:
        super().__init__(functions, outputs, domain)
        self.degree = degree
        points = uniform_breakpoints(domain[:, 0], domain[:, 1], functions - degree)[0]
        # Together with the end points, this makes degree + 1 equal knots at either end.
        knots = [points[:1].expand(degree), points, points[-1:].expand(degree)]
        self.register_buffer("knots", torch.cat(knots)[None])

    @property
    def grid(self) -> Grid:
        return Grid(self.knots, self.degree)

    @property
    def extrapolation_note(self) -> str:
        return "the curve continues linearly"

    def basis(self, x: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch functions"]:
        values, interval = local_basis(x.reshape(x.numel(), 1), self.grid)
        return dense_rows(values, interval, self.grid.functions)[:, 0].reshape(
            *x.shape[:-1], self.grid.functions
        )

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "degree": self.degree}


# -------------------- MLPs of a given size


def mlp_parameters(shape: Sequence[int]) -> int:
    """Return the number of parameters of an MLP: the sum of n_out (n_in + 1) over its layers."""
    return sum(b * (a + 1) for a, b in itertools.pairwise(shape))


def mlp_flops(shape: Sequence[int], activation: str) -> dict[str, float | None]:
    """Return the numbers of FLOPs of one sample of an MLP, as `Network.flops` does.

    A layer takes 2 n_in n_out (the bias replaces the first addition), plus the activation functions
    of hidden nodes. KANbeFair counts activation functions of the outputs too.
    """
    products = sum(2 * a * b for a, b in itertools.pairwise(shape))
    each = ACTIVATION_FLOPS[activation]
    fair = products + each * sum(shape[1:])
    return {"flops": float(products + each * sum(shape[1:-1])), "kanbefair_flops": float(fair)}


#: Largest relative difference of the sizes at which a match counts as close.
TOLERANCE = 0.02
#: Largest number of neurons of a hidden layer that is tried. If more are needed, the match is not
#: close.
WIDEST = 1 << 14


@dataclass(frozen=True)
class SizeMatch:
    """Hidden widths of a network whose size was matched to another.

    Attributes:
        hidden: Widths of the hidden layers.
        value: Size that these widths give, in parameters or FLOPs.
        wanted: Size to be matched, in the same unit.
    """

    hidden: tuple[int, ...]
    value: float
    wanted: float

    @property
    def off(self) -> float:
        """Relative difference of the sizes, (value - wanted) / wanted."""
        return self.value / self.wanted - 1

    @property
    def close(self) -> bool:
        """Whether the relative difference is within the tolerance."""
        return abs(self.off) <= TOLERANCE


def match_parameters(inputs: int, outputs: int, depth: int, wanted: int | float) -> SizeMatch:
    """Return the MLP with `depth` hidden layers whose number of parameters best fits `wanted`."""
    return _match(lambda hidden: mlp_parameters((inputs, *hidden, outputs)), depth, wanted)


def match_flops(
    inputs: int, outputs: int, depth: int, activation: str, wanted: int | float
) -> SizeMatch:
    """Return the MLP with `depth` hidden layers whose executed FLOPs are nearest to `wanted`."""

    def flops(hidden: tuple[int, ...]) -> float:
        return mlp_flops((inputs, *hidden, outputs), activation)["flops"] or 0.0

    return _match(flops, depth, wanted)


def _match(
    measure: Callable[[tuple[int, ...]], float], depth: int, wanted: int | float
) -> SizeMatch:
    """Return the most even hidden widths (n, ..., n, m) whose size is close to `wanted`.

    If the size of no widths is within the tolerance, return the widths with the nearest size.
    `measure` maps widths to their size, and must be increasing.
    """
    if depth < 1:
        raise UsageError(
            f"An MLP of {depth} hidden layers has no width to match. Use depths of at least 1."
        )
    if not wanted > 0:
        raise UsageError(f"The size to match must be positive, not {wanted}.")

    def largest(widths: Callable[[int], tuple[int, ...]]) -> int:
        """Return the largest n at which `widths(n)` measure at most `wanted`; at least 1."""
        fits = range(1, WIDEST + 1)
        return max(1, bisect_left(fits, True, key=lambda n: measure(widths(n)) > wanted))

    even = largest(lambda n: (n,) * depth)
    # Largest difference, in neurons, between a tried width and the best equal width. A larger value
    # finds closer matches whose widths differ more.
    farthest = 16
    reach = min(even // 2, farthest)
    matches = []
    for n in range(max(1, even - reach), min(even + reach + 1, WIDEST) + 1):
        equal = (n,) * (depth - 1)
        last = largest(lambda m, equal=equal: (*equal, m))  # type: ignore[misc]
        for hidden in ((*equal, m) for m in (last, min(last + 1, WIDEST))):
            matches.append(SizeMatch(hidden, float(measure(hidden)), float(wanted)))
    close = [match for match in matches if match.close]
    if close:
        return min(close, key=lambda m: (max(m.hidden) - min(m.hidden), abs(m.off)))
    return min(matches, key=lambda match: abs(match.off))
