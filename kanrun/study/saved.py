"""Trained models as checkpoints and back, and run folders read back by `load_run`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.engine.networks import Network, from_description
from kanrun.errors import MALFORMED, KanrunError, UsageError
from kanrun.runs import Run, find_run
from kanrun.runs.files import write_named_file
from kanrun.runs.records import Checkpoint
from kanrun.study.build import LearningProblem
from kanrun.study.model import Model
from kanrun.study.prediction import Array


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

        def natural(name: str) -> list[str | int]:
            """Return the words and numbers of a name, such as cell 10 behind cell 2."""
            parts = enumerate(re.split(r"(\d+)", name))
            return [int(part) if place % 2 else part for place, part in parts]

        others = SLIDER_NAME, re.compile(r"resume-\d+-\d+")
        names = (one for one in self.run.checkpoints if not any(e.fullmatch(one) for e in others))
        return sorted(names, key=natural)

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, or that of the first seed.

        Raises UsageError for a run without models or of several points, and for an unknown name.
        """
        self.run.check_single()
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
        return replace(from_checkpoint(self.run.checkpoint(chosen), Model), tables=self.tables)

    def export(self, form: str, file: str | Path, name: str | None = None) -> list[str]:
        """Write the model called `name` (the first seed's), or the run's formula, to `file`.

        Returns notes for the user. Raises UsageError for an unknown format, and if the file cannot
        be written.
        """
        from kanrun.exports import formula_bytes, identifier

        chosen = name or next(iter(self.models), "")
        found = self.run.checkpoint(chosen).meta if chosen in self.run.checkpoints else {}
        if "formula" in found:
            all_of = [self.run.checkpoint(one).meta for one in ([name] if name else self.models)]
            units = self.config.get("target", {}).get("units")
            stored = [
                {**one, "units": units}
                for one in all_of
                if "formula" in one and one.get("seed") == found.get("seed")
            ]
            content = formula_bytes(stored, form, file, identifier(Path(file).stem))
            write_named_file(Path(file), content)
            return []
        if form == "formula":
            raise UsageError(
                f"{self.run.path} holds no formula; find one with kanrun interpret from_run=RUN."
            )
        return self.model(name).export(form, file)


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


Arrays = dict[str, NDArray[Any]]
Kind = TypeVar("Kind")
SLIDER_NAME = re.compile(r".*-seed\d+-stages")  # of checkpoints with models under a slider
#: Maximum numbers of parameters of all networks under one slider, and of their test points.
MOST_SLIDER_NUMBERS, MOST_SLIDER_POINTS = 100_000, 300


@dataclass(frozen=True)
class Slider:
    """Models that a report shows under one slider, their labels, and test points (x, y)."""

    title: str
    slider: str
    labels: tuple[str, ...]
    models: tuple[Model, ...]
    x: Array
    y: Array


def to_checkpoint(name: str, value: Any, **further: Any) -> Checkpoint:
    """Return a dataclass as JSON and arrays, from which `from_checkpoint` makes it again.

    Parameters of networks, tensors and columns of numbers are arrays, all else is in the
    description, together with the values of `further`.
    """
    arrays: Arrays = {}

    def stored(part: Any) -> Any:
        place = f"{len(arrays)}/"
        if isinstance(part, Network):
            arrays.update(pack(part, place))
            return {**part.describe(), "place": place}
        if isinstance(part, pd.DataFrame):
            return {str(column): stored(values) for column, values in part.items()}
        if isinstance(part, pd.Series) and part.dtype.kind not in "biuf":
            return [[None if pd.isna(one) else str(one) for one in part]]
        if isinstance(part, Tensor | pd.Series):
            arrays[place] = part.cpu().numpy() if isinstance(part, Tensor) else part.to_numpy()
            return place
        return part.tolist()

    return Checkpoint(name, arrays, {**further, **msgspec.to_builtins(value, enc_hook=stored)})


def from_checkpoint(
    checkpoint: Checkpoint, kind: type[Kind], device: torch.device | None = None
) -> Kind:
    """Return the dataclass of `to_checkpoint`. Raises KanrunError if it is not a valid `kind`."""
    arrays = checkpoint.arrays

    def restored(part: type, plain: Any) -> Any:
        if part is Network:
            own = {name: value for name, value in plain.items() if name != "place"}
            return unpack(own, arrays, plain.get("place", "")).to(device)
        if part is pd.DataFrame:
            return pd.DataFrame(
                {name: arrays[at] if isinstance(at, str) else at[0] for name, at in plain.items()}
            )
        if part is not Tensor:
            return np.array(plain, dtype=np.float64)
        tensor = torch.from_numpy(np.array(arrays[plain]))
        # The state of a generator, which has bytes, stays on the CPU.
        return tensor if tensor.dtype == torch.uint8 else tensor.to(device)

    try:
        return msgspec.convert(checkpoint.meta, kind, dec_hook=restored)
    except MALFORMED as error:
        raise KanrunError(
            f"Checkpoint {checkpoint.name} does not describe a {kind.__name__}: {error!r}."
        ) from error


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
    except (RuntimeError, *MALFORMED) as error:
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


def model_of(network: Network, problem: LearningProblem, seed: int = 0, **learned: Any) -> Model:
    """Return `network` with all that predicting needs; `learned` are further fields of `Model`."""
    dataset, target = problem.dataset, problem.dataset.target
    return Model(
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


def slider_checkpoint(
    problem: LearningProblem, networks: Mapping[str, Network], slider: str, title: str, seed: int
) -> Iterator[Checkpoint]:
    """Yield the KANs that a report shows under one slider, with test points.

    Yields nothing for networks of another kind, and for too many numbers.
    """
    points = problem.dataset.test or problem.dataset.train
    some = slice(None, None, max(1, -(-len(points.x) // MOST_SLIDER_POINTS)))
    models = tuple(model_of(network, problem, seed) for network in networks.values())
    shown = Slider(title, slider, tuple(networks), models, points.x[some], points.y[some])
    stored = to_checkpoint(f"{slider}s-seed{seed}-stages", shown)
    is_small = sum(array.size for array in stored.arrays.values()) <= MOST_SLIDER_NUMBERS
    if is_small and all(network.edge_layers for network in networks.values()):
        yield stored
