"""Settings: their declaration, and the check of one value by the rule of its setting.

A dataclass declares each setting as `Annotated[TYPE, Meta(...), "its purpose", MARKS] = DEFAULT`;
types, bounds and choices are those that msgspec checks. A `Setting` says its rule in words, and
rejects a value that breaks the rule by a sentence with path, value, rule and purpose. Whole
dataclasses are made of plain values in `conversion.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Meta, ValidationError, convert

from kanrun.config.registry import Plain
from kanrun.errors import UsageError, did_you_mean

#: Value that must be given, as OmegaConf spells it; `kanrun --help` is faster without OmegaConf.
MISSING: Any = "???"
#: Largest number that float64 holds, as a power of ten.
MAX_NUMBER = 1e308

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]


class Mark(Enum):
    """Rules beyond types: of the entries of a list, of files, and of text taken as typed."""

    DISTINCT = "each once"
    INCREASING = "increasing"
    FILE = "a file"
    FREE_TEXT = "as typed"


DISTINCT, INCREASING, FILE, FREE_TEXT = Mark


@dataclass(frozen=True)
class Words:
    """Texts that TAB offers for a setting whose type is wider."""

    names: tuple[str, ...]


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_NAMES |= {list: "a list", dict: "a mapping, such as {name: value}"}
_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Setting:
    """A declared setting.

    Attributes:
        name: Its name in its dataclass.
        type: Its type with the bounds that msgspec checks.
        about: Its purpose.
        marks: Further rules.
        words: Texts that TAB offers besides the choices of its type.
        default: Its default value.
    """

    name: str
    type: Any
    about: str
    marks: frozenset[Mark]
    words: tuple[str, ...]
    default: Any

    def value(self, path: str, value: Any) -> Any:
        """Return the typed and checked value of this setting. Raises UsageError."""
        for place, leaf in _leaves(value, path):
            if isinstance(leaf, float) and math.isnan(leaf):
                raise UsageError(f"{place}=nan is not a number.")
            if isinstance(leaf, int) and abs(leaf) > MAX_NUMBER:
                raise UsageError(f"{place} has too many digits; give a number below 1e308.")
        value = _as_text(self.type, value)
        reason = _fault(self.type, value) or self._broken(value)
        if not reason:
            return convert(value, self.type, strict=False)
        about = f" ({self.about})" if self.about else ""
        listed = " not a list" in reason and not isinstance(value, Mapping)
        remedy = f" Write it in brackets: {path}=[{shown(value)}]." if listed else ""
        wrong = [leaf for _, leaf in _leaves(value, path) if leaf not in self.choices]
        offer = did_you_mean(wrong[0], self.choices, 1) if wrong and not remedy else ""
        raise UsageError(f"{path}={shown(value)}{reason}{about}{offer or '.'}{remedy}")

    @property
    def choices(self) -> tuple[str, ...]:
        """Texts that the type of the setting allows, followed by further texts that TAB offers."""
        return (*literals(self.type), *self.words)

    @property
    def allowed(self) -> str:
        """Its rule in words, such as "at least 1, or auto; increasing"; "" without one."""
        rule = bounds_in_words(_bounds_of(self.type))
        texts = (" or " if rule else ", ").join(self.choices)
        flags = [mark.value for mark in Mark if mark in self.marks and mark is not FREE_TEXT]
        sizes = {bounds.get("max_length") for _, bounds in members(self.type)} - {None}
        sizes_in_words = [f"{size:g} entries" for size in sizes if size]
        return "; ".join(
            filter(None, (", or ".join(filter(None, (rule, texts))), *flags, *sizes_in_words))
        )

    def _broken(self, value: Any) -> str:
        """Return how a value breaks one of the marks, or ""."""
        if not isinstance(value, list | tuple):
            return ""
        if DISTINCT in self.marks and (twice := [one for one in value if value.count(one) > 1]):
            return f" has {shown(twice[0])} twice or more; name each once"
        if INCREASING in self.marks and any(after <= before for before, after in pairwise(value)):
            return " must increase from entry to entry"
        return ""


def copied(default: Any) -> Any:
    """Return a dataclass field with this default, which is copied for each instance."""
    return field(default_factory=lambda: deepcopy(default))


@functools.cache
def settings_of(kind: type) -> Mapping[str, Setting]:
    """Return the settings of a dataclass by name, in the order of their declaration."""
    hints, found = get_type_hints(kind, include_extras=True), {}
    for one in fields(kind):
        about, marks, words = "", set[Mark](), tuple[str, ...]()
        for each in getattr(hints[one.name], "__metadata__", ()):
            about = each if isinstance(each, str) else about
            words = each.names if isinstance(each, Words) else words
            marks |= {each} if isinstance(each, Mark) else set()
        default = one.default if one.default_factory is NO_DEFAULT else one.default_factory()
        found[one.name] = Setting(
            one.name, hints[one.name], about, frozenset(marks), words, default
        )
    return found


def defaults_of(kind: Any) -> dict[str, Any]:
    """Return the default values of a dataclass of settings as plain data."""
    return asdict(kind())


def members(hint: Any) -> list[tuple[Any, dict[str, float]]]:
    """Return the types that a type unites but None, with their bounds by msgspec's names."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        names = (*_BOUNDS, "min_length", "max_length")
        own = {
            name: getattr(mark, name)
            for mark in marks
            if isinstance(mark, Meta)
            for name in names
            if getattr(mark, name) is not None
        }
        return [(each, bounds | own) for each, bounds in members(inner)]
    if get_origin(hint) in (Union, UnionType):
        return [pair for each in get_args(hint) for pair in members(each)]
    return [] if hint is NoneType else [(hint, {})]


