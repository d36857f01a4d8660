"""A training as records: the rows of its steps and stages, and the checkpoint from which it resumes, and back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanrun.engine.networks import count_parameters
from kanrun.engine.training import Done, Errors, Event, Pause, Reached, Smoothing, Stage, Step, Trained
from kanrun.runs.records import Checkpoint, Record, Value
from kanrun.study.saved import Arrays, pack, unpack

#: Fields of stages and pauses that are stored as arrays.
APART = ("network", "best", "random", "memory", "solver")


def follow(
    events: Generator[Event, None, Trained], records_of: Callable[[Event], Iterable[Record]]
) -> Generator[Record, None, Trained]:
    """Yield what `records_of` makes of each event of a training; return what was trained."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            trained: Trained = end.value
            return trained
        yield from records_of(event)


def step_row(step: Step) -> dict[str, Value]:
    """Where the step was, the errors after it, and the seconds of training so far."""
    place: dict[str, Value] = {"stage": step.stage, "step": step.step, "intervals": step.intervals}
    return {**place, **_errors(step.errors), "seconds": step.seconds}


def stage_row(stage: Stage) -> dict[str, Value]:
    """The grid, its errors, and the transfer to it, with the errors `error_before` and `error_after` the transfer."""
    return {
        "stage": stage.stage,
        "intervals": stage.intervals,
        "parameters": count_parameters(stage.network),
        **_errors(stage.errors),
        "penalty": stage.smoothing.weight,
        "carried_by": stage.reached.how,
        "function_change": stage.reached.change,
        "error_before": stage.reached.before,
        "error_after": stage.reached.after,
        "steps": stage.steps,
        "seconds": stage.seconds,
    }


def _errors(errors: Errors) -> dict[str, Value]:
    return {"train_rmse": errors.train, "validation_rmse": errors.validation, "test_rmse": errors.test}


def done_to_checkpoint(done: Done, meta: dict[str, Any]) -> Checkpoint:
    """The state of a training, from which it resumes to the same numbers; `meta` are the caller's own plain values."""
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
    """The state that `done_to_checkpoint` stored; that of a new training without a checkpoint."""
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
