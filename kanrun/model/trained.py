"""A trained network as plain data, and checkpoints of dataclasses that contain networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from kanrun.points import Array, Family, PiecewiseScaling, Scaling
from kanrun.runs.files import Checkpoint
from kanrun.targets.encoding import TableCode, plain_code

Arrays = dict[str, NDArray[Any]]
Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network with the names and units of its data.

    Two instances are equal only if they are the same object.

    Attributes:
        network: The network. It computes in scaled units, "the units of the network" below.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        domain: Range of the training inputs in the units of the data, shape (inputs, 2).
        input_scaling: Map of inputs from the units of the data to the units of the network.
        output_scaling: Map of outputs from the units of the data to the units of the network;
            unused by classifiers.
        classes: Labels of a classifier; None for a regression.
        seed: Seed of the training.
        code: Encoding of the columns of a table; None if all columns are numeric without missing
            values.
        errors: Quantiles of held-out errors in the units of the network, shape (outputs, bins,
            1 + levels). Each bin of predictions has its middle, followed by the quantiles of its
            errors at the probabilities `error_levels`. With a family, errors are normal scores.
            None if no errors are stored.
        widening: Standard deviation added to an output's errors if an input lies outside its
            training range by the length of this range; it is proportional to the distance. Shape
            (2, inputs, outputs), below the range first, in the units of the network.
        gaps: For each input, the intervals within its training range that contain no data, shape
            (gaps, 2).
        family: Distribution of outputs such as counts; None for a normal distribution.
        threshold: For two classes, the second is predicted if its probability exceeds this value.
        tables: Tables recorded by the training, by name.
        notes: Notes of the training for the user.
    """

    network: Network
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    input_scaling: Scaling | PiecewiseScaling
    output_scaling: Scaling | PiecewiseScaling
    classes: tuple[str, ...] | None
    seed: int = 0
    code: TableCode | None = None
    errors: Array | None = None
    widening: Array | None = None
    gaps: tuple[Array, ...] = ()
    family: Family | None = None
    threshold: float = 0.5
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError if an attribute does not fit the network or a number is not finite."""
        both = self.input_scaling, self.output_scaling
        with np.errstate(all="ignore"):
            scales = [a.scale for a in both]
            zeros = [a.invert(0 * a.scale) for a in both]
        for name, size, axis in (
            ("inputs", len(self.inputs), 0),
            ("domain", len(self.domain), 0),
            ("input_scaling", len(scales[0]), 0),
            ("outputs", len(self.classes or self.outputs), -1),
            ("output_scaling", len(self.classes or scales[1]), -1),
        ):
            if size != (needed := self.network.shape[axis]):
                raise ValueError(f"{name} has {size} entries, and the network {needed}")
        numbers = np.concatenate([self.domain.ravel(), *scales, *zeros])
        if not np.isfinite(numbers).all() or min(map(np.min, scales)) <= 0:
            raise ValueError("a range or scaling is not finite, or a scale not positive")

    @property
    def table_code(self) -> TableCode:
        """Encoding of the table's columns; without a table, every input is a numeric column."""
        return self.code or plain_code(self.inputs)

    def __repr__(self) -> str:
        names = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        return f"{type(self).__name__}({self.network.kind} {self.network.shape_text}: {names})"


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
