"""A KAN on other grids, keeping its function; each returns a new network and says how far the function moved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.layers import move_layer, refine_layer
from kanrun.engine.networks.kan import KAN, activations
from kanrun.engine.splines import breakpoints_from_data, breakpoints_of, breakpoints_within, rare_samples


@dataclass(frozen=True)
class Regridded:
    """The new network, `how` (`insertion`: exact; `least squares`; or `both`) and the measured `change`.

    That is the largest |new - old| on the given points relative to the largest |old|, each without the 1 % of the
    points where it is largest (`rare_samples`): the output at an outlier would hide all others, and is not kept.
    """

    network: KAN
    how: str
    change: float


def refine(kan: KAN, intervals: int, x: Float[Tensor, "samples inputs"]) -> Regridded:
    """Every grid on `intervals` intervals over the same range.

    To a multiple of the old grid the function changes by rounding only, on and outside the data.
    """
    moved = [refine_layer(layer, intervals) for layer in kan]
    return _measured(kan, KAN([layer for layer, _ in moved]), {how for _, how in moved}, x)


def regrid_hidden(
    kan: KAN, x: Float[Tensor, "samples inputs"], *, intervals: int | None = None, adapt: float, margin: float
) -> Regridded:
    """Hidden grids drawn anew over the range of what reaches them from `x`, with the same or another G.

    The first layer's grid keeps its domain. Ranges are those of the old network, so that every layer is carried once;
    outliers are left out of them (`breakpoints_from_data`) and met by the `outside` policy, so that the function stays
    where the data lie.
    """
    layers, hows = [], set()
    with torch.no_grad():
        reaching = activations(kan, x)
    for i, (layer, values) in enumerate(zip(kan, reaching, strict=False)):
        count = intervals or layer.grid.intervals
        if i == 0:
            moved, how = refine_layer(layer, count) if count != layer.grid.intervals else (layer, "insertion")
        else:
            grid = breakpoints_from_data(values, count, adapt, margin)
            moved, how = move_layer(layer, grid, uniform=adapt == 0.0)
        layers.append(moved)
        hows.add(how)
    return _measured(kan, KAN(layers), hows, x)


def adapt_inputs(kan: KAN, x: Float[Tensor, "samples inputs"], *, adapt: float) -> Regridded:
    """The first layer's grid drawn towards the quantiles of `x` within its own domain."""
    layer = kan.layer(0)
    ends = breakpoints_of(layer.knots, layer.spec.degree)[:, [0, -1]]
    grid = breakpoints_within(x, ends, layer.grid.intervals, adapt)
    moved, how = move_layer(layer, grid, uniform=adapt == 0.0)
    return _measured(kan, KAN([moved, *list(kan)[1:]]), {how}, x)


def _measured(old: KAN, new: KAN, hows: set[str], x: Tensor) -> Regridded:
    with torch.no_grad():
        before, after = old(x), new(x)
    size = max(_largest(before), torch.finfo(before.dtype).tiny)
    return Regridded(new, hows.pop() if len(hows) == 1 else "both", _largest(after - before) / size)


def _largest(values: Float[Tensor, "samples out"]) -> float:
    """The largest size of any output, without the samples where it is largest."""
    count = values.shape[0]
    return float(values.abs().amax(1).kthvalue(count - rare_samples(count)).values)
