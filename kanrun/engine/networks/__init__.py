"""Networks: the KAN, the MLP and the classical curves, and what turns one into a new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.config.registry import MODELS, resolve
from kanrun.engine.least_squares.rows import DenseRows, LocalRows
from kanrun.engine.networks.counting import count_parameters
from kanrun.engine.networks.curves import Bezier, BSpline, Curve, Polynomial
from kanrun.engine.networks.kan import KAN, edge_slopes, halved
from kanrun.engine.networks.mlp import ACTIVATIONS, MLP
from kanrun.engine.networks.network import Network, Regridded
from kanrun.errors import KanrunError

#: Networks that no setting chooses but a checkpoint may hold, by kind.
COMPOSED = {
    "field": "kanrun.engine.equations.field:Field",
    "windows": "kanrun.engine.equations.field:Windows",
}


def from_description(description: dict[str, Any]) -> Network:
    """An empty network from its `describe()`, waiting for its state_dict; raises KanrunError for an unknown kind."""
    kind = description.get("kind")
    if kind in COMPOSED:
        composed: Network = resolve(COMPOSED[str(kind)]).from_description(description)
        return composed
    if kind not in MODELS:
        raise KanrunError(f"A network of kind {kind!r} is not known to this version of kanrun.")
    network: Network = resolve(MODELS[str(kind)].network).from_description(description)
    return network


__all__ = [
    "ACTIVATIONS",
    "KAN",
    "MLP",
    "BSpline",
    "Bezier",
    "Curve",
    "Network",
    "Polynomial",
    "Regridded",
    "activations",
    "active_shape",
    "adapt_inputs",
    "count_parameters",
    "edge_slopes",
    "from_description",
    "get_unknowns",
    "halved",
    "linearise",
    "narrowed",
    "padded",
    "refine",
    "regrid_hidden",
    "set_unknowns",
    "support",
    "unknowns",
]


# Functions in place of the methods that they call.


def activations(kan: KAN, x: Float[Tensor, "samples inputs"]) -> list[Tensor]:
    return kan.activations(x)


def unknowns(network: Network) -> list[tuple[str, nn.Parameter]]:
    return network.unknowns()


def get_unknowns(network: Network) -> Float[Tensor, " unknowns"]:
    return network.get_unknowns()


def set_unknowns(network: Network, values: Float[Tensor, " unknowns"]) -> None:
    network.set_unknowns(values)


def linearise(network: Network, x: Float[Tensor, "samples inputs"]) -> tuple[Tensor, Tensor]:
    """(f(x), df/du) with a dense Jacobian (samples, out, unknowns)."""
    y, rows = network.linearise(x)
    if isinstance(rows, LocalRows):
        rows = DenseRows(rows.values.new_zeros(len(rows), rows.unknowns).scatter_(1, rows.index, rows.values))
    return y, rows.rows.view(*y.shape, rows.unknowns)


def support(kan: KAN, x: Float[Tensor, "samples inputs"]) -> list[Bool[Tensor, "_ _"]]:
    return kan.support(x)


def refine(kan: KAN, intervals: int, x: Float[Tensor, "samples inputs"]) -> Regridded[KAN]:
    return kan.refine(intervals, x)


def regrid_hidden(
    kan: KAN, x: Float[Tensor, "samples inputs"], *, intervals: int | None = None, adapt: float, margin: float
) -> Regridded[KAN]:
    return kan.regrid(x, intervals=intervals, grid_eps=1 - adapt, margin=margin)


def adapt_inputs(kan: KAN, x: Float[Tensor, "samples inputs"], *, adapt: float) -> Regridded[KAN]:
    return kan._with_adapted_inputs(x, 1 - adapt)


def narrowed(kan: KAN, shape: Sequence[int]) -> KAN:
    return kan.subnetwork(shape)


def padded(kan: KAN, shape: Sequence[int]) -> KAN:
    return kan.padded(shape)


def active_shape(kan: KAN) -> tuple[int, ...]:
    return kan.active_shape
