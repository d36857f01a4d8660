"""Trained models as checkpoints and back, and run folders read back by `load_run`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kanrun.engine.networks import Network, from_description
from kanrun.errors import KanrunError, UsageError
from kanrun.families import Family
from kanrun.runs import Run, find_run
from kanrun.runs.files import write_named_file
from kanrun.runs.records import Checkpoint
from kanrun.study.build import LearningProblem
from kanrun.study.model import Model
from kanrun.targets import (
    TableCode,
    scaling_from_plain,
)


@dataclass(frozen=True)
class LoadedRun:
    """A run read back, or a point of it: `config`, `tables`, models, and its `points`."""

    run: Run

    @cached_property
    def points(self) -> tuple[LoadedRun, ...]:
        """Points in the order of their numbers; of a run of one point the run itself."""
        return tuple(LoadedRun(point) for point in self.run.points)

    @property
    def config(self) -> dict[str, Any]:
        """Stored configuration as plain values."""
        return deepcopy(self.run.config)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Recorded tables by name, each read when it is first asked for."""
        return self.run.frames

    @property
    def models(self) -> list[str]:
        """Names of the stored models: by cell, if there are several, then the lowest seed first."""

        def place(name: str) -> tuple[int, str, int]:
            """Return cell, words and seed of a checkpoint's name, which may end with a hash."""
            cell = re.match(r"cell(\d+)-", name)
            seed = re.search(r"-seed(\d+)(-[0-9a-f]{8})?$", name)
            words = name.rpartition("-seed")[0]
            return int(cell[1]) if cell else 0, words, int(seed[1]) if seed else 0

        other = re.compile(r"resume-\d+-\d+|.*-seed\d+-stages")
        return sorted(
            (name for name in self.run.checkpoints if not other.fullmatch(name)), key=place
        )

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, or that of the first seed.

        Raises UsageError for a run without models or of several points, and for an unknown name.
        """
        if self.run.has_points:
            raise UsageError(
                f"{self.run.name} is a run of {len(self.run.points)} points; name one of them. "
                f"The best is {self.run.best.name}."
            )
        self.run.check_checkpoints()
        if not self.models:
            raise UsageError(
                f"{self.run.path} holds no trained model; only finished trainings leave one."
            )
        chosen = name or self.models[0]
        if chosen not in self.models:
            raise UsageError(
                f"{self.run.path} has no model {chosen}; it has {', '.join(self.models)}."
            )
        return replace(model_from_checkpoint(self.run.checkpoint(chosen)), tables=self.tables)

    def export(
        self, form: str, file: str | Path, name: str | None = None, **options: float
    ) -> list[str]:
        """Write the model called `name` (the first seed's), or the run's formula, to `file`.

        `options` are those of `Model.export`. Returns notes for the user. Raises UsageError for an
        unknown format and a file that cannot be written.
        """
        from kanrun.exports import TABLE_FORMATS, formula_bytes, identifier

        chosen = name or next(iter(self.models), "")
        found = self.run.checkpoint(chosen).meta if chosen in self.run.checkpoints else {}
        if "formula" in found:
            seeds = [self.run.checkpoint(other) for other in ([name] if name else self.models)]
            units, stored = self.config.get("target", {}).get("units"), []
            for one in seeds:
                if "formula" in one.meta and one.meta.get("seed") == found.get("seed"):
                    arrays = {key: array.tolist() for key, array in one.arrays.items()}
                    names = [key.removesuffix(".knots") for key in arrays if key.endswith(".knots")]
                    splines = {
                        name: (arrays[f"{name}.knots"], arrays[f"{name}.coefficients"])
                        for name in names
                    }
                    own = {"domain": arrays["domain"], "splines": splines, "units": units}
                    stored.append({**one.meta, **own})
            content = formula_bytes(stored, form, file, identifier(Path(file).stem))
            write_named_file(Path(file), content)
            return []
        if form == "formula":
            raise UsageError(
                f"{self.run.path} holds no formula; find one with kanrun interpret from_run=RUN."
            )
        model = self.model(name)
        notes = model.export(form, file, **options)
        if model.code is None or form in TABLE_FORMATS:
            return notes
        return [
            *notes,
            f"{file} takes the {len(model.inputs)} numbers that encode the columns of the table: "
            f"{', '.join(model.inputs)}",
        ]


def load_run(run: str | Path, outputs: str | Path = "outputs") -> LoadedRun:
    """Read the run that `run` names: configuration, tables, trained models.

    Nothing in its folder is ever executed.

    Args:
        run: `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/7` for point 7 of a run of several, a
            path, a tag, or the beginning of a name in `outputs`.
        outputs: The folder of run folders.

    Returns:
        The run, or one point of it.

    Raises:
        UsageError: If there is no such run.

    Examples:
        >>> from kanrun import load_run
        >>> run = load_run("fit/latest")
        >>> run.model().inputs
        ('x0',)
        >>> len(run.tables["summary"])
        1
    """
    return LoadedRun(find_run(str(run), Path(outputs)))


Array = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]
TABLES = "tables/"  # what the names of arrays begin with that belong to a model's tables
#: Maximum numbers of parameters of all networks under one slider, and of their test points.
MOST_SLIDER_NUMBERS, MOST_SLIDER_POINTS = 100_000, 300


def pack(network: Network, prefix: str = "") -> Arrays:
    """Return the network's parameters and buffers as arrays, their names after `prefix`."""
    state = network.state_dict().items()
    return {prefix + name: value.detach().cpu().numpy() for name, value in state}


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


def model_checkpoint(
    network: Network, problem: LearningProblem, summary: dict[str, Any], seed: int, **learned: Any
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
    meta = model_checkpoint(network, problem, summary, seed).meta
    meta |= {"slider": slider, "title": title, "stages": stages}
    arrays |= {"points/x": points.x[some], "points/y": points.y[some]}
    yield Checkpoint(f"{slider}s-seed{seed}-stages", arrays, meta)


def checkpoint_of(model: Model, title: str) -> Checkpoint:
    """Return the model and its tables as arrays and JSON, for `model_from_checkpoint`."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, Family):
            return asdict(value)
        return value.plain() if hasattr(value, "plain") else value

    arrays, tables = pack(model.network), dict[str, dict[str, Any]]()
    for table, columns in model.tables.items():
        tables[table] = {}
        for name, values in columns.items():
            if is_number := values.dtype.kind in "biuf":
                arrays[f"{TABLES}{table}/{name}"] = values.to_numpy()
            tables[table][str(name)] = (
                None if is_number else [None if pd.isna(value) else str(value) for value in values]
            )
    meta = {name: plain(value) for name, value in vars(model).items() if name != "tables"}
    meta |= {"network": model.network.describe(), "tables": tables}
    return Checkpoint(title, arrays, meta)


def model_from_checkpoint(checkpoint: Checkpoint) -> Model:
    """Return the model that `model_checkpoint` stored. Raises KanrunError if it is not valid."""
    meta, arrays = checkpoint.meta, checkpoint.arrays
    try:
        own = {name: array for name, array in arrays.items() if not name.startswith(TABLES)}
        tables = {}
        for name, columns in meta.get("tables", {}).items():
            tables[str(name)] = pd.DataFrame(
                {
                    column: arrays[f"{TABLES}{name}/{column}"] if values is None else values
                    for column, values in columns.items()
                }
            )
        model = Model(
            unpack(meta["network"], own),
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
            tables,
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
