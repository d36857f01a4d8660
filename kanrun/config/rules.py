"""Settings: their declaration, and the one conversion of plain values to them.

A dataclass of settings declares each field with `setting(default, about, ...)`. `typed` makes such
a dataclass of plain values from the command line, a file, a cell of a suite, a stored run or
`kanrun.fit`. It rejects the first unknown key, wrong type or broken rule by a sentence with key,
value, rule and purpose. Conditions on several settings are the dataclass's method `conflicts(at)`,
which yields one sentence for each conflict; `at` is the path of the dataclass, such as `model.`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from itertools import chain, pairwise
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kanrun.config.registry import EXPERIMENTS, GROUPS, Plain, foreign_setting
from kanrun.errors import UsageError, did_you_mean, no_file

#: Value that must be given, as OmegaConf spells it; `kanrun --help` is faster without OmegaConf.
MISSING: Any = "???"

S = TypeVar("S")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}


@dataclass(frozen=True)
class Rule:
    """Rule of a value; None is checked by the field's type alone.

    Bounds and `choices` hold for the value, and for every number or text in a list or mapping.
    `words` are accepted besides. `least` and `length` count the entries of a list, `width` those of
    each entry. `file` marks files that must exist when a run begins (`check_files`), `free_text`
    formulas and names of columns (`kanrun.launch.arguments`).
    """

    about: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    least: int = 0
    length: int | None = None
    width: int | None = None
    distinct: bool = False
    increasing: bool = False
    file: bool = False
    free_text: bool = False

    def broken(self, path: str, value: Any) -> str | None:
        """Return the sentence that rejects the typed `value` of the setting `path`, or None."""
        if value is None:
            return None
        if isinstance(value, list | tuple) and (reason := self._broken_list(value)):
            return f"{path}{reason} ({self.about})."
        bounds = self._bounds.items()
        for place, leaf in _leaves(value, path):
            number = isinstance(leaf, int | float)
            if number and math.isnan(leaf):
                return f"{place}=nan is not a number."
            if self.choices and leaf not in self.choices:
                reason = f"is not one of {', '.join(self.choices)}"
            elif bounds and number and math.isinf(leaf):
                reason = f"must be finite and {self.phrase}"
            elif all(number and _BOUNDS[name][1](leaf, bound) for name, bound in bounds):
                continue
            else:
                reason = f"must be {self.phrase}"
            has = f" has {leaf!r}, which" if isinstance(value, list | tuple | dict) else ""
            offer = did_you_mean(leaf, self.choices, max_names=1) or "."
            return f"{path}={value}{has} {reason} ({self.about}){offer}"
        return None

    def _broken_list(self, entries: Sequence[Any]) -> str:
        for entry in entries:
            if self.width is not None and len(entry) != self.width:
                return f" has {entry}, where a list of {self.width} is needed"
            if self.distinct and entries.count(entry) > 1:
                return f" has {entry} twice or more; name each once"
        if len(entries) < self.least:
            known = f" of {', '.join(self.choices)}" if self.choices else ""
            few = "1 entry" if self.least == 1 else f"{self.least} entries"
            return f"={entries} needs at least {few}{known}"
        if self.length not in (None, len(entries)):
            return f"={entries} must have {self.length} entries"
        if self.increasing and any(after <= before for before, after in pairwise(entries)):
            return f"={entries} must increase from entry to entry"
        return ""

    @property
    def _bounds(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _BOUNDS if getattr(self, name) is not None}

    @property
    def phrase(self) -> str:
        """Numeric rule in words, to follow "must be"; "" without one."""
        bounds = self._bounds
        phrase = " and ".join(f"{_BOUNDS[name][0]} {bound:g}" for name, bound in bounds.items())
        if bounds.keys() == {"minimum", "maximum"}:
            phrase = f"from {self.minimum:g} to {self.maximum:g}"
        return ", or ".join(filter(None, (phrase, " or ".join(self.words))))


def setting(default: Any, about: str, **rule: Any) -> Any:
    """Return a dataclass field with this default (copied for each instance) and its `Rule`."""
    metadata = {"rule": Rule(about, **rule)}
    if isinstance(default, list | dict) or is_dataclass(default):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def count_setting(default: Any, about: str, **rule: Any) -> Any:
    """Return the setting of a number of at least 1, or of several."""
    return setting(default, about, minimum=1, **rule)


def text_setting(default: Any, about: str, **rule: Any) -> Any:
    """Return the setting of text that is taken as typed: formulas, paths, names of columns."""
    return setting(default, about, free_text=True, **rule)


def rule_of(one: Field[Any]) -> Rule:
    """Return the rule of a dataclass field; one without words if `setting` did not declare it."""
    return one.metadata.get("rule", Rule(""))  # type: ignore[no-any-return]


def default_of(one: Field[Any]) -> Any:
    """Return the default value of a dataclass field."""
    return one.default if one.default_factory is NO_DEFAULT else one.default_factory()


def shown(value: Any) -> str:
    """Return a value as it would be typed."""
    if value is NO_DEFAULT or value == MISSING:
        return "must be given"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(entry)}' for key, entry in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def typed_config(command: str, plain: Plain) -> Any:
    """Return the typed and checked configuration of a command.

    `plain` has plain values; top-level keys that the command does not have may serve
    interpolations, and are omitted. Raises UsageError if a key, type or value is wrong, or an
    interpolation does not resolve, and MissingSettings if a setting without default is not given.
    """
    settings = EXPERIMENTS.find(command).settings
    resolved, own = resolve_interpolations(dict(plain)), settings.__dataclass_fields__
    return _complete(settings, {key: value for key, value in resolved.items() if key in own})


def with_differences(settings: S, differences: Plain, at: str = "") -> S:
    """Return a copy of the dataclass `settings` with nested differences, typed and checked.

    A group that names a `kind` is replaced as a whole. Raises UsageError.
    """
    plain = asdict(settings)  # type: ignore[call-overload]
    for key, value in differences.items():
        replaced = not at and key in GROUPS and isinstance(value, Mapping) and "kind" in value
        plain[key] = value if replaced else merged(plain.get(key), value)
    return _complete(type(settings), resolve_interpolations(plain), at)


def _complete(settings: type[S], plain: Plain, at: str = "") -> S:
    """Return the dataclass `settings` of plain values. Raises MissingSettings if one is missing."""
    made = typed(settings, plain, at)
    given = _settings_of(made, at)
    missing = sorted((path, rule.about) for path, rule, value in given if value == MISSING)
    if missing:
        raise MissingSettings([path for path, _ in missing], f" ({missing[0][1]})")
    return made


def typed(settings: type[S], values: Plain, at: str = "") -> S:
    """Return the dataclass `settings` with these values, typed and checked; `at` is its path.

    Raises UsageError for an unknown key, a wrong type, or a value that breaks its rule.
    """
    if not isinstance(values, Mapping):
        path = at.removesuffix(".")
        raise UsageError(
            f"{path}={shown(values)} is not possible, since {path} has keys of its own. "
            f"Set those, as {at}KEY=VALUE."
        )
    known = {one.name: one for one in fields(settings)}  # type: ignore[arg-type]
    made = {}
    for name, value in values.items():
        if name not in known:
            raise unknown_key(str(name), at, sorted(known), str(values.get("kind", "")))
        made[name] = _typed_field(known[name], _hints(settings)[name], value, at)
    result = settings(**made)
    for sentence in getattr(result, "conflicts", lambda _: ())(at):
        raise UsageError(sentence)
    return result


def check(settings: Any, at: str = "") -> None:
    """Raise UsageError for the first setting that `typed` would reject."""
    typed(type(settings), vars(settings), at)


def check_files(settings: Any) -> None:
    """Raise UsageError for the first setting that names a file which is not there."""
    for _, rule, value in _settings_of(settings):
        if rule.file and value and not os.path.exists(os.path.expanduser(value)):
            raise UsageError(no_file(value))


def _settings_of(made: Any, at: str = "") -> Iterator[tuple[str, Rule, Any]]:
    """Yield path, rule and value of each setting, those of dataclasses in it included."""
    for one in fields(made):
        value = getattr(made, one.name)
        if is_dataclass(value):
            yield from _settings_of(value, f"{at}{one.name}.")
        else:
            yield at + one.name, rule_of(one), value


def holder_of(plain: Any, key: str, make: bool = False) -> tuple[Any, Any]:
    """Return the mapping or list that has a dotted key, and its last part or number there.

    With `make`, mappings on the way are made. Raises LookupError, ValueError or TypeError.
    """
    *parents, last = key.split(".")
    for part in parents:
        if make and isinstance(plain, dict) and not isinstance(plain.get(part), dict | list):
            plain[part] = {}
        plain = plain[int(part) if isinstance(plain, list) else part]
    return plain, int(last) if isinstance(plain, list) else last


def with_values(plain: Plain, values: Plain) -> dict[str, Any]:
    """Return a copy of a composed configuration with the values of a point, by dotted key.

    The choice of a group (`target`, `study`) is no setting: the configuration has it already.
    """
    changed = deepcopy(dict(plain))
    for key, value in values.items():
        with contextlib.suppress(LookupError, ValueError, TypeError):
            holder, last = holder_of(changed, key)
            if not isinstance(holder[last], Mapping) or isinstance(value, Mapping):
                holder[last] = deepcopy(value)
    return changed


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


class MissingSettings(UsageError):
    """Settings without a default that nothing sets, by their paths."""

    def __init__(self, paths: list[str], about: str) -> None:
        super().__init__(f"{' and '.join(paths)} must be given, as {paths[0]}=VALUE{about}.")
        self.paths = paths


def unknown_key(name: str, at: str, known: Sequence[str], kind: str = "") -> UsageError:
    """Return the error for a key that is not there, with the keys next to it and what to write."""
    group = at.removesuffix(".")
    if kind in GROUPS.get(group, ()) and (sentence := foreign_setting(at + name, {group: kind})):
        return UsageError(sentence)
    keys = [one for one in known if one != "kind"]
    others = (one.settings.__dataclass_fields__ for one in GROUPS.get(group, {}).values())
    near = dict.fromkeys(f"{at}{one}" for one in (*keys, *chain(*others)))
    offer = did_you_mean(f"{at}{name}", near, max_names=1)
    where = f"keys of {group}" if group else "keys"
    return UsageError(f"there is no key {at}{name}{offer} ({where}: {', '.join(keys)}).")


class _Mismatch(Exception):
    """A value that has not the declared type: the value, and what was expected."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(expected)
        self.value, self.expected = value, expected


