"""Networks: the KAN, the MLP and the classical curves; counting, refinement and pruning."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from kanrun.config.registry import MODELS
from kanrun.engine.networks.classical import ACTIVATIONS, MLP, Bezier, BSpline, Polynomial
from kanrun.engine.networks.kan import KAN
from kanrun.engine.networks.network import Network, Regridded
from kanrun.errors import KanrunError

#: Networks that a checkpoint may hold but no setting chooses: kinds, and their classes.
COMPOSED = {"field": "Field", "windows": "Windows"}


def from_description(description: dict[str, Any]) -> Network:
    """Return a network with the structure that `describe()` returned, without its parameters.

    They are loaded by `load_state_dict`. Raises KanrunError if the kind of network is unknown.
    """
    kind = str(description.get("kind"))
    if kind not in COMPOSED and kind not in MODELS:
        raise KanrunError(f"A network of kind {kind!r} is not known to this version of kanrun.")
    module, _, name = COMPOSED.get(kind, "").partition(":")
    made = getattr(import_module(module), name) if name else MODELS[kind].network()
    network: Network = made.from_description(description)
    return network
