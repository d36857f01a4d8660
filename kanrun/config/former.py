"""Settings under the names that they had in earlier versions.

A setting declared with `formerly="old"` takes its value from `old` too: with a warning on the command line and in the
cells of a suite, silently in what a run stored. Where the meaning has changed too (`converted` maps the old value to
the new one) only stored configurations are translated; elsewhere the old key is refused with the new key and value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields
from typing import Any

from kanrun.config.registry import GROUPS
from kanrun.config.rules import Rule
from kanrun.errors import UsageError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def former_keys(group: str) -> dict[str, tuple[str, Rule]]:
    """The old keys of a group's kinds, each with its new key and rule."""
    declared = (
        one
        for kind in GROUPS[group].values()
        for one in fields(kind.settings)
        if "rule" in one.metadata
    )
    return {
        one.metadata["rule"].formerly: (one.name, one.metadata["rule"])
        for one in declared
        if one.metadata["rule"].formerly
    }


def rename(config: Any, *, stored: bool = False) -> list[str]:
    """Write the new keys into a configuration in place, and return a warning for each old one.

    Raises UsageError for an old key whose meaning has changed; in what a run `stored` values are translated, and
    nothing is said.
    """
    warnings = []
    for path, group, entry in _places(config):
        for old, (new, rule) in former_keys(group).items():
            if old not in entry:
                continue
            value = entry.pop(old)
            if stored:
                entry.setdefault(
                    new, value if rule.converted is None else rule.converted(float(value))
                )
            else:
                entry[new] = value
                warnings.append(_renamed(f"{path}{old}", f"{path}{new}", rule, str(value)))
    return warnings


def rename_override(word: str) -> tuple[str, str | None]:
    """An override of the command line with the new key, and a warning where it had an old one.

    Raises UsageError for an old key whose meaning has changed.
    """
    key, equals, value = word.partition("=")
    signs = key[: len(key) - len(key.lstrip("+~"))]
    group, _, old = key.removeprefix(signs).partition(".")
    if group not in GROUPS or old not in (known := former_keys(group)):
        return word, None
    new, rule = known[old]
    warning = _renamed(f"{group}.{old}", f"{group}.{new}", rule, value)
    return f"{signs}{group}.{new}{equals}{value}", warning


def new_spelling(key: str) -> str:
    """What has become of a setting that no longer is there, to follow "there is no key ..."; empty for others."""
    group, _, old = key.rpartition(".")
    new, rule = former_keys(group).get(old, ("", None)) if group in GROUPS else ("", None)
    if rule is None:
        return ""
    return f"; it is {group}.{new} now" + (f", which means {rule.about}" if rule.converted else "")


def _renamed(old: str, new: str, rule: Rule, value: str) -> str:
    """The warning for a renamed key. Raises UsageError where the meaning has changed."""
    if rule.converted is None:
        return f"{old} is called {new} now; the old name still works."
    converted = _NUMBER.sub(lambda number: f"{rule.converted(float(number[0])):.15g}", value)  # type: ignore[misc]
    raise UsageError(f"{old}={value} has become {new}={converted} ({rule.about}); write that.")


def _places(config: Any) -> Iterator[tuple[str, str, MutableMapping[str, Any]]]:
    """Where settings of a group may stand: the group, the cells of a suite, and the learners, which are models."""
    for at, cell in (("", config), *_entries(config, "suite")):
        for group in GROUPS:
            entry = cell.get(group)
            if isinstance(entry, MutableMapping):
                yield f"{at}{group}.", group, entry
    for at, learner in _entries(config, "learners"):
        yield at, "model", learner


def _entries(config: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    listed = config.get(name)
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        yield from (
            (f"{name}.{i}.", entry)
            for i, entry in enumerate(listed)
            if isinstance(entry, MutableMapping)
        )
