"""Declaration and check of settings: default, rule and purpose.

A dataclass of settings declares each field with `setting(default, about, ...)`. `check` walks such
a dataclass and rejects the first value that breaks its rule, by a sentence with key, value, rule
and purpose. Conditions on several settings are the dataclass's method `conflicts(at)`, which yields
one sentence for each conflict; `at` is the path of the dataclass, such as `model.`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from itertools import pairwise
from typing import Any

from kanrun.errors import UsageError, did_you_mean

#: Value that must be given, as OmegaConf spells it; `kanrun --help` is faster without OmegaConf.
MISSING: Any = "???"


@dataclass(frozen=True)
class Rule:
    """Rule of a value; None is checked by the field's type alone.

    Bounds, `whole` and `choices` hold for the value, and for every number or text in a list or
    mapping. `words` are accepted besides numbers. `least` and `length` count the entries of a list,
    `width` those of each of its entries. `file` marks files that must exist when a run begins, see
    `check_files`. `free_text` marks formulas and names of columns, see `kanrun.launch.arguments`.
    """

    about: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    whole: bool = False
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
        """Return the sentence that rejects `value` of the setting `path`, or None."""
        if value is None or (isinstance(value, str) and (value in self.words or value == MISSING)):
            return None
        broken = self._list(path, value) if isinstance(value, list | tuple) else None
        if broken is not None:
            return broken
        for _, leaf in _leaves(value):
            if (rule := self._breaks(leaf)) is not None:
                shown = (
                    f"{path}={value} has {leaf!r}, which"
                    if isinstance(value, list | dict)
                    else f"{path}={value}"
                )
                offer = did_you_mean(leaf, self.choices, max_names=1)
                return f"{shown} {rule} ({self.about})" + (offer or ".")
        return None

    def _breaks(self, leaf: Any) -> str | None:
        if self.choices and leaf not in self.choices:
            return f"is not one of {', '.join(self.choices)}"
        if not self._numeric:
            return None
        number = not isinstance(leaf, bool) and isinstance(leaf, int if self.whole else int | float)
        finite = "" if not number or math.isfinite(leaf) else "finite and "
        return None if number and self._within(leaf) else f"must be {finite}{self.phrase}"

    @property
    def _numeric(self) -> bool:
        bounds = (self.minimum, self.above, self.maximum, self.below)
        return self.whole or any(bound is not None for bound in bounds)

    def _within(self, number: float) -> bool:
        if math.isinf(number):
            return False
        low = (self.minimum is None or number >= self.minimum) and (
            self.above is None or number > self.above
        )
        return (
            low
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )

    @property
    def phrase(self) -> str:
        """The numeric rule in words, to follow "must be"."""
        bounds = (
            ("at least", self.minimum),
            ("above", self.above),
            ("at most", self.maximum),
            ("below", self.below),
        )
        phrase = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
        if self.minimum is not None and self.maximum is not None:
            phrase = f"from {self.minimum:g} to {self.maximum:g}"
        if self.whole:
            phrase = f"a whole number {phrase}".replace("at least", "of at least")
        return f"{phrase}, or {' or '.join(self.words)}" if self.words else phrase

    def _list(self, path: str, entries: Any) -> str | None:
        if len(entries) < self.least:
            known = f" of {', '.join(self.choices)}" if self.choices else ""
            return (
                f"{path}={list(entries)} needs at least {_count(self.least)}{known} ({self.about})."
            )
        if self.length is not None and len(entries) != self.length:
            return f"{path}={list(entries)} must have {_count(self.length)} ({self.about})."
        for entry in entries:
            if self.whole and self.width is None and isinstance(entry, list | tuple | dict):
                return (
                    f"{path}={list(entries)} has {entry}, where a whole number is needed "
                    f"({self.about})."
                )
            if self.width is not None and (
                not isinstance(entry, list | tuple) or len(entry) != self.width
            ):
                return f"{path} has {entry}, where a list of {self.width} is needed ({self.about})."
            if self.distinct and list(entries).count(entry) > 1:
                return f"{path} has {entry} twice or more; name each once ({self.about})."
        numbers = all(isinstance(entry, int | float) for entry in entries)
        if self.increasing and numbers and any(b <= a for a, b in pairwise(entries)):
            return f"{path}={list(entries)} must increase from entry to entry ({self.about})."
        return None


def setting(default: Any, about: str, **rule: Any) -> Any:
    """Return a dataclass field with this default (copied for each instance) and its `Rule`."""
    metadata = {"rule": Rule(about, **rule)}
    if isinstance(default, list | dict) or is_dataclass(default):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def rule_of(one: Field[Any]) -> Rule | None:
    """Return the rule of a dataclass field, if it was declared by `setting`."""
    rule: Rule | None = one.metadata.get("rule")
    return rule


def check(settings: Any, at: str = "") -> None:
    """Raise UsageError for the first setting that breaks its rule, those of inner dataclasses too.

    `at` is the path of the fields in the configuration, such as `model.`. NaN breaks every rule.
    """
    for sentence in _broken(settings, at):
        raise UsageError(sentence)


def check_files(settings: Any) -> None:
    """Raise UsageError for the first setting that names a file which is not there."""
    for one in fields(settings):
        value, rule = getattr(settings, one.name), one.metadata.get("rule")
        if is_dataclass(value):
            check_files(value)
        elif (
            rule is not None
            and rule.file
            and value
            and not os.path.exists(os.path.expanduser(value))
        ):
            raise UsageError(f"there is no file {value!r}.")


_FLAT = ("list[int]", "list[float]", "list[str]")  # whose entries OmegaConf lets be lists


def _broken(settings: Any, at: str) -> Iterator[str]:
    for one in fields(settings):
        value, path = getattr(settings, one.name), at + one.name
        if is_dataclass(value):
            yield from _broken(value, f"{path}.")
            continue
        if str(one.type).startswith(_FLAT) and any(
            isinstance(entry, list | dict) for entry in value or ()
        ):
            yield f"{path}={value} has a list where each entry is one value, as {path}=[1,2]."
            continue
        numbers = ((where, leaf) for where, leaf in _leaves(value, path) if isinstance(leaf, float))
        yield from (f"{where}=nan is not a number." for where, leaf in numbers if math.isnan(leaf))
        rule = one.metadata.get("rule")
        # a group's `kind` is chosen as executor=local
        if rule is not None and (sentence := rule.broken(path.removesuffix(".kind"), value)):
            yield sentence
    yield from getattr(settings, "conflicts", lambda _: ())(at)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested lists and mappings with their paths."""
    if isinstance(value, list | tuple | dict):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(entry, f"{path}.{key}")
    else:
        yield path, value


def _count(entries: int) -> str:
    return f"{entries} {'entry' if entries == 1 else 'entries'}"
