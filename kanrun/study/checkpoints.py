"""Trainings as records, and back: networks as arrays, rows of steps and stages, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pandas as pd
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
from kanrun.families import Family
from kanrun.runs.records import Checkpoint, Record, Value
from kanrun.study.model import Model
from kanrun.study.problem import LearningProblem
from kanrun.targets import TableCode, scaling_from_plain

Array = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]
#: Fields of stages and snapshots that are dataclasses of plain values.
_NESTED = {"errors": Errors, "penalty": SmoothnessPenalty, "transfer": GridTransfer}
#: Columns of the table `growth`, besides the shape.
GROWTH_COLUMNS = ("intervals", "parameters", "train_rmse", "validation_rmse", "test_rmse", "steps")
TABLES = "tables/"  # what the names of arrays begin with that belong to a model's tables
#: Maximum numbers of parameters of all networks under one slider, and of their test points.
MOST_SLIDER_NUMBERS, MOST_SLIDER_POINTS = 100_000, 300


def pack(network: Network, prefix: str = "") -> Arrays:
    """Return the network's parameters and buffers as arrays, their names after `prefix`."""
    return {prefix + name: _array(value) for name, value in network.state_dict().items()}


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


def growth_row(stage: Stage) -> dict[str, Value]:
    """Return a shape that was tried, its grid, size, errors and steps."""
    shape = "-".join(map(str, stage.network.shape))
    row = {name: value for name, value in stage_row(stage).items() if name in GROWTH_COLUMNS}
    return {"shape": shape, **row}


def _errors(errors: Errors) -> dict[str, Value]:
    names = ("train", "validation", "test")
    return {f"{name}_rmse": getattr(errors, name) for name in names}


def state_to_checkpoint(state: TrainingState, meta: dict[str, Any]) -> Checkpoint:
    """Return the state of a training, from which it resumes exactly; `meta` are further values."""
    arrays: Arrays = {}
    stages = [_entry(stage, f"{stage.stage}/", arrays) for stage in state.stages]
    snapshot = state.snapshot and _entry(state.snapshot, "snapshot/", arrays)
    return Checkpoint("resume", arrays, {**meta, "stages": stages, "snapshot": snapshot})


def state_from_checkpoint(checkpoint: Checkpoint | None, device: torch.device) -> TrainingState:
    """Return the state that `state_to_checkpoint` stored, or that of a new training."""
    if checkpoint is None:
        return TrainingState()
    arrays, meta = checkpoint.arrays, checkpoint.meta
    stages = [
        Stage(**_values(entry, arrays, f"{entry['stage']}/", device)) for entry in meta["stages"]
    ]
    entry = meta["snapshot"]
    snapshot = Snapshot(**_values(entry, arrays, "snapshot/", device)) if entry else None
    return TrainingState(stages, snapshot)


