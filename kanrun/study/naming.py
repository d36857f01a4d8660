"""What people call the cells of a study: what tells them apart, in a few words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Cell = Mapping[str, Any]

#: Keys whose value says enough.
_PLAIN = ("part", "model", "learner", "target", "case", "schedule", "name", "activation")
#: Keys of a target or schedule that name it.
_NAMES = ("name", "formula", "id", "path")
_LONGEST = 40


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Return a name for each cell from the settings in which cells differ; `cell N` where that is not enough.

    Targets are called by name or formula, schedules by their grids, other settings by key and value.
    """
    described = [_described(cell) for cell in cells]
    keys = list(dict.fromkeys(key for words in described for key in words))
    telling = [key for key in keys if len({words.get(key) for words in described}) > 1]
    names = [", ".join(words[key] for key in telling if words.get(key)) for words in described]
    often = Counter(names)
    return [
        name if name and often[name] == 1 else f"{name}{', ' if name else ''}cell {index}"
        for index, name in enumerate(names)
    ]


def _described(cell: Cell) -> dict[str, str]:
    """Return words for each setting of a cell; settings of a group are told apart by their own key."""
    words: dict[str, str] = {}
    for key, value in cell.items():
        if key in ("bound", "bounds"):  # what is claimed of a cell is not what it is
            continue
        called = _called(value)
        if called is not None:
            words[key] = called if key in _PLAIN else f"{key} {called}"
        elif isinstance(value, Mapping):
            words |= {f"{key}.{inner}": word for inner, word in _described(value).items()}
    return words


def _called(value: Any) -> str | None:
    """Return a value in a word; None for a group without a name, whose settings are told one by one."""
    if isinstance(value, Mapping):
        if "target" in value:  # a case is its target, with what it asks of it
            return _called(value["target"])
        if {"kind", "first", "last"} <= value.keys():
            nested = "" if value.get("nested", True) else ", not nested"
            return f"{value['kind']} from {value['first']} to {value['last']}{nested}"
        if "intervals" in value:
            kind = value.get("kind", "list")
            return ("" if kind == "list" else f"{kind} ") + f"grids {_called(value['intervals'])}"
        return next((_short(str(value[key])) for key in _NAMES if value.get(key)), None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _short(f"[{','.join(str(_called(item)) for item in value)}]")
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
