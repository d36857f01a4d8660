"""The Experiment protocol and its expansion into tasks (cell x seed)."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from kanrun.config import ExperimentConfig
from kanrun.config.plugins import add_plugins, typed_plugins
from kanrun.errors import KanrunError, UsageError
from kanrun.runs.manifest import Claim
from kanrun.runs.records import Checkpoint, Record
from kanrun.study.resources import using_threads

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Cell = Mapping[str, Any]
Prepared = dict[tuple[int, int], Any]  # by number of the cell, and seed
Tables = Mapping[str, "pandas.DataFrame"]  # those of a run, by name
#: Name of each figure, and a function that draws it.
Figures = Iterator[tuple[str, "Callable[[], Figure]"]]
Claims = list[Claim]
MOST_TASKS = 100_000

#: Keys whose value says enough.
_PLAIN = ("part", "model", "learner", "target", "case", "schedule", "name", "activation")
#: Keys of a target or schedule that name it.
_NAMES = ("name", "formula", "id", "path")
_LONGEST = 40


class Experiment(Protocol):
    """A module (or object) with these four functions.

    It may have further ones:
    - `check(cfg)` refuses settings before anything runs;
    - `prepare(cfg, cell, seed)` builds all that `run` needs to train, or raises UsageError. `run` then takes what it
      returned as the argument `prepared`, None where nothing was prepared: before a study runs, the first seed of each
      cell is prepared, and what the first task needs is kept for it;
    - `using_threads(n)` is a context manager that limits the threads of one training; without it, torch's are set.

    `run` may take a fourth argument `resume: Checkpoint | None`: the checkpoint that an earlier attempt yielded
    last under the name `resume`. It must then yield the records that come after that checkpoint, and no others.
    """

    def cells(self, cfg: Any, /) -> Sequence[Cell]: ...

    def run(self, cfg: Any, cell: Any, seed: int, /) -> Iterable[Record]: ...

    def figures(self, tables: Tables, /) -> Iterable[tuple[str, Callable[[], Figure]]]: ...

    def claims(self, tables: Tables, /) -> Sequence[Claim]: ...


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
        """Return `error` as a failure: the message alone of an error of kanrun, the type in front of others."""
        text, name = " ".join(str(error).split()), type(error).__name__
        reason = (
            text if isinstance(error, KanrunError) and text else f"{name}: {text}" if text else name
        )
        return cls(reason, "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class TaskRunner:
    """All that a worker needs to run tasks: the experiment, its configuration, and the threads of one training.

    Pickled, an experiment that is a module becomes its name, and is imported where it is unpickled.
    """

    experiment: Experiment
    cfg: ExperimentConfig
    threads: int
    prepared: Prepared = field(default_factory=dict)  # stays in this process

    def run(self, task: Task, resume: Checkpoint | None) -> Generator[Record, None, None]:
        """Yield the records of `task` as the experiment yields them."""
        limit = getattr(self.experiment, "using_threads", using_threads)
        further: dict[str, Any] = {}
        if resume is not None and takes_resume(self.experiment):
            further["resume"] = resume
        if task.pair in self.prepared:
            further["prepared"] = self.prepared.pop(task.pair)
        with limit(self.threads):
            yield from self.experiment.run(self.cfg, task.cell, task.seed, **further)

    def __reduce__(self) -> tuple[Any, ...]:
        place = (
            self.experiment.__name__ if isinstance(self.experiment, ModuleType) else self.experiment
        )
        return _runner, (typed_plugins(), place, self.cfg, self.threads)


def _runner(
    plugins: tuple[str, ...], place: Any, cfg: ExperimentConfig, threads: int
) -> TaskRunner:
    add_plugins(plugins)
    experiment: Any = importlib.import_module(place) if isinstance(place, str) else place
    return TaskRunner(experiment, cfg, threads)


def prepare(experiment: Experiment, cfg: ExperimentConfig, tasks: Sequence[Task]) -> Prepared:
    """Prepare the first seed of each cell, where the experiment prepares, and return what the first task needs.

    Raises UsageError for settings that break a rule.
    """
    own = getattr(experiment, "prepare", None)
    if own is None:
        return {}
    first, *others = [task for task in tasks if task.seed == cfg.seed]
    prepared = {first.pair: own(cfg, first.cell, first.seed)}
    for task in others:
        own(cfg, task.cell, task.seed)
    return prepared


def takes_resume(experiment: Experiment) -> bool:
    """Return whether the experiment can resume from a checkpoint."""
    return "resume" in inspect.signature(experiment.run).parameters


def tasks_of(experiment: Experiment, cfg: ExperimentConfig) -> list[Task]:
    """Return cells x seeds in their order: all seeds of a cell, then the next cell.

    Raises UsageError if the experiment has no cells, or more than a run folder is made for.
    """
    cells = list(experiment.cells(cfg))
    if not cells:
        raise UsageError("the study has no cells: give it at least one setting to run.")
    if len(cells) * cfg.n_seeds > MOST_TASKS:
        raise UsageError(
            f"{len(cells)} cells with n_seeds={cfg.n_seeds} are more than {MOST_TASKS} trainings; take fewer."
        )
    seeds = range(cfg.seed, cfg.seed + cfg.n_seeds)
    if len(cells) == 1:
        return [Task(0, cells[0], seed, f"seed {seed}") for seed in seeds]
    return [
        Task(index, cell, seed, f"{name}, seed {seed}" if cfg.n_seeds > 1 else name)
        for index, (cell, name) in enumerate(zip(cells, names_of(cells), strict=True))
        for seed in seeds
    ]


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Return a name for each cell from the settings in which cells differ; `cell N` where that is not enough.

    Targets are called by name or formula, schedules by their grids, other settings by key and value.
    """
    described = [_described(cell) for cell in cells]
    keys = list(dict.fromkeys(key for words in described for key in words))
    telling = [key for key in keys if len({words.get(key) for words in described}) > 1]
    names = [", ".join(words[key] for key in telling if words.get(key)) for words in described]
    often = Counter(names)
    return [
        name if name and often[name] == 1 else f"{name}{', ' if name else ''}cell {index}"
        for index, name in enumerate(names)
    ]


def _described(cell: Cell) -> dict[str, str]:
    """Return words for each setting of a cell; settings of a group are told apart by their own key."""
    words: dict[str, str] = {}
    for key, value in cell.items():
        if key in ("bound", "bounds"):  # claims on a cell do not name it
            continue
        called = _called(value)
        if called is not None:
            words[key] = called if key in _PLAIN else f"{key} {called}"
        elif isinstance(value, Mapping):
            words |= {f"{key}.{inner}": word for inner, word in _described(value).items()}
    return words


def _called(value: Any) -> str | None:
    """Return a value in a word; None for a group without a name, whose settings are told one by one."""
    if isinstance(value, Mapping):
        if "target" in value:  # a case is named by its target
            return _called(value["target"])
        if {"kind", "first", "last"} <= value.keys():
            nested = "" if value.get("nested", True) else ", not nested"
            return f"{value['kind']} from {value['first']} to {value['last']}{nested}"
        if "intervals" in value:
            kind = value.get("kind", "list")
            return ("" if kind == "list" else f"{kind} ") + f"grids {_called(value['intervals'])}"
        return next((_short(str(value[key])) for key in _NAMES if value.get(key)), None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _short(f"[{','.join(str(_called(item)) for item in value)}]")
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
