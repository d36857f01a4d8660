"""Networks: the KAN, the MLP and the classical curves, and what turns one into a new one."""

from __future__ import annotations

from typing import Any

from kanrun.config.registry import MODELS, resolve
from kanrun.engine.networks.curves import Bezier, BSpline, Curve, Polynomial
from kanrun.engine.networks.kan import KAN
from kanrun.engine.networks.mlp import ACTIVATIONS, MLP
from kanrun.engine.networks.network import Network, Regridded
from kanrun.errors import KanrunError

#: Networks that no setting chooses but a checkpoint may hold, by kind.
COMPOSED = {
    "field": "kanrun.engine.equations.fields:Field",
    "windows": "kanrun.engine.equations.fields:Windows",
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
    "from_description",
]
