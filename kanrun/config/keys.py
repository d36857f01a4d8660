"""Configuration keys with type, default, allowed values and purpose.

Used by `kanrun keys`, the page of keys in the documentation, TAB completion and the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import kanrun.conf
from kanrun.config.registry import EXPERIMENTS, GROUPS, ExperimentKind
from kanrun.config.rules import MISSING, Rule, rule_of


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        path: The key as typed, such as "model.degree".
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


def free_text_types(command: str) -> dict[str, str]:
    """Return the settings of a command that take free text, with their types in words."""
    return {key.path: key.type for key in keys_of(command) if key.free_text}


def keys_of(command: str | None = None) -> list[Key]:
    """Return the keys of a command (None: of all commands) in the order of their declaration."""
    experiments = [EXPERIMENTS.find(command)] if command else list(EXPERIMENTS.values())
    found: dict[tuple[str, ...], Key] = {}
    for experiment in experiments:
        for key in _of_experiment(experiment):
            mark = (key.path, key.default, key.about, *(key.where if "=" in key.where[0] else ()))
            there = found.get(mark)
            shared = there is not None and "=" not in key.where[0]
            found[mark] = (
                replace(key, where=(*there.where, *key.where)) if there and shared else there or key
            )
    order = {
        path: number
        for number, path in enumerate(dict.fromkeys(key.path for key in found.values()))
    }
    return sorted(found.values(), key=lambda key: order[key.path])


def _of_experiment(experiment: ExperimentKind) -> Iterator[Key]:
    for one in fields(experiment.settings):
        if one.name in GROUPS and one.type == "Any":
            kinds = [
                kind for name, kind in GROUPS[one.name].items() if not kind.name.startswith("_")
            ]
            names = tuple(choices_of(one.name, Path(kanrun.conf.__path__[0], one.name)))
            rule = rule_of(one)
            yield Key(
                one.name, "group", "", "", rule.about if rule else "", (experiment.name,), names
            )
            for kind in kinds:
                yield from _of_settings(kind.settings, f"{one.name}.", f"{one.name}={kind.name}")
        else:
            settings = get_type_hints(experiment.settings)[one.name]
            if (
                is_dataclass(settings) and one.default == MISSING
            ):  # a group with one kind of settings
                yield from _of_settings(settings, f"{one.name}.", experiment.name)
            else:
                yield from _of_field(one, "", experiment.name)


def choices_of(group: str, place: Path) -> list[str]:
    """Return the choices of a group: the names of its files in `place`, and plug-ins."""
    plugins = (name for name, kind in GROUPS.get(group, {}).items() if kind.is_plugin)
    return sorted([*(path.stem for path in place.glob("*.yaml")), *plugins])


def groups_of(command: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the groups of a command with their choices, in the order of its configuration."""
    experiment, folder = EXPERIMENTS[command], Path(kanrun.conf.__path__[0])
    for group in default_choices(command):
        place = folder / group / experiment.file if group == "study" else folder / group
        if place.is_dir():
            yield group, choices_of(group, place)


def default_choices(command: str) -> dict[str, str]:
    """Return the choices of a command's primary configuration by group, without loading Hydra."""
    experiment = EXPERIMENTS[command]
    if experiment.groups:
        return dict(experiment.groups)
    primary = Path(kanrun.conf.__path__[0], f"{experiment.file}.yaml")
    lines = primary.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"  - (?:optional )?/?(\w+): (\w+)", line) for line in lines)
    return {one[1]: one[2] for one in found if one}


def _of_settings(settings: Any, at: str, where: str) -> Iterator[Key]:
    for one in fields(settings):
        if one.name != "kind":
            yield from _of_field(one, at, where)


def _of_field(one: Field[Any], at: str, where: str) -> Iterator[Key]:
    default = one.default_factory() if one.default_factory is not NO_DEFAULT else one.default
    if is_dataclass(default):
        for inner in fields(default):
            if inner.name == "kind" and rule_of(inner) is None:
                continue
            path = (
                f"{at}{one.name}.".removesuffix(".") if inner.name == "kind" else f"{at}{one.name}."
            )
            yield from _of_field(inner, path, where)
        return
    rule = rule_of(one)
    path = at if one.name == "kind" else f"{at}{one.name}"
    yield Key(
        path,
        _type(one),
        shown(default),
        _allowed(rule),
        rule.about if rule else "",
        (where,),
        listed_values(one),
        rule is not None and (rule.free_text or rule.file),
    )


def _type(one: Field[Any]) -> str:
    text = (
        re.sub(r"\bdict\b", "mapping", str(one.type))
        .replace("float", "number")
        .replace("str", "text")
    )
    text = (
        re.sub(r"\bint\b", "whole number", text)
        .replace("bool", "true or false")
        .replace(" | None", " or null")
    )
    return re.sub(r"list\[(.+)\]", r"list of \1", text).replace("Any", "any")


def shown(value: Any) -> str:
    """Return a value as it would be typed."""
    if value is NO_DEFAULT or value == MISSING:
        return "must be given"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(entry)}' for key, entry in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed_values(one: Field[Any]) -> tuple[str, ...]:
    """Return the values of a field if they can be listed: choices and words, true, false, null."""
    rule = rule_of(one)
    listed: Sequence[str] = (*rule.choices, *rule.words) if rule else ()
    null = ("null",) if "None" in str(one.type) and (listed or "bool" in str(one.type)) else ()
    return (*listed, *(("true", "false") if "bool" in str(one.type) else ()), *null)


def _allowed(rule: Rule | None) -> str:
    if rule is None:
        return ""
    if rule.choices:
        return ", ".join((*rule.choices, *rule.words))
    parts = [rule.phrase.strip().removesuffix(",")] if rule.phrase else []
    flags = {"increasing": rule.increasing, "each once": rule.distinct, "a file": rule.file}
    parts += [words for words, holds in flags.items() if holds]
    parts += [f"{rule.length} entries"] if rule.length else []
    return "; ".join(parts)
