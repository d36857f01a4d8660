"""A trained model in a run folder, and back: what `load_run` and `kanrun predict` read."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kanrun.engine.networks import KAN, MLP, BSpline, Network
from kanrun.engine.training import predict
from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Run
from kanrun.runs.records import Checkpoint
from kanrun.study.checkpoints import pack, unpack
from kanrun.study.problem import Problem
from kanrun.targets import Scaling

Array = NDArray[np.float64]

#: What the edges of a KAN's first layer do outside their grids, by `model.outside`.
BEYOND = {
    "linear": "the splines go on linearly",
    "constant": "the splines keep their values at the ends",
    "zero": "the splines are zero",
}


@dataclass(frozen=True)
class Model:
    """A trained network with its names and units: call it with inputs in the user's units.

    `domain` (inputs, 2) is the range it was trained on; `classes` the labels of a classifier, else None.
    """

    network: Network
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    input_scaling: Scaling
    output_scaling: Scaling
    classes: tuple[str, ...] | None
    seed: int = 0  # of its training, whose split and scaling come from it

    def __call__(self, x: Array) -> Array:
        """f(x) (samples, outputs) for x (samples, inputs); class probabilities (samples, classes) for a classifier.

        Warns (UserWarning, once a call) of samples outside the trained range, see `cautions`.
        """
        if found := self.cautions(x):
            warnings.warn("; ".join(found), UserWarning, stacklevel=2)
        return self.values(x)

    def values(self, x: Array) -> Array:
        """As a call, without the warning."""
        parameter = next(self.network.parameters())
        inside = torch.as_tensor(self.input_scaling.apply(np.asarray(x, dtype=np.float64))).to(parameter)
        output = predict(self.network, inside).double()
        if self.classes:
            return output.softmax(-1).numpy()
        return self.output_scaling.invert(output.numpy())

    def outside(self, x: Array) -> Array:
        """Share of the samples outside the trained range, one number an input."""
        at, low, high = np.asarray(x, dtype=np.float64), self.domain[:, 0], self.domain[:, 1]
        if not len(at):
            return np.zeros(len(low))
        return np.asarray(((at < low) | (at > high)).mean(0), dtype=np.float64)

    def cautions(self, x: Array) -> list[str]:
        """A sentence an input that leaves the trained range: in how many samples, and what the model does there."""
        shares = zip(self.inputs, self.outside(x), self.domain, strict=True)
        return [
            f"{share:.1%} of the samples have {name} outside the trained range [{low:.6g}, {high:.6g}], where "
            f"{self.beyond}: nothing was learned there"
            for name, share, (low, high) in shares
            if share > 0
        ]

    @property
    def beyond(self) -> str:
        """What the model does outside the trained range."""
        if isinstance(self.network, KAN):
            spec = self.network.layer(0).spec
            return BEYOND[spec.outside] + ("" if spec.base == "zero" else f" and the base {spec.base} goes on")
        if isinstance(self.network, MLP):
            return "the network goes on by its formula"
        return "the curve goes on linearly" if isinstance(self.network, BSpline) else "the polynomial goes on"


def model_checkpoint(network: Network, problem: Problem, summary: dict[str, Any], seed: int) -> Checkpoint:
    """`network` with all that predicting needs. Its name tells target, shape, points and seed apart."""
    dataset = problem.dataset
    name = f"{summary['target']}-{summary['shape']}-{summary['train_points']}-seed{seed}"
    meta = {
        "network": network.describe(),
        "inputs": list(dataset.target.inputs),
        "outputs": list(dataset.target.outputs),
        "domain": dataset.target.domain.tolist(),
        "classes": list(dataset.classes) if dataset.classes else None,
        "input_scaling": _plain(dataset.input_scaling),
        "output_scaling": _plain(dataset.output_scaling),
        "seed": seed,
    }
    return Checkpoint(name, pack(network), meta)


def model_from_checkpoint(checkpoint: Checkpoint) -> Model:
    """The model that `model_checkpoint` stored. Raises KanrunError where something is missing or does not fit."""
    meta = checkpoint.meta
    try:
        return Model(
            unpack(meta["network"], checkpoint.arrays),
            tuple(meta["inputs"]),
            tuple(meta["outputs"]),
            np.array(meta["domain"], dtype=np.float64),
            _scaling(meta["input_scaling"]),
            _scaling(meta["output_scaling"]),
            tuple(meta["classes"]) if meta["classes"] else None,
            int(meta["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise KanrunError(f"Checkpoint {checkpoint.name} does not describe a model: {error!r}.") from error


def _plain(scaling: Scaling) -> dict[str, list[float]]:
    return {"shift": scaling.shift.tolist(), "scale": scaling.scale.tolist()}


def _scaling(plain: dict[str, list[float]]) -> Scaling:
    return Scaling(np.array(plain["shift"], dtype=np.float64), np.array(plain["scale"], dtype=np.float64))


@dataclass(frozen=True)
class LoadedRun:
    """A run read back: `config`, `tables` by name, and its trained models."""

    run: Run

    @property
    def config(self) -> dict[str, Any]:
        return self.run.config

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        return {name: self.run.table(name) for name in self.run.tables}

    @property
    def models(self) -> list[str]:
        """Names of the stored models: by cell, if there are several, then the lowest seed first."""
        names = (name for name in self.run.checkpoints if not re.fullmatch(r"resume-\d+-\d+", name))
        return sorted(names, key=lambda name: (_cell_of(name), name.rpartition("-seed")[0], _seed_of(name)))

    def model(self, name: str | None = None) -> Model:
        """The model called `name`; without one, that of the first seed.

        Raises UsageError for a run without models or a name that is not there.
        """
        if not self.models:
            raise UsageError(f"{self.run.path} holds no trained model; only finished trainings leave one.")
        chosen = name or self.models[0]
        if chosen not in self.models:
            raise UsageError(f"{self.run.path} has no model {chosen}; it has {', '.join(self.models)}.")
        return model_from_checkpoint(self.run.checkpoint(chosen))


def _cell_of(name: str) -> int:
    found = re.match(r"cell(\d+)-", name)
    return int(found[1]) if found else 0


def _seed_of(name: str) -> int:
    """The seed in a checkpoint's name, which ends with a mark where the target's name was no file name."""
    found = re.search(r"-seed(\d+)(-[0-9a-f]{8})?$", name)
    return int(found[1]) if found else 0


def load_run(path: str | Path) -> LoadedRun:
    """The run in folder `path`: config, tables, trained models. Nothing in the folder is ever executed."""
    return LoadedRun(Run(Path(path)))
