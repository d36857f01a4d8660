"""Networks and unfinished trainings as checkpoints: arrays and plain JSON values, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kanrun.engine.networks import Network, from_description
from kanrun.engine.training import Errors, Stage
from kanrun.errors import KanrunError
from kanrun.runs.records import Checkpoint

Arrays = dict[str, NDArray[Any]]
#: Fields of a stage that are no plain values.
APART = ("network", "random", "errors", "memory")


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
        network = from_description(description)
        floats = next(value.dtype for value in state.values() if value.is_floating_point())
        network.to(floats)
        network.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise KanrunError(
            f"The checkpoint's arrays do not fit its description: {str(error).splitlines()[0]}"
        ) from error
    return network


def stages_to_checkpoint(stages: list[Stage]) -> Checkpoint:
    """The finished stages of a training, from which it goes on to the same numbers."""
    arrays: Arrays = {}
    meta = []
    for stage in stages:
        arrays |= pack(stage.network, f"{stage.stage}/")
        arrays[f"random/{stage.stage}"] = stage.random.numpy()
        if stage is stages[-1]:
            arrays |= {f"memory/{key}": value.cpu().numpy() for key, value in stage.memory.items()}
        plain = {key: value for key, value in vars(stage).items() if key not in APART}
        meta.append({**plain, "errors": asdict(stage.errors), "network": stage.network.describe()})
    return Checkpoint("resume", arrays, {"stages": meta})


def stages_from_checkpoint(checkpoint: Checkpoint | None, device: torch.device) -> list[Stage]:
    """The stages that `stages_to_checkpoint` stored; none without a checkpoint."""
    stages = []
    for entry in checkpoint.meta["stages"] if checkpoint else ():
        assert checkpoint is not None
        network = unpack(entry["network"], checkpoint.arrays, f"{entry['stage']}/").to(device)
        random = torch.from_numpy(np.array(checkpoint.arrays[f"random/{entry['stage']}"]))
        memory: dict[str, torch.Tensor] = {}
        if entry is checkpoint.meta["stages"][-1]:
            memory = _memory(checkpoint.arrays, device)
        stages.append(
            Stage(
                **{**entry, "errors": Errors(**entry["errors"]), "network": network, "random": random, "memory": memory}
            )
        )
    return stages


def _memory(arrays: Arrays, device: torch.device) -> dict[str, torch.Tensor]:
    """What the solver remembered at the end of the last stage."""
    prefix = "memory/"
    return {
        name[len(prefix) :]: torch.from_numpy(np.array(array)).to(device)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
