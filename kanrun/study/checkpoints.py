"""Networks and unfinished trainings as checkpoints: arrays and plain JSON values, and back."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.engine.networks import Network, from_description
from kanrun.engine.training import Done, Errors, Pause, Reached, Smoothing, Stage
from kanrun.errors import KanrunError
from kanrun.runs.records import Checkpoint

Arrays = dict[str, NDArray[Any]]
#: Fields of stages and pauses that are stored as arrays.
APART = ("network", "best", "random", "memory", "solver")


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
        if _described(description) > sum(value.numel() for value in state.values()):
            raise ValueError("it describes more numbers than are stored")  # and memory would be taken for all of them
        network = from_description(description)
        floats = next(value.dtype for value in state.values() if value.is_floating_point())
        network.to(floats)
        network.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, StopIteration) as error:
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


def done_to_checkpoint(done: Done, meta: dict[str, Any]) -> Checkpoint:
    """What a training has done, from which it goes on to the same numbers; `meta` are plain values of the caller's."""
    arrays: Arrays = {}
    stages = []
    for stage in done.stages:
        prefix = f"{stage.stage}/"
        arrays |= pack(stage.network, f"{prefix}network/") | {f"{prefix}random": stage.random.numpy()}
        if stage is done.stages[-1] and done.pause is None:
            arrays |= _packed(stage.memory, f"{prefix}memory/")
        stages.append({**_plain(stage), "network": stage.network.describe()})
    described: dict[str, Any] = {**meta, "stages": stages, "pause": None}
    if (pause := done.pause) is not None:
        arrays |= pack(pause.network, "pause/network/") | pack(pause.best, "pause/best/")
        arrays |= _packed(pause.solver, "pause/solver/") | {"pause/random": pause.random.numpy()}
        described["pause"] = {**_plain(pause), "network": pause.network.describe(), "best": pause.best.describe()}
    return Checkpoint("resume", arrays, described)


def done_from_checkpoint(checkpoint: Checkpoint | None, device: torch.device) -> Done:
    """What `done_to_checkpoint` stored; nothing done without a checkpoint."""
    if checkpoint is None:
        return Done()
    arrays, stages, pause = checkpoint.arrays, [], None
    for entry in checkpoint.meta["stages"]:
        prefix = f"{entry['stage']}/"
        values = {
            "network": unpack(entry["network"], arrays, f"{prefix}network/").to(device),
            "errors": Errors(**entry["errors"]),
            "random": _tensors(arrays, f"{prefix}random")[""],
            "memory": _tensors(arrays, f"{prefix}memory/", device),
        }
        stages.append(Stage(**_parts(entry) | values))
    if entry := checkpoint.meta["pause"]:
        values = {
            "network": unpack(entry["network"], arrays, "pause/network/").to(device),
            "best": unpack(entry["best"], arrays, "pause/best/").to(device),
            "solver": _tensors(arrays, "pause/solver/", device),
            "random": _tensors(arrays, "pause/random")[""],
        }
        pause = Pause(**_parts(entry) | values)
    return Done(stages, pause)


def _plain(part: Stage | Pause) -> dict[str, Any]:
    """The fields that JSON holds."""
    kept = {key: value for key, value in vars(part).items() if key not in APART}
    nested = (Errors, Smoothing, Reached)
    return {key: asdict(value) if isinstance(value, nested) else value for key, value in kept.items()}


def _parts(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stage or pause that are made of plain values."""
    return {**entry, "smoothing": Smoothing(**entry["smoothing"]), "reached": Reached(**entry["reached"])}


def _packed(tensors: dict[str, Tensor], prefix: str) -> Arrays:
    return {prefix + key: value.detach().cpu().numpy() for key, value in tensors.items()}


def _tensors(arrays: Arrays, prefix: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: torch.from_numpy(np.array(array)).to(device)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
