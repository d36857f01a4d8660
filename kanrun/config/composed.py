"""Typed configurations: plain values become the dataclasses of a command, and are checked once.

This is the one place where a value gets its type. Values come from the command line, from files,
from the cells of a suite, from stored runs and from `kanrun.fit`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kanrun.config.experiments import ExperimentConfig
from kanrun.config.keys import shown
from kanrun.config.registry import EXPERIMENTS, GROUPS, owner_hint
from kanrun.config.rules import MISSING, check, rule_of
from kanrun.errors import UsageError, did_you_mean

S = TypeVar("S")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class ComposedConfig:
    """A composed configuration of a command, on which values may be set."""

    def __init__(self, command: str, plain: Mapping[str, Any]) -> None:
        self._settings: type[ExperimentConfig] = EXPERIMENTS.find(command).settings
        self._plain = plain

    def with_values(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """Return the typed and checked configuration with these values by key ("model.degree").

        Top-level keys that the command does not have may serve interpolations, and are omitted.
        Raises UsageError.
        """
        plain = deepcopy(dict(self._plain))
        for key, value in values.items():
            set_value(plain, key, value)
        plain = resolve_interpolations(plain)
        known = {one.name for one in fields(self._settings)}
        plain = {key: value for key, value in plain.items() if key in known}
        made: ExperimentConfig = _dataclass(self._settings, plain, "")
        if missing := sorted(_missing(plain)):
            raise MissingSettings(missing)
        check(made)
        return made


def with_differences(settings: S, differences: Mapping[str, Any], at: str = "") -> S:
    """Return a copy of the dataclass `settings` with nested differences, typed and checked.

    A group that names a `kind` is replaced as a whole. Raises UsageError.
    """
    plain = asdict(settings)  # type: ignore[call-overload]
    for key, value in differences.items():
        replaced = not at and key in GROUPS and isinstance(value, Mapping) and "kind" in value
        plain[key] = value if replaced else _merged(plain.get(key), value)
    if missing := _missing(plain):
        raise UsageError(f"{at}{missing[0]} must be given.")
    return typed(type(settings), resolve_interpolations(plain), at)


def typed(settings: type[S], values: Mapping[str, Any], at: str = "") -> S:
    """Return the dataclass `settings` with these values, typed and checked; `at` is its path.

    Raises UsageError for an unknown key, a wrong type, or a value that breaks its rule.
    """
    made: S = _dataclass(settings, values, at)
    check(made, at)
    return made


def set_value(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in nested mappings and lists; a mapping is merged."""
    *parents, last = key.split(".")
    node: Any = plain
    for part in parents:
        index: Any = int(part) if isinstance(node, list) else part
        if isinstance(node, dict) and not isinstance(node.get(part), dict | list):
            node[part] = {}
        node = node[index]
    index = int(last) if isinstance(node, list) else last
    old = node.get(last) if isinstance(node, dict) else None
    node[index] = _merged(old, value)


def resolve_interpolations(plain: dict[str, Any]) -> dict[str, Any]:
    """Return plain values with `${...}` resolved. Raises UsageError for what does not resolve."""
    if "${" not in str(plain):
        return plain
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    except OmegaConfBaseException as error:
        reason = (error.msg or str(error)).partition("\n")[0].rstrip(".")
        raise UsageError(f"{error.full_key}: {reason}.") from error
    return dict(resolved)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return deepcopy(new)
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _missing(value: Any, path: str = "") -> list[str]:
    if isinstance(value, Mapping):
        return [
            found
            for key, inner in value.items()
            for found in _missing(inner, f"{path}.{key}" if path else str(key))
        ]
    return [path] if isinstance(value, str) and value == MISSING else []


class MissingSettings(UsageError):
    """Settings without a default that nothing sets, by their paths."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(f"{' and '.join(paths)} must be given, as {paths[0]}=VALUE.")
        self.paths = paths


class _Mismatch(Exception):
    """A value that has not the declared type: the value, and what was expected."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(expected)
        self.value, self.expected = value, expected


@functools.cache
def _hints(settings: type) -> dict[str, Any]:
    return get_type_hints(settings)


def _dataclass(settings: Any, values: Any, at: str) -> Any:
    if not isinstance(values, Mapping):
        path = at.removesuffix(".")
        raise UsageError(
            f"{path}={shown(values)} is not possible, since {path} has keys of its own. "
            f"Set those, as {at}KEY=VALUE."
        )
    hints, known = _hints(settings), {one.name: one for one in fields(settings)}
    made = {}
    for name, value in values.items():
        if name not in known:
            raise unknown_key(str(name), at, sorted(known), str(values.get("kind", "")))
        made[name] = _field(known[name], hints[name], value, at)
    return settings(**made)


def _field(one: Any, hint: Any, value: Any, at: str) -> Any:
    path = at + one.name
    if hint is Any and one.name in GROUPS and not at and value is not None:
        return _choice(one.name, value)
    if is_dataclass(hint):
        return _dataclass(hint, value, f"{path}.")
    try:
        return _value(hint, value)
    except _Mismatch as error:
        rule, inner = rule_of(one), error.value is not value
        wrong = f"has {error.value!r}, which is" if inner else "is"
        about = f" ({rule.about})" if rule is not None else ""
        listed = not inner and error.expected == "a list" and not isinstance(value, Mapping)
        remedy = f" Write it in brackets: {path}=[{shown(value)}]." if listed else ""
        raise UsageError(
            f"{path}={shown(value)} {wrong} not {error.expected}{about}.{remedy}"
        ) from None


def _choice(group: str, value: Any) -> Any:
    kinds = GROUPS[group]
    if is_dataclass(value) and not isinstance(value, type):
        return value
    if not isinstance(value, Mapping) or value.get("kind") is None:
        raise UsageError(
            f"{group}={shown(value)} is not a choice of the group, which has a kind: "
            f"one of {', '.join(kinds)}."
        )
    return _dataclass(kinds.find(value["kind"], f"{group}.kind").settings, value, f"{group}.")


def _value(hint: Any, value: Any) -> Any:
    """Return `value` with the type `hint`; raise _Mismatch."""
    if isinstance(value, str) and value == MISSING:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        hint = next(one for one in arguments if one is not type(None))
        origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _dataclass(hint, value, "")
    if origin is list:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _Mismatch(value, "a list")
        return [_value(arguments[0], entry) for entry in value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _Mismatch(value, "a mapping, such as {name: value}")
        return {str(key): _value(arguments[1], entry) for key, entry in value.items()}
    return _scalar(hint, value) if hint in _WORDS else value


def _scalar(kind: Any, value: Any) -> Any:
    if kind is str and isinstance(value, str | int | float):
        return shown(value) if isinstance(value, bool) else str(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, bool) and type(value) is kind:
        return value
    raise _Mismatch(value, _WORDS[kind])


def unknown_key(name: str, at: str, known: Sequence[str], kind: str = "") -> UsageError:
    """Return the error for a key that is not there, with the keys next to it and what to write."""
    group = at.removesuffix(".")
    if hint := owner_hint(group, name, kind):
        return UsageError(f"{at}{name} is not a key of {group}={kind}: {hint}.")
    keys = [one for one in known if one != "kind"]
    offer = did_you_mean(f"{at}{name}", [f"{at}{one}" for one in keys], max_names=1)
    where = f"keys of {group}" if group else "keys"
    return UsageError(f"there is no key {at}{name}{offer} ({where}: {', '.join(keys)}).")
