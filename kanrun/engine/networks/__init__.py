"""Networks: the KAN, the MLP and the classical curves; counting, refinement and pruning."""

from __future__ import annotations

from typing import Any

from kanrun.config.registry import MODELS
from kanrun.engine.networks.classical import ACTIVATIONS, MLP, Bezier, BSpline, Polynomial
from kanrun.engine.networks.kan import KAN
from kanrun.engine.networks.network import Network, Regridded
from kanrun.errors import KanrunError


def from_description(description: dict[str, Any], *others: type[Network]) -> Network:
    """Return a network with the structure that `describe()` returned.

    Its parameters must then be loaded by `load_state_dict`. `others` are classes of networks that
    are not registered as models. Raises KanrunError if the kind of network is unknown.
    """
    kind = str(description.get("kind"))
    known = {other.kind: other for other in others}
    if kind not in known and kind not in MODELS:
        raise KanrunError(f"A network of kind {kind!r} is not known to this version of kanrun.")
    made = known[kind] if kind in known else MODELS[kind].network()
    network: Network = made.from_description(description)
    return network
