"""Initialisation of fresh layers.

Each scheme fills a SplineLayer in place from a generator. With G + k basis functions and the base,
an input feeds G + k + 1 terms of an edge; the three variance-aware schemes share the variance among
them.
Sources: `paper`, arXiv 2404.19756 section 2.2 (Xavier w_b, w_s = 1, coefficients N(0, 0.1^2));
`lecun`, `glorot`, `power_law`: Rigas et al., arXiv 2509.03417; `spline`, for solvers that move the
coefficients alone: no base (w_b = 0), coefficients N(0, 0.3^2 / inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from kanrun.engine.layers.edges import EdgeSpec, base_values
from kanrun.engine.layers.spline_layer import SplineLayer
from kanrun.engine.splines import fit_coefficients, local_basis, sample_points, uniform_breakpoints
from kanrun.errors import UsageError

#: Points per input for the expectations of the variance-aware schemes.
_PROBES = 2048
#: Exponents of the power law for base weights and coefficients.
_POWER = (0.25, 1.75)
#: Standard deviations of coefficients: of the paper, and times the root of the inputs of `spline`.
_PAPER, _SPLINE = 0.1, 0.3
#: Points of an interval at which splines take the base back.
_POINTS = 3


def _paper(layer: SplineLayer, generator: Generator | None) -> tuple[float, float]:
    return (2 / (layer.inputs + layer.outputs)) ** 0.5, _PAPER


def _lecun(layer: SplineLayer, generator: Generator | None) -> tuple[float, float]:
    x, base, basis, terms = _probe(layer, generator)
    fan = layer.inputs * terms
    return _root(x.var(), fan * base.square().mean()), _root(x.var(), fan * basis.square().mean())


def _glorot(layer: SplineLayer, generator: Generator | None) -> tuple[float, float]:
    x, base, basis, terms = _probe(layer, generator)
    slope = base_values(layer.spec.base, layer.grid, x, 1)
    spread = local_basis(x, layer.grid, 1)[0].square().sum(-1).mean() / layer.grid.functions
    two = torch.tensor(2.0 / terms, dtype=x.dtype, device=x.device)
    base_size = layer.inputs * base.square().mean() + layer.outputs * slope.square().mean()
    basis_size = layer.inputs * basis.square().mean() + layer.outputs * spread
    return _root(two, base_size), _root(two, basis_size)


def _power_law(layer: SplineLayer, generator: Generator | None) -> tuple[float, float]:
    fan = layer.inputs * (layer.grid.functions + 1)
    return fan ** -_POWER[0], fan ** -_POWER[1]


def _spline(layer: SplineLayer, generator: Generator | None) -> tuple[float, float]:
    return 0.0, _SPLINE * layer.inputs**-0.5


SCHEMES: dict[str, Callable[[SplineLayer, Generator | None], tuple[float, float]]] = {
    "paper": _paper,
    "lecun": _lecun,
    "glorot": _glorot,
    "power_law": _power_law,
    "spline": _spline,
}


def initialise(layer: SplineLayer, scheme: str, generator: Generator | None) -> None:
    """Fill `layer`: normal base weights and coefficients of the scheme's sizes; w_s = 1.

    A `single` weight takes the base weight's place; under `spline` it is 1 and the splines subtract
    the base. Without a generator torch's own is used.
    """
    base, coefficient = SCHEMES[scheme](layer, generator)
    with torch.no_grad():
        weight = getattr(layer, layer.base_name)
        _normal(weight, base, generator)
        _normal(layer.coefficients, coefficient, generator)
        if scheme == "spline" and layer.spec.edge_scaling == "single":
            weight.fill_(1.0)
            points = sample_points(layer.grid, _POINTS)
            values = base_values(layer.spec.base, layer.grid, points)[:, None, :]
            layer.coefficients.sub_(fit_coefficients(points, values, layer.grid))


def fresh_layers(
    shape: Sequence[int],
    intervals: int,
    spec: EdgeSpec,
    domain: Tensor,
    initialisation: str,
    generator: Generator | None,
    products: Sequence[int],
) -> list[SplineLayer]:
    """Return layers of widths `shape`, the first grid on `domain`, hidden ones on [-1, 1]."""
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(shape)):
        ends = domain if i == 0 else domain.new_tensor([[-1.0, 1.0]]).expand(inputs, 2)
        grid = uniform_breakpoints(ends[:, 0], ends[:, 1], intervals)
        more = products[i] if i < len(products) else 0
        layer = SplineLayer.on_grid(grid, outputs + more, spec, uniform=True)
        initialise(layer, initialisation, generator)
        layers.append(layer)
    return layers


def _normal(parameter: nn.Parameter, deviation: float, generator: Generator | None) -> None:
    if not isinstance(generator, Generator | None):
        raise UsageError(
            f"generator={generator!r} must be a torch.Generator, or None for torch's own."
        )
    # Drawn in float64 on the CPU, so that a seed means the same start in every precision and on
    # every device.
    drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * deviation
    parameter.copy_(drawn)


def _probe(layer: SplineLayer, generator: Generator | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return uniform points, the base, the root mean squared basis, and the number of terms."""
    share = torch.rand(_PROBES, layer.inputs, generator=generator, dtype=torch.float64).to(
        layer.knots
    )
    x = torch.lerp(layer.grid.low.expand_as(share), layer.grid.high.expand_as(share), share)
    basis = (local_basis(x, layer.grid)[0].square().sum(-1) / layer.grid.functions).sqrt()
    return x, base_values(layer.spec.base, layer.grid, x), basis, layer.grid.functions + 1


def _root(variance: Tensor, size: Tensor) -> float:
    return float((variance / size).sqrt()) if float(size) > 0 else 0.0
