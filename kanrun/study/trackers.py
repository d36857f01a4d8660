"""Trackers next to the run folder: MLflow, TensorBoard, trackio; off by default.

A tracker gets the settings, the rows of `metrics.csv`, and at the end the medians of `summary.csv`.
Its first error is a warning, after which it gets nothing; the run continues.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from kanrun.runs.index import flattened
from kanrun.runs.tables import MARKS

Numbers = Mapping[str, float]


class Backend(Protocol):
    """Backend of a tracker; its methods may raise whatever its package raises."""

    def log(self, numbers: Numbers, step: int) -> None:
        """Log numbers of a step."""

    def end(self, results: Numbers, status: str) -> None:
        """Log the results, and end the run."""


class Tracker:
    """One tracker of one run; its errors are warnings."""

    def __init__(self, name: str, command: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._name, self._backend, self._steps = name, None, dict[Any, int]()
        flat = {key: value for key, value in flattened(settings).items() if value is not None}
        self._backend = self._tried(lambda: BACKENDS[name](command, folder, flat))

    def row(self, values: Mapping[str, Any]) -> None:
        """Log a row of `metrics`, under the name of the training if there are several."""
        marks = {name: values[name] for name in MARKS if values.get(name)}
        key = tuple(values.get(name) for name in MARKS)
        step = self._steps[key] = self._steps.get(key, -1) + 1
        prefix = "".join(f"{name} {value}/" for name, value in marks.items())
        numbers = {f"{prefix}{name}": number for name, number in _numbers(values)}
        if self._backend is not None and numbers:
            backend = self._backend
            self._tried(lambda: backend.log(numbers, step))

    def end(self, results: Mapping[str, Any], status: str) -> None:
        """Log the medians of the run, and its status."""
        if self._backend is not None:
            backend = self._backend
            self._tried(lambda: backend.end(dict(_numbers(results)), status))

    def _tried(self, act: Callable[[], Any]) -> Any:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where trackers say what they do
                return act()
        except Exception as error:  # No error of a tracker ends the run.
            self._backend = None
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            hint = f" (pip install {self._name})" if isinstance(error, ImportError) else ""
            print(
                f"kanrun: tracker={self._name} does not work and is left out: {cause}{hint}",
                file=sys.stderr,
            )
            return None


class _MLflow:
    """Tracker that writes to an SQLite file next to the runs, or to MLFLOW_TRACKING_URI."""

    def __init__(self, command: str, folder: Path, settings: Mapping[str, Any]) -> None:
        # Without a limit, a training waits minutes for a dead server.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
        from mlflow import MlflowClient

        # It reports every step of its own database.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = (
            os.environ.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{(folder.parents[1] / 'mlflow.db').absolute()}"
        )
        self._client = MlflowClient(uri)
        found = self._client.get_experiment_by_name(f"kanrun-{command}")
        experiment = (
            found.experiment_id if found else self._client.create_experiment(f"kanrun-{command}")
        )
        self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, str(value)[:500])

    def log(self, numbers: Numbers, step: int) -> None:
        for key, value in numbers.items():
            self._client.log_metric(self._run, key.replace(" ", "_"), value, step=step)

    def end(self, results: Numbers, status: str) -> None:
        self.log(results, 0)
        self._client.set_terminated(self._run, "FINISHED" if status == "COMPLETED" else "FAILED")


class _TensorBoard:
    """Into the folder `tensorboard` of the run."""

    def __init__(self, _: str, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text(
            "settings", "\n".join(f"    {key}: {value}" for key, value in settings.items())
        )

    def log(self, numbers: Numbers, step: int) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def end(self, results: Numbers, _: str) -> None:
        for key, value in results.items():
            self._writer.add_scalar(f"result/{key}", value, 0)
        self._writer.close()


class _Trackio:
    """Into trackio's own database on this machine."""

    def __init__(self, command: str, folder: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        self._package = trackio
        trackio.init(project=f"kanrun-{command}", name=folder.name, config=dict(settings))

    def log(self, numbers: Numbers, step: int) -> None:
        self._package.log(
            {name: value for name, value in numbers.items() if name != "step"}, step=step
        )

    def end(self, results: Numbers, _: str) -> None:
        self._package.log({f"result/{key}": value for key, value in results.items()})
        self._package.finish()


BACKENDS: dict[str, Callable[[str, Path, Mapping[str, Any]], Backend]] = {
    "mlflow": _MLflow,
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        number = (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
        if number and name not in MARKS:
            yield name, float(value)
