"""Settings as dataclasses, the registries of what they configure, their one check and their keys.

A group with several kinds (targets, models, solvers) has one dataclass for each kind. `registry`
shows how a kind is declared, and `rules` how its settings are. Nothing here imports
torch. `keys_of` says of each key its type, default, allowed values and purpose: for `kanrun keys`,
the page of keys in the documentation, TAB completion and the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import kanrun.conf
from kanrun.config.comparisons import (
    BenchConfig,
    CompareMLPConfig,
    ContinualConfig,
    ExtendGridConfig,
)
from kanrun.config.experiments import (
    CurvesConfig,
    ExecutorConfig,
    ExperimentConfig,
    FitConfig,
    ImportConfig,
    InterpretConfig,
    SolveConfig,
)
from kanrun.config.models import (
    AdamSolver,
    AutoConfig,
    AutoSolver,
    BezierConfig,
    BSplineConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
    MLPConfig,
    PolynomialConfig,
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
    model,
    solver,
    target,
)
from kanrun.config.rules import MISSING, check, default_of, rule_of, setting, shown
from kanrun.config.targets import (
    AnsatzConfig,
    BundledTarget,
    EquationConfig,
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    NistTarget,
    PointsTarget,
    SamplingConfig,
    SpecialTarget,
    TableTarget,
)

CONF = Path(kanrun.conf.__path__[0])
"""Folder of Hydra's files."""

_WORDS = {
    **{"int": "whole number", "float": "number", "str": "text", "bool": "true or false"},
    **{"Any": "any", "dict": "mapping", "|": "or", "None": "null"},
}


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        path: The key as typed, such as "model.degree".
        type: Its type in words.
        default: Its default value as typed.
        allowed: Its rule in words.
        about: Its purpose.
        where: Commands that have it, or the choice of a group that has it, such as "model=kan".
        choices: Values that TAB offers, if they can be listed.
        free_text: Whether its text is taken as typed (see `kanrun.launch.arguments`).
    """

    path: str
    type: str
    default: str
    allowed: str
    about: str
    where: tuple[str, ...]
    choices: tuple[str, ...] = ()
    free_text: bool = False


def keys_of(command: str | None = None) -> list[Key]:
    """Return the keys of a command (None: of all commands) in the order of their declaration."""
    kinds = [EXPERIMENTS.find(command)] if command else list(EXPERIMENTS.values())
    found: dict[tuple[str, ...], Key] = {}
    for kind in kinds:
        for key in _keys(kind.settings, "", kind.name):
            # Commands that have the same key share a row; choices of a group do not.
            mark = (key.path, key.default, key.about, *(one for one in key.where if "=" in one))
            where = (*found[mark].where, *key.where) if mark in found else key.where
            found[mark] = replace(key, where=tuple(dict.fromkeys(where)))
    order = list(dict.fromkeys(key.path for key in found.values()))
    return sorted(found.values(), key=lambda key: order.index(key.path))


def _keys(settings: Any, at: str, where: str) -> Iterator[Key]:
    """Yield the keys of a dataclass of settings at a path, such as `model.`."""
    for one in fields(settings):
        rule, default = rule_of(one), default_of(one)
        if one.name in GROUPS and not at:
            names = tuple(choices_of(one.name))
            yield Key(one.name, "group", "", "", rule.about, (where,), names)
            for kind in GROUPS[one.name].values():
                yield from _keys(kind.settings, f"{one.name}.", f"{one.name}={kind.name}")
        elif is_dataclass(default):
            yield from _keys(default, f"{at}{one.name}.", where)
        elif one.name != "kind" or rule.about:
            path = at.removesuffix(".") if one.name == "kind" else f"{at}{one.name}"
            kind = re.sub(r"\w+|\|", lambda found: _WORDS.get(found[0], found[0]), str(one.type))
            kind = re.sub(r"list\[(.+)\]", r"list of \1", kind)
            flags = {"increasing": rule.increasing, "each once": rule.distinct, "a file": rule.file}
            parts = [rule.phrase, *(words for words, holds in flags.items() if holds)]
            parts += [f"{rule.length} entries"] if rule.length else []
            listed = (*rule.choices, *rule.words)
            allowed = ", ".join(listed) if rule.choices else "; ".join(filter(None, parts))
            listed += ("true", "false") if "bool" in str(one.type) else ()
            listed += ("null",) if listed and "None" in str(one.type) else ()
            free = rule.free_text or rule.file
            yield Key(path, kind, shown(default), allowed, rule.about, (where,), listed, free)


def defaults_of(settings: Any) -> dict[str, Any]:
    """Return the default values of a dataclass of settings as plain data."""
    return asdict(settings())


def stored_choices(group: str) -> list[str]:
    """Return the choices of a group that no file has: plug-ins, and all kinds without a folder."""
    without_files = not (CONF / group).is_dir()
    kinds = GROUPS.get(group, {}).items()
    return sorted(name for name, kind in kinds if without_files or kind.is_plugin)


def choices_of(group: str) -> list[str]:
    """Return the choices of a group that kanrun and plug-ins have, such as "study/fit"."""
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
