"""The numbers of a network as named arrays, and back, held to its description."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kanrun.engine.networks import Network, from_description
from kanrun.errors import KanrunError

Arrays = dict[str, NDArray[Any]]


def pack(network: Network, prefix: str = "") -> Arrays:
    """The network's parameters and buffers as arrays, each name after `prefix`."""
    return {prefix + name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def unpack(description: dict[str, Any], arrays: Arrays, prefix: str = "") -> Network:
    """The network of `describe()` and its packed arrays, in their precision, on the CPU.

    Raises KanrunError where arrays and description do not belong together.
    """
    state = {
        name[len(prefix) :]: torch.from_numpy(np.array(a)) for name, a in arrays.items() if name.startswith(prefix)
    }
    try:
        if bad := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ValueError(f"{bad[0]} holds {int((~state[bad[0]].isfinite()).sum())} numbers that are not finite")
        floats = {value.dtype for value in state.values() if value.is_floating_point()}
        if len(floats) != 1 or not floats <= {torch.float32, torch.float64}:
            raise ValueError(f"its numbers are of {', '.join(sorted(map(str, floats))) or 'no'} precision, not of one")
        if _described(description) > sum(value.numel() for value in state.values()):
            raise ValueError("it describes more numbers than are stored")  # and memory would be taken for all of them
        network = from_description(description)
        network.to(floats.pop())
        network.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise KanrunError(
            f"The checkpoint's arrays do not fit its description: {str(error).splitlines()[0]}"
        ) from error
    return network


def _described(description: dict[str, Any]) -> int:
    """How many numbers at least the network of a description has."""
    if "layers" in description:
        sizes = ((*layer["shape"], layer["edges"]["degree"]) for layer in description["layers"])
        return sum(inputs * outputs * (intervals + degree) for inputs, outputs, intervals, degree in sizes)
    if "shape" in description:
        return sum(inputs * outputs for inputs, outputs in pairwise(description["shape"]))
    return int(description.get("functions", 0) * description.get("outputs", 0))
