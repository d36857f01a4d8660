"""Settings: their declaration, and the one conversion of plain values to them.

A dataclass declares each setting as `Annotated[TYPE, Meta(...), "its purpose", MARKS] = DEFAULT`;
types, bounds and choices are those that msgspec checks. `typed` makes such a dataclass of plain
values from the command line, a file, a cell of a suite, a stored run or `kanrun.fit`. It rejects
the first unknown key, wrong type or broken rule by a sentence with key, value, rule and purpose.
Conditions on several settings are the dataclass's method `conflicts(at)`, which yields one sentence
for each conflict; `at` is the path of the dataclass, such as `model.`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from itertools import chain, pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from msgspec import Meta, ValidationError, convert

from kanrun.config.registry import EXPERIMENTS, GROUPS, Plain, foreign_setting, resolve
from kanrun.errors import UsageError, did_you_mean, no_file

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


S = TypeVar("S")
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
        """Texts of its type, and words that TAB offers."""
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


def typed_config(command: str, plain: Plain) -> Any:
    """Return the typed and checked configuration of a command.

    `plain` has plain values; top-level keys that the command does not have may serve
    interpolations, and are omitted. Raises UsageError if a key, type or value is wrong, or an
    interpolation does not resolve, and MissingSettings if a setting without default is not given.
    """
    settings = EXPERIMENTS.find(command).settings
    resolved, own = resolve_interpolations(dict(plain)), settings_of(settings)
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
    given = _values_of(made, at)
    missing = sorted((path, one.about) for path, one, value in given if value == MISSING)
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
    """Raise UsageError for the first setting that names a file which is not there."""
    for _, one, value in _values_of(settings):
        if FILE in one.marks and value and not os.path.exists(os.path.expanduser(value)):
            raise UsageError(no_file(value))


def check_target(settings: Any) -> None:
    """Raise UsageError for a target that its kind rejects before anything heavy is loaded."""
    target = getattr(settings, "target", None)
    if target is not None and (check_settings := GROUPS["target"][target.kind].check):
        resolve(check_settings)(target)


def _values_of(made: Any, at: str = "") -> Iterator[tuple[str, Setting, Any]]:
    """Yield path, setting and value of each setting, those of dataclasses in it included."""
    for name, one in settings_of(type(made)).items():  # type: ignore[arg-type]
        value = getattr(made, name)
        if is_dataclass(value):
            yield from _values_of(value, f"{at}{name}.")
        else:
            yield at + name, one, value


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
    others = (settings_of(one.settings) for one in GROUPS.get(group, {}).values())
    near = dict.fromkeys(f"{at}{one}" for one in (*keys, *chain(*others)))
    offer = did_you_mean(f"{at}{name}", near, max_names=1)
    where = f"keys of {group}" if group else "keys"
    return UsageError(f"there is no key {at}{name}{offer} ({where}: {', '.join(keys)}).")


def _typed_value(one: Setting, path: str, value: Any) -> Any:
    """Return the typed and checked value of a setting at its path. Raises UsageError."""
    if isinstance(value, str) and value == MISSING:
        return value
    inner = get_args(one.type)[0] if get_origin(one.type) is Annotated else one.type
    if is_dataclass(value):
        inner, value = type(value), vars(value)
    elif inner is Any and path in GROUPS and value is not None:
        kinds = GROUPS[path]
        if not isinstance(value, Mapping) or value.get("kind") is None:
            raise UsageError(
                f"{path}={shown(value)} is not a choice of the group, which has a kind: "
                f"one of {', '.join(kinds)}."
            )
        inner = kinds.find(value["kind"], f"{path}.kind").settings
    if is_dataclass(inner):
        return typed(inner, value, f"{path}.")  # type: ignore[arg-type]
    # A group's `kind` is chosen as executor=local.
    return one.value(path.removesuffix(".kind"), value)


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
