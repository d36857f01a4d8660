"""Initialisation of spline layers.

Each scheme sets the parameters of a SplineLayer in place. With G + k basis functions and a base
function, an edge has G + k + 1 terms; the three variance-aware schemes divide the variance among
these terms.
Sources: `paper`, arXiv 2404.19756 section 2.2 (Xavier w_b, w_s = 1, coefficients N(0, 0.1^2));
`lecun`, `glorot`, `power_law`: Rigas et al., arXiv 2509.03417; `spline`, for solvers that train
only the coefficients: w_b = 0, coefficients N(0, 0.3^2 / inputs).
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Generator

from kanrun.engine.layers.edges import base_values
from kanrun.engine.splines import local_basis
from kanrun.errors import UsageError

if TYPE_CHECKING:
    from kanrun.engine.layers.spline_layer import SplineLayer

#: Exponents p of the power law (inputs x terms)^-p: first that for the standard deviation of base
#: weights, then that for coefficients.
POWER = (0.25, 1.75)
#: Number of points per interval at which splines are fitted to the base function, which is then
#: subtracted from the initial splines.
POINTS = 3


def initialise(layer: SplineLayer, scheme: str, generator: Generator | None) -> None:
    """Initialise the parameters of `layer` in place.

    Base weights and coefficients are normal, with standard deviations given by the scheme, and
    w_s = 1. If `generator` is None, torch's global generator is used.
    """
    if not isinstance(generator, Generator | None):
        raise UsageError(
            f"generator={generator!r} must be a torch.Generator, or None for torch's own."
        )
    sizes = _deviations(layer, scheme, generator)
    with torch.no_grad():
        for parameter, deviation in zip(
            (layer.base_weight, layer.coefficients), sizes, strict=True
        ):
            # Drawn in float64 on the CPU, so that a seed means the same start in every precision
            # and on every device.
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn * deviation)


def _deviations(layer: SplineLayer, scheme: str, generator: Generator | None) -> list[float]:
    """Return the standard deviations of base weights and of coefficients."""
    grid = layer.grid
    inputs = layer.inputs
    outputs = layer.outputs
    terms = grid.functions + 1
    # Standard deviation of the initial coefficients under `paper`, from the KAN paper. Larger
    # values begin with rougher functions.
    paper = 0.1
    if scheme == "paper":
        return [sqrt(2 / (inputs + outputs)), paper]
    if scheme == "power_law":
        return [(inputs * terms) ** -power for power in POWER]
    # Standard deviation of the initial coefficients under `spline`, before it is divided by the
    # root of the number of inputs. Larger values begin with rougher functions.
    spline = 0.3
    if scheme == "spline":
        return [0.0, spline / sqrt(inputs)]
    # Number of points per input over which the variance-aware schemes average.
    probes = 2048
    share = torch.rand(probes, inputs, generator=generator, dtype=torch.float64).to(layer.knots)
    x = torch.lerp(grid.low.expand_as(share), grid.high.expand_as(share), share)
    # Mean squares of the base function and of a basis function: of their values for the forward
    # pass, of their slopes for the backward pass.
    squares = [
        (
            base_values(layer.spec.base, grid, x, derivative).square().mean(),
            local_basis(x, grid, derivative)[0].square().sum(-1).mean() / grid.functions,
        )
        for derivative in (0, 1)
    ]
    if scheme == "lecun":
        variance = float(x.var())
        forwards = inputs * terms
        backwards = 0
    else:
        variance = 2.0 / terms
        forwards = inputs
        backwards = outputs
    sizes = [
        float(forwards * value + backwards * slope) for value, slope in zip(*squares, strict=True)
    ]
    return [sqrt(variance / size) if size > 0 else 0.0 for size in sizes]
