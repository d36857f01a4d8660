"""Trackers of a run: MLflow, TensorBoard and trackio, all off by default.

A tracker receives the settings, the rows of `metrics.csv`, and at the end the medians of
`summary.csv`. If it raises an error, a warning is printed, the tracker is not used any more, and
the run continues.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kanrun.config.registry import Plain
from kanrun.errors import tell
from kanrun.runs.files import MARKS, flattened

Numbers = Mapping[str, float]
#: Largest number of characters of a setting that are sent to MLflow; the rest is cut.
MAX_CHARACTERS = 500


class Backend(NamedTuple):
    """Functions of one tracker.

    `log(numbers, step)` logs numbers at a step, which is None for results. `end(status)` ends the
    tracked run.
    """

    log: Callable[[Numbers, int | None], None]
    end: Callable[[str], Any]
    prefix: str = "result/"  # prefix of the names of results


class Tracker:
    """One tracker of one run. Errors of the tracker become warnings."""

    def __init__(self, name: str, command: str, folder: Path, settings: Plain) -> None:
        self._name = name
        self._steps = Counter[str]()
        self._backend: Backend | None = None
        flat = {key: value for key, value in flattened(settings).items() if value is not None}
        with self._warning():
            self._backend = BACKENDS[name](command, folder, flat)

    def row(self, values: Plain, key: Sequence[int]) -> None:
        """Log a row of `metrics`.

        If there are several training runs, `key` identifies the training (point, cell and seed),
        and the names of the numbers start with it; otherwise `key` is empty.
        """
        if self._backend is None:
            return
        prefix = "".join(
            f"{name} {number}/" for name, number in zip(MARKS, key, strict=False) if number
        )
        with self._warning():
            if numbers := _numbers(values, prefix):
                self._backend.log(numbers, self._steps[prefix])
        self._steps[prefix] += 1

    def end(self, results: Plain, status: str) -> None:
        """Log the results (medians over seeds), and end the tracked run with `status`."""
        if self._backend is not None:
            with self._warning():
                self._backend.log(_numbers(results, self._backend.prefix), None)
                self._backend.end(status)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Turn an error of the tracker into a warning, and stop using the tracker."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # trackers print messages
                yield
        except Exception as error:  # whatever a tracker raises, the run continues
            self._backend = None
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            hint = f" (pip install {self._name})" if isinstance(error, ImportError) else ""
            tell(f"tracker={self._name} does not work and is left out: {cause}{hint}")


def _numbers(values: Plain, prefix: str = "") -> Numbers:
    return {
        f"{prefix}{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and name not in MARKS
    }


def _mlflow(command: str, folder: Path, settings: Plain) -> Backend:
    """Log to the MLflow server MLFLOW_TRACKING_URI, or to an SQLite file in the outputs folder."""
    # Without these limits, a training run would wait minutes for a server that does not answer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
    from mlflow import MlflowClient

    # MLflow logs every step of setting up its database at level INFO.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    place = f"sqlite:///{(folder.parents[1] / 'mlflow.db').absolute()}"
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or place)
    name = f"kanrun-{command}"
    stored = client.get_experiment_by_name(name)
    experiment = stored.experiment_id if stored else client.create_experiment(name)
    run = client.create_run(experiment, run_name=folder.name).info.run_id
    for key, value in settings.items():
        client.log_param(run, key, str(value)[:MAX_CHARACTERS])

    def log(numbers: Numbers, step: int | None) -> None:
        for key, value in numbers.items():
            client.log_metric(run, key.replace(" ", "_"), value, step=step)

    def end(status: str) -> None:
        client.set_terminated(run, "FINISHED" if status == "COMPLETED" else "FAILED")

    return Backend(log, end, prefix="")


def _tensorboard(_: str, folder: Path, settings: Plain) -> Backend:
    """Log into the folder `tensorboard` of the run."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder / "tensorboard"))
    lines = (f"    {key}: {value}" for key, value in settings.items())
    writer.add_text("settings", "\n".join(lines))

    def log(numbers: Numbers, step: int | None) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return Backend(log, lambda _: writer.close())


def _trackio(command: str, folder: Path, settings: Plain) -> Backend:
    """Log into trackio's own database on this machine."""
    import trackio

    trackio.init(project=f"kanrun-{command}", name=folder.name, config=dict(settings))

    def log(numbers: Numbers, step: int | None) -> None:
        trackio.log({key: value for key, value in numbers.items() if key != "step"}, step=step)

    return Backend(log, lambda _: trackio.finish())


BACKENDS: dict[str, Callable[[str, Path, Plain], Backend]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
