"""Conversion of dataclasses that contain networks, tensors and tables to checkpoints, and back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config.registry import MODELS
from kanrun.engine.networks import Network, from_description
from kanrun.errors import MALFORMED, KanrunError
from kanrun.runs.records import Checkpoint

Arrays = dict[str, NDArray[Any]]
Kind = TypeVar("Kind")


def to_checkpoint(name: str, value: Any, **further: Any) -> Checkpoint:
    """Return a checkpoint of the dataclass `value`, which `from_checkpoint` converts back.

    Parameters of networks, tensors and numeric columns of tables are stored as arrays. Everything
    else, and the values in `further`, is stored in the checkpoint's JSON description.
    """
    arrays: Arrays = {}

    def stored(item: Any) -> Any:
        place = f"{len(arrays)}/"
        if isinstance(item, Network):
            arrays.update(pack(item, place))
            return {**item.describe(), "place": place}
        if isinstance(item, pd.DataFrame):
            return {str(column): stored(values) for column, values in item.items()}
        if isinstance(item, pd.Series) and item.dtype.kind not in "biuf":
            return [[None if pd.isna(entry) else str(entry) for entry in item]]
        if isinstance(item, Tensor | pd.Series):
            arrays[place] = item.cpu().numpy() if isinstance(item, Tensor) else item.to_numpy()
            return place
        return item.tolist()

    return Checkpoint(name, arrays, {**further, **msgspec.to_builtins(value, enc_hook=stored)})


def from_checkpoint(
    checkpoint: Checkpoint, kind: type[Kind], device: torch.device | None = None
) -> Kind:
    """Restore a dataclass from a checkpoint made by `to_checkpoint`, with its tensors on `device`.

    Raises KanrunError if the checkpoint does not describe a valid `kind`.
    """
    arrays = checkpoint.arrays

    def restored(kind_of_part: type, plain: Any) -> Any:
        if kind_of_part is Network:
            description = {name: value for name, value in plain.items() if name != "place"}
            return unpack(description, arrays, plain.get("place", "")).to(device)
        if kind_of_part is pd.DataFrame:
            return pd.DataFrame(
                {
                    name: arrays[place] if isinstance(place, str) else place[0]
                    for name, place in plain.items()
                }
            )
        if kind_of_part is not Tensor:
            return np.array(plain, dtype=np.float64)
        tensor = torch.from_numpy(np.array(arrays[plain]))
        # Tensors of bytes are states of random generators, which stay on the CPU.
        return tensor if tensor.dtype == torch.uint8 else tensor.to(device)

    try:
        return msgspec.convert(checkpoint.meta, kind, dec_hook=restored)
    except MALFORMED as error:
        raise KanrunError(
            f"Checkpoint {checkpoint.name} does not describe a {kind.__name__}: {error!r}."
        ) from error


def pack(network: Network, prefix: str = "") -> Arrays:
    """Return the network's parameters and buffers as arrays, with `prefix` before their names."""
    state = network.state_dict().items()
    return {prefix + name: value.detach().cpu().numpy() for name, value in state}


def unpack(description: dict[str, Any], arrays: Arrays, prefix: str = "") -> Network:
    """Restore a network from the result of its `describe()` and the arrays made by `pack`.

    The network is on the CPU, in the precision of the arrays. Raises KanrunError if the arrays do
    not match the description.
    """
    state = {
        name[len(prefix) :]: torch.from_numpy(np.array(a))
        for name, a in arrays.items()
        if name.startswith(prefix)
    }
    try:
        if bad := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ValueError(
                f"{bad[0]} has {int((~state[bad[0]].isfinite()).sum())} values that are not finite"
            )
        floats = {value.dtype for value in state.values() if value.is_floating_point()}
        if len(floats) != 1 or not floats <= {torch.float32, torch.float64}:
            raise ValueError(
                f"its precision is {' and '.join(sorted(map(str, floats))) or 'none'}, not one"
            )
        if _described(description) > sum(value.numel() for value in state.values()):
            # Check before memory is allocated for all described numbers.
            raise ValueError("it describes more numbers than are stored")
        network = from_description(description, *_solutions(description))
        network.to(floats.pop())
        network.load_state_dict(state)
    except (RuntimeError, *MALFORMED) as error:
        raise KanrunError(
            f"The checkpoint's arrays do not fit its description: {str(error).splitlines()[0]}"
        ) from error
    return network


def _solutions(description: dict[str, Any]) -> tuple[type[Network], ...]:
    """Return the classes of solutions of equations, or () if `description` is of another network.

    No setting of `model` creates these classes, so they must be passed to `from_description`.
    """
    if description.get("kind") in MODELS:
        return ()
    # Imported late, because few checkpoints need them.
    from kanrun.engine.equations.fields import Field, Windows

    return Field, Windows


def _described(description: dict[str, Any]) -> int:
    """Return a lower bound on the number of parameters of the network in `description`."""
    if "layers" in description:
        sizes = ((*layer["shape"], layer["edges"]["degree"]) for layer in description["layers"])
        return sum(
            inputs * outputs * (intervals + degree) for inputs, outputs, intervals, degree in sizes
        )
    if "shape" in description:
        return sum(inputs * outputs for inputs, outputs in pairwise(description["shape"]))
    return int(description.get("functions", 0) * description.get("outputs", 0))
