"""Trainings as records, and back: networks as arrays, rows of steps and stages, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.engine.networks import Network, from_description
from kanrun.engine.training import (
    Errors,
    Event,
    GridTransfer,
    SmoothnessPenalty,
    Snapshot,
    Stage,
    Step,
    Trained,
    TrainingState,
)
from kanrun.errors import KanrunError
from kanrun.runs.records import Checkpoint, Record, Value

Arrays = dict[str, NDArray[Any]]


def pack(network: Network, prefix: str = "") -> Arrays:
    """Return the network's parameters and buffers as arrays, their names after `prefix`."""
    return {
        prefix + name: value.detach().cpu().numpy() for name, value in network.state_dict().items()
    }


def unpack(description: dict[str, Any], arrays: Arrays, prefix: str = "") -> Network:
    """Return the network of `describe()` and its packed arrays, in their precision, on the CPU.

    Raises KanrunError if arrays and description do not belong together.
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
            # Memory would be taken for all of them.
            raise ValueError("it describes more numbers than are stored")
        network = from_description(description)
        network.to(floats.pop())
        network.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise KanrunError(
            f"The checkpoint's arrays do not fit its description: {str(error).splitlines()[0]}"
        ) from error
    return network


def _described(description: dict[str, Any]) -> int:
    """Return a lower bound on the numbers that the network of a description has."""
    if "layers" in description:
        sizes = ((*layer["shape"], layer["edges"]["degree"]) for layer in description["layers"])
        return sum(
            inputs * outputs * (intervals + degree) for inputs, outputs, intervals, degree in sizes
        )
    if "shape" in description:
        return sum(inputs * outputs for inputs, outputs in pairwise(description["shape"]))
    return int(description.get("functions", 0) * description.get("outputs", 0))


#: Fields of stages and snapshots that are stored as arrays.
APART = ("network", "best", "random", "solver")


def follow(
    events: Generator[Event, None, Trained], records_of: Callable[[Event], Iterable[Record]]
) -> Generator[Record, None, Trained]:
    """Yield the records of each event of a training; return the result of the training."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            trained: Trained = end.value
            return trained
        yield from records_of(event)


def step_row(step: Step) -> dict[str, Value]:
    """Return the place of a step, the errors after it, and the seconds of training so far."""
    place: dict[str, Value] = {"stage": step.stage, "step": step.step, "intervals": step.intervals}
    return {**place, **_errors(step.errors), "seconds": step.seconds}


def stage_row(stage: Stage) -> dict[str, Value]:
    """Return a grid, its errors, and the transfer to it with the errors before and after."""
    return {
        "stage": stage.stage,
        "intervals": stage.intervals,
        "parameters": stage.network.count(),
        **_errors(stage.errors),
        "penalty": stage.penalty.weight,
        "carried_by": stage.transfer.method,
        "function_change": stage.transfer.error,
        "error_before": stage.transfer.before,
        "error_after": stage.transfer.after,
        "steps": stage.steps,
        "seconds": stage.seconds,
    }


def _errors(errors: Errors) -> dict[str, Value]:
    return {
        "train_rmse": errors.train,
        "validation_rmse": errors.validation,
        "test_rmse": errors.test,
    }


def state_to_checkpoint(state: TrainingState, meta: dict[str, Any]) -> Checkpoint:
    """Return the state of a training, from which it resumes exactly; `meta` are further values."""
    arrays: Arrays = {}
    stages = []
    for stage in state.stages:
        prefix = f"{stage.stage}/"
        arrays |= pack(stage.network, f"{prefix}network/") | {
            f"{prefix}random": stage.random.numpy()
        }
        stages.append({**_plain(stage), "network": stage.network.describe()})
    described: dict[str, Any] = {**meta, "stages": stages, "snapshot": None}
    if (snapshot := state.snapshot) is not None:
        arrays |= pack(snapshot.network, "snapshot/network/") | pack(
            snapshot.best, "snapshot/best/"
        )
        arrays |= _packed(snapshot.solver, "snapshot/solver/") | {
            "snapshot/random": snapshot.random.numpy()
        }
        networks = {"network": snapshot.network.describe(), "best": snapshot.best.describe()}
        described["snapshot"] = {**_plain(snapshot), **networks}
    return Checkpoint("resume", arrays, described)


def state_from_checkpoint(checkpoint: Checkpoint | None, device: torch.device) -> TrainingState:
    """Return the state that `state_to_checkpoint` stored, or that of a new training."""
    if checkpoint is None:
        return TrainingState()
    arrays, meta, snapshot = checkpoint.arrays, checkpoint.meta, None
    stages = []
    for entry in meta["stages"]:
        prefix = f"{entry['stage']}/"
        values = {
            "network": unpack(entry["network"], arrays, f"{prefix}network/").to(device),
            "errors": Errors(**entry["errors"]),
            "random": _tensors(arrays, f"{prefix}random")[""],
        }
        stages.append(Stage(**_parts(entry) | values))
    if entry := meta["snapshot"]:
        values = {
            "network": unpack(entry["network"], arrays, "snapshot/network/").to(device),
            "best": unpack(entry["best"], arrays, "snapshot/best/").to(device),
            "solver": _tensors(arrays, "snapshot/solver/", device),
            "random": _tensors(arrays, "snapshot/random")[""],
        }
        snapshot = Snapshot(**_parts(entry) | values)
    return TrainingState(stages, snapshot)


def _plain(part: Stage | Snapshot) -> dict[str, Any]:
    """Return the fields that JSON can hold."""
    kept = {key: value for key, value in vars(part).items() if key not in APART}
    nested = (Errors, SmoothnessPenalty, GridTransfer)
    return {
        key: asdict(value) if isinstance(value, nested) else value for key, value in kept.items()
    }


def _parts(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a stage or snapshot that are made of plain values."""
    return {
        **entry,
        "penalty": SmoothnessPenalty(**entry["penalty"]),
        "transfer": GridTransfer(**entry["transfer"]),
    }


def _packed(tensors: dict[str, Tensor], prefix: str) -> Arrays:
    return {prefix + key: value.detach().cpu().numpy() for key, value in tensors.items()}


def _tensors(arrays: Arrays, prefix: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: torch.from_numpy(np.array(array)).to(device)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
