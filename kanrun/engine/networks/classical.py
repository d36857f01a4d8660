"""Models that KANs are compared with: the multi-layer perceptron, and curves of one input.

The curves are polynomials, Bezier curves and B-splines. They map x (..., 1) to basis(x) @
coefficients, shape (..., outputs), so they are linear in their coefficients. They are fitted by
least squares in float64, with the solution of smallest norm if the data do not determine it.
Outside their domain [low, high], polynomials and Bezier curves continue as polynomials, and
B-splines linearly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from kanrun.engine.layers import check_place, check_samples, checked_shape
from kanrun.engine.least_squares import DenseRows
from kanrun.engine.networks.counting import mlp_flops
from kanrun.engine.networks.network import Network
from kanrun.engine.splines import Grid, dense_rows, local_basis, uniform_breakpoints
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