def literals(hint: Any) -> list[str]:
    """Return the texts that a type allows, alone, in lists or in mappings, each once."""
    names: list[str] = []
    for each, _ in members(hint):
        if get_origin(each) is Literal:
            names += get_args(each)
        elif get_args(each):
            names += literals(get_args(each)[-1])
    return list(dict.fromkeys(names))


def in_words(hint: Any) -> str:
    """Return a type in words, such as "list of whole number or null"."""
    words = []
    for each, _ in members(hint):
        item = in_words(get_args(each)[-1]) if get_origin(each) in (list, dict) else ""
        name = {list: "list of ", dict: "mapping of ", Literal: "text"}.get(get_origin(each), "")
        words.append(f"{name}{item}" or _TYPES[each])
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return " or ".join([*dict.fromkeys(words), *["null"] * (NoneType in get_args(inner))])


def _bounds_of(hint: Any) -> Mapping[str, float]:
    """Return the bounds of the numbers of a type, alone, in lists or in mappings."""
    for each, bounds in members(hint):
        if each in (int, float):
            return bounds
        if get_origin(each) in (list, dict) and (inner := _bounds_of(get_args(each)[-1])):
            return inner
    return {}


def bounds_in_words(bounds: Mapping[str, float]) -> str:
    """Return bounds of a number in words, to follow "must be"; "" without one."""
    if {"ge", "le"} <= bounds.keys():
        return f"from {bounds['ge']:g} to {bounds['le']:g}"
    parts = (f"{words} {bounds[name]:g}" for name, words in _BOUNDS.items() if name in bounds)
    return " and ".join(parts)


def _fits(hint: Any, value: Any) -> bool:
    try:
        convert(value, hint, strict=False)
    except ValidationError:
        return False
    return True


def _as_text(hint: Any, value: Any) -> Any:
    """Return `value` with text instead of numbers where the type allows no number."""
    kinds = [each for each, _ in members(hint)]
    for each in kinds:
        origin, inner = get_origin(each), get_args(each)
        if origin is list and isinstance(value, list | tuple):
            return [_as_text(inner[0], entry) for entry in value]
        if origin is dict and isinstance(value, Mapping):
            return {str(key): _as_text(inner[1], entry) for key, entry in value.items()}
    numeric = {int, float, bool, Any} & {each for each in kinds if not get_args(each)}
    text = str in kinds and not numeric
    return shown(value) if text and isinstance(value, int | float) else value


def _fault(hint: Any, value: Any, inside: bool = False) -> str:
    """Return what is wrong with the innermost value that does not have a type, or ""."""
    parts = members(hint)
    for each, bounds in parts:
        entries, item = None, (get_args(each) or (None,))[-1]
        if get_origin(each) is list and isinstance(value, list | tuple):
            entries = value
        elif get_origin(each) is dict and isinstance(value, Mapping):
            entries = list(value.values())
        if entries is not None:
            wrong = (_fault(item, entry, True) for entry in entries)
            return next(filter(None, wrong), "") or _wrong_length(item, entries, bounds, inside)
    number = next(((each, bounds) for each, bounds in parts if each in (int, float)), None)
    has = f" has {shown(value)}, which" if inside else ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and is_number and (number[0] is float or float(value).is_integer()):
        rule = bounds_in_words(number[1])
        if not (rule and math.isinf(value)) and _fits(hint, value):
            return ""
        rules = [rule, *literals_of(parts)]
        finite = "finite and " if math.isinf(value) else ""
        return f"{has} must be {finite}{', or '.join(filter(None, rules))}"
    if _fits(hint, value):
        return ""
    choices = literals_of(parts)
    if choices and len(choices) == len(get_args(parts[0][0])) and len(parts) == 1:
        return f"{has} is not one of {', '.join(choices)}"
    names = [_NAMES.get(get_origin(each) or each, "") for each, _ in parts]
    names = [name for name in names if name and not (name == "a list" and number)]
    return f"{has} is not {' or '.join([*names, *choices])}"


def literals_of(parts: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return the texts among the types that `members` returns."""
    return [name for each, _ in parts if get_origin(each) is Literal for name in get_args(each)]


def _wrong_length(item: Any, entries: Sequence[Any], bounds: Plain, inside: bool) -> str:
    """Return what is wrong with the number of entries of a list, or ""."""
    least, most = bounds.get("min_length", 0), bounds.get("max_length", math.inf)
    if least <= len(entries) <= most:
        return ""
    has = f" has {shown(entries)}, which" if inside else ""
    if least == most:
        return f"{has} must have {least} entries"
    known = f" of {', '.join(names)}" if (names := literals(item)) else ""
    return f"{has} needs at least {least} {'entry' if least == 1 else 'entries'}{known}"


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
    return f"{value:.16g}" if isinstance(value, float) else str(value)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested lists and mappings with their paths."""
    if isinstance(value, list | tuple | dict):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(entry, f"{path}.{key}")
    else:
        yield path, value
