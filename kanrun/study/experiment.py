"""What an experiment is to the rest of the program, and the tasks that it is cut into."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from kanrun.config import ExperimentConfig
from kanrun.errors import KanrunError, UsageError
from kanrun.runs.manifest import Claim
from kanrun.runs.records import Checkpoint, Record
from kanrun.study.naming import names_of
from kanrun.study.settings import using_threads

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Cell = Mapping[str, Any]
MOST_TASKS = 100_000


class Experiment(Protocol):
    """A module (or object) with these four functions.

    It may have further ones:
    - `check(cfg)` refuses settings before anything runs;
    - `using_threads(n)` is a context manager that limits the threads of one training; without it, torch's are set.

    `run` may take a fourth argument `resume: Checkpoint | None`: the checkpoint that an earlier attempt yielded
    last under the name `resume`. It must then yield the records that come after that checkpoint, and no others.
    """

    def cells(self, cfg: Any, /) -> Sequence[Cell]: ...

    def run(self, cfg: Any, cell: Any, seed: int, /) -> Iterable[Record]: ...

    def figures(self, tables: Mapping[str, pandas.DataFrame], /) -> Iterable[tuple[str, Figure]]: ...

    def claims(self, tables: Mapping[str, pandas.DataFrame], /) -> Sequence[Claim]: ...


@dataclass(frozen=True)
class Task:
    """One training: cell number `index` of the study with one seed."""

    index: int
    cell: Cell
    seed: int
    label: str = ""  # for people; without it, cell and seed

    @property
    def pair(self) -> tuple[int, int]:
        return self.index, self.seed

    def __str__(self) -> str:
        return self.label or f"cell {self.index}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """Why a task failed: one sentence, and the traceback where there is one."""

    reason: str
    trace: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that `error` tells of; errors of kanrun speak for themselves."""
        text = str(error).strip()
        name = type(error).__name__
        reason = text if isinstance(error, KanrunError) and text else f"{name}: {text}" if text else name
        return cls(reason, "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Reference:
    """An experiment that crosses a process border: a module does so by its name, an object as it is."""

    experiment: Experiment | None
    module: str | None = None

    @classmethod
    def to(cls, experiment: Experiment) -> Reference:
        return cls(experiment, experiment.__name__ if isinstance(experiment, ModuleType) else None)

    def load(self) -> Experiment:
        if self.experiment is not None:
            return self.experiment
        module: Any = importlib.import_module(str(self.module))
        experiment: Experiment = module
        return experiment

    def __getstate__(self) -> dict[str, Any]:
        return {"experiment": None if self.module else self.experiment, "module": self.module}


@dataclass(frozen=True)
class Job:
    """All that a worker needs to run tasks: the experiment, its configuration, threads of a training."""

    reference: Reference
    cfg: ExperimentConfig
    threads: int

    def run(self, task: Task, resume: Checkpoint | None) -> Generator[Record, None, None]:
        """Yield the records of `task` as the experiment yields them."""
        experiment = self.reference.load()
        limit = getattr(experiment, "using_threads", using_threads)
        with limit(self.threads):
            if resume is not None and takes_resume(experiment):
                yield from experiment.run(self.cfg, task.cell, task.seed, resume=resume)  # type: ignore[call-arg]
            else:
                yield from experiment.run(self.cfg, task.cell, task.seed)


def takes_resume(experiment: Experiment) -> bool:
    """Return whether the experiment can go on from a checkpoint."""
    return "resume" in inspect.signature(experiment.run).parameters


def tasks_of(experiment: Experiment, cfg: ExperimentConfig) -> list[Task]:
    """Return cells x seeds in their order: all seeds of a cell, then the next cell.

    Raises UsageError if the experiment has no cells, or more than a run folder is made for.
    """
    cells = list(experiment.cells(cfg))
    if not cells:
        raise UsageError("the study has no cells: give it at least one setting to run.")
    if len(cells) * cfg.seeds > MOST_TASKS:
        raise UsageError(f"{len(cells)} cells with seeds={cfg.seeds} are more than {MOST_TASKS} trainings; take fewer.")
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    if len(cells) == 1:
        return [Task(0, cells[0], seed, f"seed {seed}") for seed in seeds]
    return [
        Task(index, cell, seed, f"{name}, seed {seed}" if cfg.seeds > 1 else name)
        for index, (cell, name) in enumerate(zip(cells, names_of(cells), strict=True))
        for seed in seeds
    ]
