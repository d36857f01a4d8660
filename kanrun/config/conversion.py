"""Conversion of plain values to typed settings.

`typed` is used for all plain values: from the command line, a file, an entry of a suite, a stored
run or `kanrun.fit`. It raises an error for the first unknown key, wrong type or invalid value, with
the key, value, rule and purpose. Conditions on several settings are checked by the dataclass's
method `conflicts(at)`, which yields one sentence per conflict; `at` is the path of the dataclass,
such as `model.`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from itertools import chain
from typing import Annotated, Any, TypeVar, get_args, get_origin

from kanrun.config.registry import EXPERIMENTS, GROUPS, Plain, foreign_setting
from kanrun.config.rules import FILE, MISSING, Setting, settings_of, shown
from kanrun.errors import UsageError, did_you_mean, no_file

S = TypeVar("S")


def typed_config(command: str, plain: Plain) -> Any:
    """Return the typed and checked configuration of a command.

    Raises UsageError if a key, type or value is invalid or an interpolation cannot be resolved, and
    MissingSettings if a setting without a default value is not given.
    """
    return _complete(EXPERIMENTS.find(command).settings, resolve_interpolations(dict(plain)))


def with_differences(settings: S, differences: Plain, at: str = "") -> S:
    """Return a copy of the dataclass `settings` with some values changed, typed and checked.

    `differences` are nested plain values; a group that has a `kind` in them is replaced completely.
    Raises UsageError if the result is invalid.
    """
    plain = asdict(settings)  # type: ignore[call-overload]
    for key, value in differences.items():
        replaced = not at and key in GROUPS and isinstance(value, Mapping) and "kind" in value
        plain[key] = value if replaced else merged(plain.get(key), value)
    return _complete(type(settings), resolve_interpolations(plain), at)


def _complete(settings: type[S], plain: Plain, at: str = "") -> S:
    """Convert plain values to `settings`. Raises MissingSettings if a required value is missing."""
    made = typed(settings, plain, at)
    values = _values_of(made, at)
    missing = sorted((path, setting.about) for path, setting, value in values if value == MISSING)
    if missing:
        raise MissingSettings([path for path, _ in missing], f" ({missing[0][1]})")
    return made


def typed(settings: type[S], values: Plain, at: str = "") -> S:
    """Convert plain values to the dataclass `settings`, whose path is `at`, and check them.

    Raises UsageError for an unknown key, a wrong type, an invalid value, or a conflict.
    """
    if not isinstance(values, Mapping):
        path = at.removesuffix(".")
        raise UsageError(
            f"{path}={shown(values)} cannot be set, because {path} is a group of settings. "
            f"Set them one by one, as {at}KEY=VALUE."
        )
    known, made = settings_of(settings), {}  # type: ignore[arg-type]  # a class is hashable
    for name, value in values.items():
        if name not in known:
            raise unknown_key(str(name), at, sorted(known), str(values.get("kind", "")))
        made[name] = _typed_value(known[name], at + name, value)
    result = settings(**made)
    for sentence in getattr(result, "conflicts", lambda _: ())(at):
        raise UsageError(sentence)
    return result


def check(settings: Any, at: str = "") -> None:
    """Raise UsageError for the first setting that `typed` would reject."""
    typed(type(settings), vars(settings), at)


def check_files(settings: Any) -> None:
    """Raise UsageError for the first setting that names a missing file."""
    for _, setting, value in _values_of(settings):
        if FILE in setting.marks and value and not os.path.exists(os.path.expanduser(value)):
            raise UsageError(no_file(value))


def check_choices(settings: Any) -> None:
    """Raise UsageError if the target or equation is invalid, as far as is known without torch."""
    for group in ("target", "equation"):
        chosen: Any = getattr(settings, group, None)
        if chosen is not None:
            chosen.check()


def _values_of(made: Any, at: str = "") -> Iterator[tuple[str, Setting, Any]]:
    """Yield the path, declaration and value of each setting, including nested dataclasses."""
    for name, setting in settings_of(type(made)).items():  # type: ignore[arg-type]
        value = getattr(made, name)
        if is_dataclass(value):
            yield from _values_of(value, f"{at}{name}.")
        else:
            yield at + name, setting, value


def holder_of(plain: Any, key: str, make: bool = False) -> tuple[Any, Any]:
    """Return the mapping or list that contains a dotted key, and the key or index in it.

    With `make`, missing mappings on the way are created. Raises LookupError, ValueError or
    TypeError if `plain` does not contain the key.
    """
    *parents, last = key.split(".")
    for part in parents:
        if make and isinstance(plain, dict) and not isinstance(plain.get(part), dict | list):
            plain[part] = {}
        plain = plain[int(part) if isinstance(plain, list) else part]
    return plain, int(last) if isinstance(plain, list) else last


def with_values(plain: Plain, values: Plain) -> dict[str, Any]:
    """Return a copy of a composed configuration with the swept values of a point, by dotted key.

    Choices of groups (`target`, `study`) are skipped, because the configuration was composed with
    them.
    """
    changed = deepcopy(dict(plain))
    for key, value in values.items():
        with contextlib.suppress(LookupError, ValueError, TypeError):
            holder, last = holder_of(changed, key)
            if not isinstance(holder[last], Mapping) or isinstance(value, Mapping):
                holder[last] = deepcopy(value)
    return changed


def resolve_interpolations(plain: dict[str, Any]) -> dict[str, Any]:
    """Return plain values with interpolations `${...}` resolved. Raises UsageError if one fails."""
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


class MissingSettings(UsageError):
    """Error: settings without a default value are not given. `paths` lists them."""

    def __init__(self, paths: list[str], about: str) -> None:
        super().__init__(f"{' and '.join(paths)} must be given, as {paths[0]}=VALUE{about}.")
        self.paths = paths


def unknown_key(name: str, at: str, known: Sequence[str], kind: str = "") -> UsageError:
    """Return the error for an unknown key, with a suggestion and the keys of the same group."""
    group = at.removesuffix(".")
    if kind in GROUPS.get(group, ()) and (sentence := foreign_setting(at + name, {group: kind})):
        return UsageError(sentence)
    keys = [other for other in known if other != "kind"]
    others = (settings_of(other) for other in GROUPS.get(group, {}).values())
    near = dict.fromkeys(f"{at}{other}" for other in (*keys, *chain(*others)))
    offer = did_you_mean(f"{at}{name}", near, max_names=1)
    where = f"keys of {group}" if group else "keys"
    return UsageError(f"there is no key {at}{name}{offer} ({where}: {', '.join(keys)}).")


def _typed_value(setting: Setting, path: str, value: Any) -> Any:
    """Return the typed and checked value of a setting at its path. Raises UsageError."""
    if isinstance(value, str) and value == MISSING:
        return value
    inner = get_args(setting.type)[0] if get_origin(setting.type) is Annotated else setting.type
    if is_dataclass(value):
        inner = type(value)
        value = vars(value)
    elif inner is Any and path in GROUPS and value is not None:
        kinds = GROUPS[path]
        if not isinstance(value, Mapping) or value.get("kind") is None:
            raise UsageError(
                f"{path}={shown(value)} has no valid kind; it must be one of {', '.join(kinds)}."
            )
        inner = kinds.find(value["kind"], f"{path}.kind")
    if is_dataclass(inner):
        return typed(inner, value, f"{path}.")  # type: ignore[arg-type]
    # The `kind` of a group is typed as the group's value, as in model=kan.
    return setting.value(path.removesuffix(".kind"), value)


def merged(old: Any, new: Any) -> Any:
    """Return a copy of `new`, merged into `old` recursively if both are mappings."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return deepcopy(new)
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