def _entry(part: Stage | Snapshot, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return what JSON can hold of a stage or snapshot; the rest is added to the arrays."""
    entry: dict[str, Any] = {}
    for name, value in vars(part).items():
        if isinstance(value, Network):
            entry[name] = value.describe()
            arrays |= pack(value, f"{prefix}{name}/")
        elif name == "solver":
            arrays |= {f"{prefix}solver/{key}": _array(tensor) for key, tensor in value.items()}
        elif name == "random":
            arrays[f"{prefix}random"] = _array(value)
        else:
            entry[name] = asdict(value) if name in _NESTED else value
    return entry


def _values(
    entry: dict[str, Any], arrays: Arrays, prefix: str, device: torch.device
) -> dict[str, Any]:
    """Return the fields of a stage or snapshot from its entry and the arrays."""
    solver = f"{prefix}solver/"
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    values = {**entry, "random": tensors[f"{prefix}random"]}
    if "best" in entry:
        values["solver"] = {
            name.removeprefix(solver): tensor.to(device)
            for name, tensor in tensors.items()
            if name.startswith(solver)
        }
    for name, value in entry.items():
        if name in _NESTED:
            values[name] = _NESTED[name](**value)
        elif name in ("network", "best"):
            values[name] = unpack(value, arrays, f"{prefix}{name}/").to(device)
    return values


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def model_checkpoint(
    network: Network,
    problem: LearningProblem,
    summary: dict[str, Any],
    seed: int,
    **learned: Any,
) -> Checkpoint:
    """Return `network` with all that predicting needs, named by target, shape, points and seed.

    `learned` are further fields of `Model`: errors, gaps and family.
    """
    dataset, target = problem.dataset, problem.dataset.target
    model = Model(
        network,
        target.inputs,
        target.outputs,
        target.domain,
        dataset.input_scaling,
        dataset.output_scaling,
        dataset.classes,
        seed,
        target.code,
        **learned,
    )
    return checkpoint_of(
        model, f"{summary['target']}-{summary['shape']}-{summary['train_points']}-seed{seed}"
    )


def slider_checkpoint(
    problem: LearningProblem, networks: Mapping[str, Network], slider: str, title: str, seed: int
) -> Iterator[Checkpoint]:
    """Yield the KANs that a report shows under one slider, with test points.

    Yields nothing for networks of another kind, and for too many numbers.
    """
    if not all(network.edge_layers for network in networks.values()):
        return
    arrays, stages = dict[str, Any](), []
    for number, (label, network) in enumerate(networks.items()):
        arrays |= pack(network, f"{number}/")
        stages.append({"label": label, "network": network.describe()})
    if sum(array.size for array in arrays.values()) > MOST_SLIDER_NUMBERS:
        return
    points = problem.dataset.test or problem.dataset.train
    some = slice(None, None, max(1, -(-len(points.x) // MOST_SLIDER_POINTS)))
    summary = dict.fromkeys(("target", "shape", "train_points"))
    meta = model_checkpoint(network, problem, summary, seed).meta | {
        "slider": slider,
        "title": title,
        "stages": stages,
    }
    arrays |= {"points/x": points.x[some], "points/y": points.y[some]}
    yield Checkpoint(f"{slider}s-seed{seed}-stages", arrays, meta)


def checkpoint_of(model: Model, title: str) -> Checkpoint:
    """Return the model and its tables as arrays and JSON, for `model_from_checkpoint`."""
    arrays, texts = pack(model.network), dict[str, dict[str, Any]]()
    for table, columns in model.tables.items():
        texts[table] = {}
        for name, values in columns.items():
            if is_number := values.dtype.kind in "biuf":
                arrays[f"{TABLES}{table}/{name}"] = values.to_numpy()
            texts[table][str(name)] = (
                None if is_number else [None if pd.isna(value) else str(value) for value in values]
            )
    meta = {
        "network": model.network.describe(),
        "inputs": list(model.inputs),
        "outputs": list(model.outputs),
        "domain": model.domain.tolist(),
        "classes": list(model.classes) if model.classes else None,
        "input_scaling": model.input_scaling.plain(),
        "output_scaling": model.output_scaling.plain(),
        "seed": model.seed,
        "errors": None if model.errors is None else model.errors.tolist(),
        "code": model.code.plain() if model.code else None,
        "gaps": [inside.tolist() for inside in model.gaps],
        "family": asdict(model.family) if model.family else None,
        "tables": texts,
        "notes": list(model.notes),
    }
    return Checkpoint(title, arrays, meta)


def model_from_checkpoint(checkpoint: Checkpoint) -> Model:
    """Return the model that `model_checkpoint` stored. Raises KanrunError if it is not valid."""
    meta = checkpoint.meta
    try:
        model = Model(
            unpack(
                meta["network"],
                {name: a for name, a in checkpoint.arrays.items() if not name.startswith(TABLES)},
            ),
            tuple(meta["inputs"]),
            tuple(meta["outputs"]),
            np.array(meta["domain"], dtype=np.float64),
            scaling_from_plain(meta["input_scaling"]),
            scaling_from_plain(meta["output_scaling"]),
            tuple(meta["classes"]) if meta["classes"] else None,
            int(meta["seed"]),
            TableCode.from_plain(meta["code"]) if meta.get("code") else None,
            np.array(meta["errors"], dtype=np.float64) if meta.get("errors") else None,
            tuple(
                np.array(inside, dtype=np.float64).reshape(-1, 2)
                for inside in meta.get("gaps") or ()
            ),
            msgspec.convert(meta.get("family"), Family | None),
            _tables(meta.get("tables", {}), checkpoint.arrays),
            tuple(map(str, meta.get("notes", ()))),
        )
        _check_sizes(model)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise KanrunError(
            f"Checkpoint {checkpoint.name} does not describe a model: {error!r}."
        ) from error
    return model


def _check_sizes(model: Model) -> None:
    """Raise ValueError if names, ranges and scalings do not fit the network or are not finite."""
    inputs, outputs = model.network.shape[0], model.network.shape[-1]
    for name, found, needed in (
        ("inputs", len(model.inputs), inputs),
        ("domain", len(model.domain), inputs),
        ("input_scaling", len(model.input_scaling.scale), inputs),
        ("output_scaling", outputs if model.classes else len(model.output_scaling.scale), outputs),
        ("classes" if model.classes else "outputs", len(model.classes or model.outputs), outputs),
    ):
        if found != needed:
            raise ValueError(f"{name} has {found} entries, and the network {needed}")
    names = (*model.inputs, *model.outputs, *(model.classes or ()))
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the name of an input, output or class is no text")
    for scaling in (model.input_scaling, model.output_scaling):
        with np.errstate(all="ignore"):
            zero = scaling.invert(np.zeros(len(scaling.scale)))
        if not (np.isfinite(scaling.scale) & (scaling.scale > 0) & np.isfinite(zero)).all():
            raise ValueError("a scaling is not finite, or a scale of it not positive")
    if not np.isfinite(model.domain).all():
        raise ValueError("a range is not finite")


def _tables(texts: dict[str, dict[str, Any]], arrays: Arrays) -> dict[str, pd.DataFrame]:
    """Return the tables that `Model.save` stored."""
    return {
        str(name): pd.DataFrame(
            {
                c: arrays[f"{TABLES}{name}/{c}"] if values is None else values
                for c, values in columns.items()
            }
        )
        for name, columns in texts.items()
    }
