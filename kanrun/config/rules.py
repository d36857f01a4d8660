"""Declaration of settings, their rules in words, and conversion of plain values to typed settings.

A dataclass declares each setting as `Annotated[TYPE, Meta(...), "its purpose", MARKS] = DEFAULT`.
msgspec converts values to the type and checks bounds and choices; marks are further rules that
msgspec does not support. The error for an invalid value names the path, the value, the rule and the
purpose.

`typed` converts all plain values: from the command line, a file, an entry of a suite, a stored run
or `kanrun.fit`. It raises an error for the first unknown key, wrong type or invalid value.
Conditions on several settings are checked by the dataclass's method `conflicts(at)`, which yields
one sentence per conflict; `at` is the path of the dataclass, such as `model.`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from itertools import chain
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Meta, ValidationError, convert, inspect

from kanrun.config.registry import EXPERIMENTS, GROUPS, Plain, foreign_setting
from kanrun.errors import UsageError, did_you_mean, no_file

#: Default of settings that must be given, equal to OmegaConf's MISSING. It is not imported, because
#: OmegaConf would slow down `kanrun --help`.
MISSING: Any = "???"

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
S = TypeVar("S")
T = TypeVar("T")
NonEmpty = Annotated[list[T], Meta(min_length=1)]


class Mark(Enum):
    """Rules beyond types: distinct or increasing list entries, existing files, and free text."""

    DISTINCT = "each once"
    INCREASING = "increasing"
    FILE = "a file"
    FREE_TEXT = "as typed"


DISTINCT, INCREASING, FILE, FREE_TEXT = Mark


@dataclass(frozen=True)
class Words:
    """Text values that TAB completion offers for a setting that also accepts other text."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """A declared setting.

    Attributes:
        name: Name of the field of the dataclass.
        type: Type, with the bounds that msgspec checks.
        about: Purpose.
        marks: Further rules.
        words: Text values that TAB completion offers besides the choices of the type.
        default: Default value.
    """

    name: str
    type: Any
    about: str
    marks: frozenset[Mark]
    words: tuple[str, ...]
    default: Any

    def value(self, path: str, value: Any) -> Any:
        """Convert `value` to the type of this setting, and check it.

        Raises UsageError if it is invalid; `path` is the setting's path for the message.
        """
        value = _as_text(self._info, value)
        if not all(map(_is_finite, _leaves(value))):
            raise UsageError(f"{path} has a number that is not finite, or too large for float64.")
        if self._has(value):
            return convert(value, self.type, strict=False)
        about = f" ({self.about})" if self.about else ""
        wrong = [leaf for leaf in _leaves(value) if leaf not in self.choices]
        offer = did_you_mean(wrong[0], self.choices, 1) if wrong else ""
        listed = not isinstance(value, list | tuple) and self._has([value])
        remedy = f" Write it in brackets: {path}=[{shown(value)}]." if listed else ""
        raise UsageError(f"{path}={shown(value)} must be {self.rule}{about}{offer or '.'}{remedy}")

    @functools.cached_property
    def choices(self) -> tuple[str, ...]:
        """Text values that the setting's type lists as choices, followed by `words`."""
        literals = (
            part.values for part in _parts(self._info) if isinstance(part, inspect.LiteralType)
        )
        return (*(str(name) for values in literals for name in values), *self.words)

    @functools.cached_property
    def rule(self) -> str:
        """The rule in words, such as "a whole number at least 1 or auto"."""
        marks = [mark.value for mark in (DISTINCT, INCREASING) if mark in self.marks]
        return ", ".join([_in_words(self._info), *marks])

    @functools.cached_property
    def free_text(self) -> str:
        """How free text is parsed: "text", "list" (of text) or "structure"; "" if Hydra does it."""
        if not {FREE_TEXT, FILE} & self.marks:
            return ""
        kinds = [type(part) for part in _parts(self._info)]
        if inspect.StrType not in kinds or inspect.DictType in kinds:
            return "structure"
        return "list" if inspect.ListType in kinds else "text"

    @functools.cached_property
    def _info(self) -> inspect.Type:
        return inspect.type_info(self.type)

    def _has(self, value: Any) -> bool:
        """Return whether a value has the setting's type and obeys the rules in `marks`."""
        try:
            convert(value, self.type, strict=False)
        except ValidationError:
            return False
        if not isinstance(value, list | tuple):
            return True
        if DISTINCT in self.marks and any(value.count(entry) > 1 for entry in value):
            return False
        return INCREASING not in self.marks or all(map(operator.lt, value, value[1:]))


