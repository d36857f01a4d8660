"""Settings as dataclasses: their declaration, registries, conversion and documentation.

Each kind of a group (targets, models, solvers) has a settings dataclass of its own. `registry`
explains how a kind is declared, `rules` how a setting is declared, and `conversion` converts plain
values to typed settings. No module of this package imports torch. `keys_of` lists every key with
its rule, default and purpose, for `kanrun keys`, the documentation, TAB completion and the command
line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import kanrun.conf
from kanrun.config.conversion import check
from kanrun.config.experiments import (
    ExecutorConfig,
    ExperimentConfig,
    SamplingConfig,
    TrainingConfig,
)
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
    FILE,
    FREE_TEXT,
    MISSING,
    Count,
    Natural,
    NonNegative,
    Positive,
    Setting,
    copied,
    defaults_of,
    settings_of,
    shown,
)

CONF = Path(kanrun.conf.__path__[0])
"""Folder of Hydra's files."""


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
