"""Settings that experiments share: of every run, of the sampling of points, and of training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from kanrun.config.registry import EXPERIMENTS
from kanrun.config.rules import (
    DISTINCT,
    FREE_TEXT,
    MISSING,
    Count,
    Natural,
    NonEmpty,
    NonNegative,
    Positive,
    Words,
    copied,
)

Precision = Literal["float64", "float32"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
MAX_SEED = 2**32 - 1
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass
class ExecutorConfig:
    """Where training takes place: in this process, in several processes, or on a Dask cluster."""

    kind: Annotated[
        Literal["serial", "local", "dask"],
        "where cells run: in this process, in processes of this machine, or on a Dask cluster",
    ] = "serial"
    workers: Annotated[Count | None, "processes of executor=local; null is one per core"] = None
    address: Annotated[str | None, "scheduler of executor=dask, such as tcp://10.0.0.1:8786"] = None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors: workers without executor=local, or an address without executor=dask.

        A missing address with executor=dask is an error too.
        """
        if self.workers is not None and self.kind != "local":
            yield f"{at}workers={self.workers} is for executor=local, not executor={self.kind}."
        if self.kind == "dask" and not (self.address or "").strip():
            yield f"executor=dask needs {at}address, the scheduler's, such as tcp://10.0.0.1:8786."
        if self.kind != "dask" and self.address is not None:
            yield f"{at}address={self.address} is for executor=dask, not executor={self.kind}."


@dataclass
class ExperimentConfig:
    """Settings of every experiment."""

    seed: Annotated[Natural, "the first seed"] = 0
    n_seeds: Annotated[Count, "number of seeds: seed, seed + 1, ..."] = 1
    precision: Annotated[Precision, "floating-point format of the training"] = "float64"
    device: Annotated[
        str, "device of the training, also cuda:N", Words(("auto", "cpu", "cuda", "mps"))
    ] = "auto"
    threads: Annotated[
        Count | None, "threads of one training; null is 1, since small matrices gain little"
    ] = None
    executor: Annotated[ExecutorConfig, "executor of cells"] = copied(ExecutorConfig())
    max_cpu_seconds: Annotated[
        Positive | None,
        "CPU seconds after which the run stops cleanly and keeps the best result; null is no limit",
    ] = None
    figures: Annotated[
        list[str] | Literal["all", "none"],
        "figures that the run draws: all, none, or a list of names; `kanrun runs figures` draws "
        "the others later",
        DISTINCT,
    ] = "all"
    figure_formats: Annotated[
        NonEmpty[Literal["png", "svg", "pdf"]],
        "file formats of the figures",
        DISTINCT,
    ] = copied(["png"])
    tracker: Annotated[
        Literal["mlflow", "tensorboard", "trackio"] | None,
        "experiment tracker that also records the run",
    ] = None
    tags: Annotated[
        list[str], "words by which the run is found and listed", DISTINCT, FREE_TEXT
    ] = copied([])
    note: Annotated[str | None, "a sentence about the run", FREE_TEXT] = None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors for invalid seeds, devices or figures, and CPU limits with executor=dask."""
        kinds = (kind for kind in EXPERIMENTS.values() if kind.settings is type(self))
        known = ", ".join(next((kind.figures for kind in kinds), ()))
        for name in () if isinstance(self.figures, str) else self.figures:
            if known and not any(fnmatch(name, figure) for figure in known.split(", ")):
                yield f"{at}figures=[{name}] names no figure of this command; it draws {known}."
        if self.max_cpu_seconds is not None and self.executor.kind == "dask":
            yield (
                f"max_cpu_seconds={self.max_cpu_seconds:g} is not for executor=dask, "
                "whose workers are not this machine's."
            )
        if self.seed + self.n_seeds - 1 > MAX_SEED:
            yield (
                f"seed={self.seed} with n_seeds={self.n_seeds} goes beyond {MAX_SEED}, "
                "the largest seed."
            )
        if not _DEVICE.fullmatch(self.device):
            yield f"device={self.device} is not one of auto, cpu, cuda, cuda:N, mps."
        if self.device == "mps" and self.precision != "float32":
            yield f"device=mps has no {self.precision}; add precision=float32."


@dataclass
class SamplingConfig:
    """Numbers of points; for tables, null means a random split of all rows."""

    n_train: Annotated[
        Count | None,
        "training points, validation points included; null is 1000 points of a function, which "
        "join others in `fit` if needed (extra_points), and the rows of a table that are not "
        "test rows",
    ] = None
    n_test: Annotated[Natural | None, "test points"] = 1000
    noise: Annotated[NonNegative, "standard deviation of the noise relative to the target's"] = 0.0
    validation_fraction: Annotated[
        float, Meta(ge=0, le=0.5), "fraction of the training points held out for model selection"
    ] = 0.1


@dataclass
class TrainingConfig(ExperimentConfig):
    """Settings of experiments that train a model on points of a target."""

    target: Annotated[Any, "function, formula or table to learn"] = MISSING
    model: Annotated[Any, "model to train"] = MISSING
    solver: Annotated[Any, "training method"] = MISSING
    sampling: Annotated[SamplingConfig, "points of the target"] = copied(SamplingConfig())


#: Keys that imply the choice of a target, with this choice.
IMPLIED_TARGETS = {
    "target.formula": "target=expression",
    "target.path": "target=table",
    "target.outputs": "target=table",
}
