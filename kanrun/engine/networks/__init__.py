"""Networks: the KAN, the MLP and the classical curves; counting, refinement and pruning."""

from __future__ import annotations

from typing import Any

from kanrun.config.registry import MODELS, resolve
from kanrun.engine.networks.classical import ACTIVATIONS, MLP, Bezier, BSpline, Polynomial
from kanrun.engine.networks.kan import KAN
from kanrun.engine.networks.network import Network, Regridded
from kanrun.errors import KanrunError

#: Networks that a checkpoint may hold but no setting chooses, by kind.
COMPOSED = {
    "field": "kanrun.engine.equations.fields:Field",
    "windows": "kanrun.engine.equations.fields:Windows",
}


def from_description(description: dict[str, Any]) -> Network:
    """Return a network with the structure that `describe()` returned, without its parameters.

    They are loaded by `load_state_dict`. Raises KanrunError if the kind of network is unknown.
    """
    kind = str(description.get("kind"))
    if kind not in COMPOSED and kind not in MODELS:
        raise KanrunError(f"A network of kind {kind!r} is not known to this version of kanrun.")
    place = COMPOSED[kind] if kind in COMPOSED else MODELS[kind].network
    network: Network = resolve(place).from_description(description)
    return network
