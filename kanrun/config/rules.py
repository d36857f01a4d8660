"""Declaration of settings, description of their rules in words, and the check of one value.

A dataclass declares each setting as `Annotated[TYPE, Meta(...), "its purpose", MARKS] = DEFAULT`.
msgspec converts values to the type and checks bounds and choices; marks are further rules that
msgspec does not support. The error for an invalid value names the path, the value, the rule and the
purpose.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Annotated, Any, TypeVar, get_type_hints

from msgspec import Meta, ValidationError, convert, inspect

from kanrun.errors import UsageError, did_you_mean

#: Default of settings that must be given, equal to OmegaConf's MISSING. It is not imported, because
#: OmegaConf would slow down `kanrun --help`.
MISSING: Any = "???"

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
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
