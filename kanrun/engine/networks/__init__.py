"""Networks: the KAN, the MLP and the classical curves, and what turns one into a new one."""

from __future__ import annotations

from typing import Any

from kanrun.engine.networks.counting import count_parameters
from kanrun.engine.networks.curves import Bezier, BSpline, Curve, Polynomial
from kanrun.engine.networks.jacobian import (
    edge_slopes,
    get_unknowns,
    linearise,
    linearise_locally,
    set_unknowns,
    unknowns,
)
from kanrun.engine.networks.kan import KAN, activations, support
from kanrun.engine.networks.mlp import ACTIVATIONS, MLP
from kanrun.engine.networks.regrid import Regridded, adapt_inputs, refine, regrid_hidden
from kanrun.engine.networks.widths import active_shape, halved, narrowed, padded
from kanrun.errors import KanrunError

#: Every network that a checkpoint can hold, by its `kind`.
KINDS: dict[str, Any] = {network.kind: network for network in (KAN, MLP, Polynomial, Bezier, BSpline)}

Network = KAN | MLP | Curve


def from_description(description: dict[str, Any]) -> Network:
    """An empty network from its `describe()`, waiting for its state_dict; raises KanrunError for an unknown kind."""
    kind = description.get("kind")
    if kind not in KINDS:
        raise KanrunError(f"A network of kind {kind!r} is not known to this version of kanrun.")
    network: Network = KINDS[kind].from_description(description)
    return network


__all__ = [
    "ACTIVATIONS",
    "KAN",
    "KINDS",
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
    "linearise_locally",
    "narrowed",
    "padded",
    "refine",
    "regrid_hidden",
    "set_unknowns",
    "support",
    "unknowns",
]