def copied(default: Any) -> Any:
    """Return a dataclass field with this default, which is copied for each instance."""
    return field(default_factory=lambda: deepcopy(default))


@functools.cache
def settings_of(kind: type) -> Mapping[str, Setting]:
    """Return the settings of a dataclass by name, in the order of their declaration."""
    hints = get_type_hints(kind, include_extras=True)
    declared = {}
    for entry in fields(kind):
        notes = getattr(hints[entry.name], "__metadata__", ())
        about = next((note for note in notes if isinstance(note, str)), "")
        words = next((note.names for note in notes if isinstance(note, Words)), ())
        marks = frozenset(note for note in notes if isinstance(note, Mark))
        default = entry.default if entry.default_factory is NO_DEFAULT else entry.default_factory()
        declared[entry.name] = Setting(entry.name, hints[entry.name], about, marks, words, default)
    return declared


def defaults_of(kind: Any) -> dict[str, Any]:
    """Return the default values of a settings dataclass as nested plain data."""
    return asdict(kind())


def shown(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is NO_DEFAULT or value == MISSING:
        return "must be given"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(entry)}' for key, entry in value.items())}}}"
    return f"{value:.16g}" if isinstance(value, float) else str(value)


def _alternatives(info: inspect.Type) -> tuple[inspect.Type, ...]:
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _parts(info: inspect.Type) -> Iterator[inspect.Type]:
    """Yield the members of a union type, and recursively the types of list and mapping entries."""
    for part in _alternatives(info):
        yield part
        if isinstance(part, inspect.ListType):
            yield from _parts(part.item_type)
        elif isinstance(part, inspect.DictType):
            yield from _parts(part.value_type)


def _in_words(info: inspect.Type, several: bool = False) -> str:
    """Describe a type in words that follow "must be" or, if `several`, "a list of"."""
    *parts, last = (_one_in_words(part, several) for part in _alternatives(info))
    return f"{', '.join(parts)} or {last}" if parts else last


def _one_in_words(info: inspect.Type, several: bool) -> str:
    match info:
        case inspect.NoneType():
            return "null"
        case inspect.AnyType():
            return "any value"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=(name,)):
            return str(name)
        case inspect.LiteralType(values=names):
            return f"{'' if several else 'one of '}{', '.join(map(str, names))}"
        case inspect.ListType(item_type=item, min_length=least, max_length=most):
            size = f"{most} " if most else f"at least {least} " if (least or 0) > 1 else ""
            noun = "non-empty list" if least == 1 and not most else "list"
            more = f" of {size}{_in_words(item, True)}"
        case inspect.DictType(value_type=item):
            noun = "mapping"
            more = f" {{name: value}} with {_in_words(item, True)}"
        case inspect.IntType() | inspect.FloatType():
            noun = "whole number" if isinstance(info, inspect.IntType) else "number"
            more = _bounds_in_words(info)
        case _:
            noun = "text"
            more = ""
    return f"{noun}s{more}" if several else f"{'' if noun == 'text' else 'a '}{noun}{more}"


def _bounds_in_words(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge:g} to {info.le:g}"
    bounds = {"at least": info.ge, "above": info.gt, "at most": info.le, "below": info.lt}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    return f" {' and '.join(words)}" if words else ""


def _as_text(info: inspect.Type, value: Any) -> Any:
    """Convert numbers in `value` to text where the type allows text but no numbers."""
    parts = _alternatives(info)
    for part in parts:
        if isinstance(part, inspect.ListType) and isinstance(value, list | tuple):
            return [_as_text(part.item_type, entry) for entry in value]
        if isinstance(part, inspect.DictType) and isinstance(value, Mapping):
            return {str(key): _as_text(part.value_type, entry) for key, entry in value.items()}
    kinds = {type(part) for part in parts}
    numeric = {inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.AnyType}
    text = inspect.StrType in kinds and not kinds & numeric
    return shown(value) if text and isinstance(value, int | float) else value


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists and mappings."""
    if isinstance(value, list | tuple | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _leaves(entry)
    else:
        yield value


def _is_finite(value: Any) -> bool:
    """Return False for numbers that are infinite, NaN or too large for float64; otherwise True."""
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


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