_hints: Callable[[type], dict[str, Any]] = functools.cache(get_type_hints)


def _typed_field(one: Field[Any], hint: Any, value: Any, at: str) -> Any:
    """Return the typed and checked value of a field. Raises UsageError."""
    path, rule = at + one.name, rule_of(one)
    if isinstance(value, str) and value in (MISSING, *rule.words):
        return value
    if hint is Any and is_dataclass(value):
        hint = type(value)
    elif hint is Any and one.name in GROUPS and not at and value is not None:
        kinds = GROUPS[one.name]
        if not isinstance(value, Mapping) or value.get("kind") is None:
            raise UsageError(
                f"{path}={shown(value)} is not a choice of the group, which has a kind: "
                f"one of {', '.join(kinds)}."
            )
        hint = kinds.find(value["kind"], f"{path}.kind").settings
    if is_dataclass(hint):
        return typed(hint, vars(value) if is_dataclass(value) else value, f"{path}.")  # type: ignore[arg-type]
    for place, leaf in _leaves(value, path):
        if isinstance(leaf, int) and abs(leaf) > sys.float_info.max:
            raise UsageError(f"{place} has too many digits; give a number below 1e308.")
    try:
        value = _typed_value(hint, value)
    except _Mismatch as error:
        inner = error.value is not value
        wrong = f"has {error.value!r}, which is" if inner else "is"
        about = f" ({rule.about})" if rule.about else ""
        listed = not inner and error.expected == "a list" and not isinstance(value, Mapping)
        remedy = f" Write it in brackets: {path}=[{shown(value)}]." if listed else ""
        expected = " or ".join((error.expected, *rule.words))
        sentence = f"{path}={shown(value)} {wrong} not {expected}{about}.{remedy}"
        raise UsageError(sentence) from None
    # A group's `kind` is chosen as executor=local.
    if broken := rule.broken(path.removesuffix(".kind"), value):
        raise UsageError(broken)
    return value


def _typed_value(hint: Any, value: Any) -> Any:
    """Return `value` with the type `hint`; raise _Mismatch."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # of a type, a list, and None
        if value is None and NoneType in inner:
            return None
        listed = [each for each in inner if get_origin(each) is list]
        return _typed_value(
            listed[0] if listed and isinstance(value, list | tuple) else inner[0], value
        )
    if origin is list:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _Mismatch(value, "a list")
        return [_typed_value(inner[0], entry) for entry in value]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _Mismatch(value, "a mapping, such as {name: value}")
        return {str(key): _typed_value(inner[1], entry) for key, entry in value.items()}
    if hint not in _WORDS:
        return value
    if hint is str and isinstance(value, bool):
        return shown(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    accepted = {str: (str, int, float), float: (int, float)}.get(hint, hint)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise _Mismatch(value, _WORDS[hint])
    return hint(value)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested lists and mappings with their paths."""
    if isinstance(value, list | tuple | dict):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(entry, f"{path}.{key}")
    else:
        yield path, value


def merged(old: Any, new: Any) -> Any:
    """Return a copy of the value `new`; one that is a mapping is merged into the mapping `old`."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return deepcopy(new)
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
