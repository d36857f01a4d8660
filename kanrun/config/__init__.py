"""Settings as dataclasses: their declaration, registries, conversion and documentation.

Each kind of a group (targets, models, solvers) has a settings dataclass of its own. `registry`
explains how a kind is declared, `rules` how a setting is declared and how plain values become
typed settings. Here are the settings that experiments share, and `keys_of`, which lists
every key with its rule, default and purpose, for `kanrun keys`, the documentation, TAB completion
and the command line. No module of this package imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

import kanrun.conf
from kanrun.config.registry import (
    CANDIDATES,
    EXPERIMENTS,
    GROUPS,
    MODELS,
    SOLVERS,
    TARGETS,
    candidate,
    experiment,
    is_plugin,
    model,
    solver,
    target,
)
from kanrun.config.rules import (
    DISTINCT,
    FILE,
    FREE_TEXT,
    INCREASING,
    MISSING,
    Count,
    Natural,
    NonEmpty,
    NonNegative,
    Positive,
    Setting,
    Words,
    check,
    copied,
    defaults_of,
    settings_of,
    shown,
)

CONF = Path(kanrun.conf.__path__[0])
"""Folder of Hydra's files."""
Precision = Literal["float64", "float32"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
MAX_SEED = 2**32 - 1
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


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
    n_jobs: Annotated[
        Count | None, "processes that train at the same time; 1 is this one, null is one per core"
    ] = 1
    scheduler: Annotated[
        str | None, "address of a Dask cluster that trains, such as tcp://10.0.0.1:8786"
    ] = None
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
        """Yield errors for invalid seeds, devices or figures, and for what a cluster cannot do."""
        kinds = (kind for kind in EXPERIMENTS.values() if kind.settings is type(self))
        known = ", ".join(next((kind.figures for kind in kinds), ()))
        for name in () if isinstance(self.figures, str) else self.figures:
            if known and not any(fnmatch(name, figure) for figure in known.split(", ")):
                yield f"{at}figures=[{name}] names no figure of this command; it draws {known}."
        if self.scheduler is not None:
            if not self.scheduler.strip():
                yield f"{at}scheduler must be an address, such as tcp://10.0.0.1:8786."
            if self.n_jobs not in (1, None):
                yield (
                    f"{at}n_jobs={self.n_jobs} is for this machine, and scheduler="
                    f"{self.scheduler} for a cluster; give one of them."
                )
            if self.max_cpu_seconds is not None:
                yield (
                    f"max_cpu_seconds={self.max_cpu_seconds:g} is not for scheduler="
                    f"{self.scheduler}, whose workers are not this machine's."
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


@dataclass(frozen=True)
class Key:
    """Documentation of one key of the configuration.

    Attributes:
        path: The key as typed, such as "model.degree".
        rule: Allowed values in words; "group" for a group.
        default: Default value as typed.
        about: Purpose of the key.
        where: Commands that have the key, or the choices of a group that have it ("model=kan").
        choices: Values that TAB completion offers, if they can be listed.
        free_text: How free text is parsed: "text", "list" or "structure"; "" if Hydra parses the
            value.
    """

    path: str
    rule: str
    default: str
    about: str
    where: tuple[str, ...]
    choices: tuple[str, ...] = ()
    free_text: str = ""


def keys_of(command: str | None = None) -> list[Key]:
    """Return the keys of a command (None: of all commands) in the order of declaration."""
    kinds = [EXPERIMENTS.find(command)] if command else list(EXPERIMENTS.values())
    keys: dict[tuple[str, ...], Key] = {}
    for kind in kinds:
        for key in _keys(kind.settings, "", kind.name):
            # Commands that have the same key share a row; choices of a group do not.
            mark = (
                key.path,
                key.default,
                key.about,
                *(place for place in key.where if "=" in place),
            )
            where = (*keys[mark].where, *key.where) if mark in keys else key.where
            keys[mark] = replace(key, where=tuple(dict.fromkeys(where)))
    order = list(dict.fromkeys(key.path for key in keys.values()))
    return sorted(keys.values(), key=lambda key: order.index(key.path))


def _keys(settings: Any, at: str, where: str) -> Iterator[Key]:
    """Yield the keys of a settings dataclass whose path is `at`, such as "model."."""
    for name, setting in settings_of(settings).items():
        if name in GROUPS and not at:
            yield Key(name, "group", "", setting.about, (where,), tuple(choices_of(name)))
            for kind in GROUPS[name].values():
                yield from _keys(kind, f"{name}.", f"{name}={kind.kind}")
        elif is_dataclass(setting.default):
            yield from _keys(type(setting.default), f"{at}{name}.", where)
        elif name != "kind" or setting.about:
            path = at.removesuffix(".") if name == "kind" else f"{at}{name}"
            listed = setting.choices + ("true", "false") * ("true or false" in setting.rule)
            listed += ("null",) * (bool(listed) and "null" in setting.rule)
            default = shown(setting.default)
            yield Key(
                path, setting.rule, default, setting.about, (where,), listed, setting.free_text
            )


def stored_choices(group: str) -> list[str]:
    """Return the choices of a group that have no configuration file.

    These are plug-ins or, if the group has no folder of files, all kinds.
    """
    without_files = not (CONF / group).is_dir()
    kinds = GROUPS.get(group, {}).items()
    return sorted(name for name, kind in kinds if without_files or is_plugin(kind))


def choices_of(group: str) -> list[str]:
    """Return all choices of a group, such as "model" or "study/fit", from kanrun and plug-ins."""
    return sorted([*(path.stem for path in (CONF / group).glob("*.yaml")), *stored_choices(group)])


def groups_of(command: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the groups of a command with their choices, in the order of its configuration."""
    for group in default_choices(command):
        place = f"study/{EXPERIMENTS[command].file}" if group == "study" else group
        if choices := choices_of(place):
            yield group, choices


def default_choices(command: str) -> dict[str, str]:
    """Return the choices of a command's primary configuration by group, without loading Hydra."""
    kind = EXPERIMENTS[command]
    if kind.groups:
        return dict(kind.groups)
    text = (CONF / f"{kind.file}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (?:optional )?/?(\w+): (\w+)", text, re.MULTILINE))
