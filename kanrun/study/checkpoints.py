"""Models, and networks under sliders, as checkpoints: arrays and a description, never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kanrun.engine.networks import Network
from kanrun.errors import KanrunError
from kanrun.runs.records import Checkpoint
from kanrun.study.model import Model
from kanrun.study.problem import LearningProblem
from kanrun.study.training_records import Arrays, pack, unpack
from kanrun.targets import TableCode, scaling_from_plain

Array = NDArray[np.float64]
TABLES = "tables/"  # what the names of arrays begin with that belong to a model's tables
#: Maximum numbers of parameters of all networks under one slider, and of their test points.
MOST_SLIDER_NUMBERS, MOST_SLIDER_POINTS = 100_000, 300


def model_checkpoint(
    network: Network,
    problem: LearningProblem,
    summary: dict[str, Any],
    seed: int,
    errors: Array | None = None,
    gaps: tuple[Array, ...] = (),
) -> Checkpoint:
    """Return `network` with all that predicting needs, named by target, shape, points and seed."""
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
        errors,
        gaps,
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


def checkpoint_of(model: Model, name: str) -> Checkpoint:
    """Return the model and its tables as arrays and JSON, for `model_from_checkpoint`."""
    arrays, texts = pack(model.network), dict[str, dict[str, Any]]()
    for table, columns in model.tables.items():
        numeric = {str(column): values.dtype.kind in "biuf" for column, values in columns.items()}
        arrays |= {
            f"{TABLES}{table}/{column}": columns[column].to_numpy()
            for column in numeric
            if numeric[column]
        }
        texts[table] = {
            column: None
            if is_number
            else [None if pd.isna(value) else str(value) for value in columns[column]]
            for column, is_number in numeric.items()
        }
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
        "tables": texts,
        "notes": list(model.notes),
    }
    return Checkpoint(name, arrays, meta)


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
    for name in (*model.inputs, *model.outputs, *(model.classes or ())):
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is the name of an input, output or class, and no text")
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
