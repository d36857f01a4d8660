"""TAB completion: groups, choices, keys and values of arguments, columns of a table, and runs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import kanrun.conf
from kanrun.config import EXPERIMENTS, GROUPS
from kanrun.config.keys import default_choices, groups_of, keys_of
from kanrun.config.registry import implied_choices
from kanrun.errors import KanrunError

#: Settings that name columns of the table in target.path.
_COLUMNS = {
    *("inputs", "outputs", "exclude", "categorical_columns", "columns", "weight_column"),
    *("split", "monotone", "curvature", "units"),
}
#: Settings that take these values among others.
_NAMES = {
    "device": ["auto", "cpu", "cuda", "mps"],
    "order": ["ascending", "descending", "random"],
    "target.split": ["random", "group:", "time:"],
}
_ENDS = ("=", ".", "/", ":")  # after which the shell must not end the word


def complete_run(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of runs, points and tags that begin with `incomplete`, the newest first."""
    return runs_beginning(incomplete, _outputs(ctx))


def complete_override(ctx: Any, incomplete: str) -> list[str]:
    """Return the words that begin with `incomplete`, for Typer's completion of OVERRIDES."""
    words = [str(word) for word in ctx.params.get("overrides") or ()]
    word, split = incomplete, False
    if typed := _bash_words():
        # bash splits at `=`, so that neither the words nor the incomplete one are whole
        *words, word = typed
        split = "=" in word
        words = [other for other in words if "=" in other]
    completed = completions(ctx.info_name, words, word, _outputs(ctx))
    cut = word.rindex("=") + 1 if split else 0
    return [whole[cut:] for whole in completed]


def completions(
    command: str, words: Sequence[str], word: str, outputs: Path = Path("outputs")
) -> list[str]:
    """Return all groups, choices, keys and values that begin with `word`, given the other `words`.

    A single result that ends with `=`, `.`, `/` or `:` is followed by its continuations, so that
    the shell does not end the word there.
    """
    if command not in EXPERIMENTS:
        return []
    sign = word[: len(word) - len(word.lstrip("+~"))]
    begun = word[len(sign) :]
    call = _Call(command, words, outputs)
    found = call.matching(begun)
    while len(found) == 1 and found[0] != begun and found[0].endswith(_ENDS):
        following = [name for name in call.matching(found[0]) if name != found[0]]
        if not following:
            break
        found = [found[0], *following]
    return [sign + name for name in found]


def runs_beginning(beginning: str, outputs: Path) -> list[str]:
    """Return names of runs that begin so, newest first; of points after a whole name; and tags."""
    from kanrun.runs import find_runs

    runs = find_runs(outputs)[::-1]
    names = [
        "latest",
        *dict.fromkeys(f"{run.path.parent.name}/latest" for run in runs),
        *(run.name for run in runs),
    ]
    if beginning.count("/") == 2:
        names = [
            point.name
            for run in runs
            if beginning.startswith(f"{run.name}/") and run.has_points
            for point in run.points
        ]
    elif "/" not in beginning:
        names += list(dict.fromkeys(tag for run in runs for tag in run.labels.tags))
    return [name for name in names if name.startswith(beginning)]


class _Call:
    """A call that is being typed: the choices of its groups, and the keys that it has with them."""

    def __init__(self, command: str, words: Sequence[str], outputs: Path) -> None:
        self._groups, self._outputs = dict(groups_of(command)), outputs
        typed = dict(word.lstrip("+~").partition("=")[::2] for word in words)
        chosen = {key: value for key, value in typed.items() if key in self._groups}
        implied: Iterable[str] = ()
        with contextlib.suppress(KanrunError):
            implied = implied_choices(EXPERIMENTS[command], chosen, typed)
        chosen = {**default_choices(command), **chosen}
        chosen |= dict(word.partition("=")[::2] for word in implied)
        self._kinds = {f"{group}={_kind(group, choice)}" for group, choice in chosen.items()}
        self._table = typed.get("target.path", "").strip("'\"")
        self._keys = {
            key.path: key
            for key in keys_of(command)
            if key.type != "group" and ("=" not in key.where[0] or key.where[0] in self._kinds)
        }

    def matching(self, beginning: str) -> list[str]:
        """Return the groups, keys or values that begin so, sorted."""
        key, equals, value = beginning.partition("=")
        if equals:
            values = self._groups.get(key) or self._values(key, value)
            names = {f"{key}={each}" for each in values}
        else:
            parent = beginning.rpartition(".")[0]
            at = f"{parent}." if parent else ""
            parts = (path[len(at) :].partition(".") for path in self._keys if path.startswith(at))
            names = {f"{at}{name}{'.' if dot else '='}" for name, dot, _ in parts}
            names |= {f"{group}=" for group in self._groups}
        return sorted(name for name in names if name.startswith(beginning))

    def _values(self, key: str, value: str) -> Iterable[str]:
        """Return what a key may be: known names, choices, columns, files, runs, or its default."""
        if key == "from_run":
            return runs_beginning(value, self._outputs)
        if key.endswith("path"):
            return _files(value)
        if key in _NAMES and ":" not in value:
            return _NAMES[key]
        if key.rpartition(".")[2] in _COLUMNS and self._table:
            return _columns(self._table, value)
        if key not in self._keys:
            return []
        setting = self._keys[key]
        names = [*(self._known_names(key) or setting.choices)]
        defaults = [one for one in [setting.default] if one not in ("", "null", "must be given")]
        if setting.type.startswith("list"):
            return [*(f"[{one}" for one in names), *defaults]
        return names or defaults

    def _known_names(self, key: str) -> Iterable[str]:
        """Return the names that `target.name` and `target.id` may be, by the kind of target."""
        if key not in ("target.name", "target.id"):
            return ()
        from kanrun.targets import functions as targets
        from kanrun.targets.table_targets import BUNDLED

        known: dict[str, Iterable[str]] = {
            "named": targets.NAMED,
            "special": targets.SPECIAL,
            "bundled": BUNDLED,
            "feynman": targets.feynman_formulas(),
        }
        kind = next((one for one in known if f"target={one}" in self._kinds), "")
        return known.get(kind, ())


def _kind(group: str, choice: str) -> str:
    """Return the kind of a choice, which its file names as schema unless both have one name."""
    file = Path(kanrun.conf.__path__[0], group, f"{choice}.yaml")
    if group not in GROUPS or choice in GROUPS[group] or not file.is_file():
        return choice
    schema = re.search(rf"/schema/{group}/(\w+)@", file.read_text(encoding="utf-8"))
    return schema[1] if schema else choice


def _columns(path: str, value: str) -> list[str]:
    """Return the columns of a table, each after what is typed before it, as in [a,b."""
    from kanrun.targets.table_files import column_names

    before = value[: max(value.rfind(mark) for mark in ",[{:") + 1]
    written = [part.partition(":")[0].strip() for part in before.lstrip("[{").split(",")]
    with contextlib.suppress(KanrunError, OSError):
        return [f"{before}{name}" for name in column_names(path) if name not in written]
    return []


def _files(beginning: str) -> list[str]:
    """Return the files and folders that begin so, folders with a slash."""
    folder, slash, name = beginning.rpartition("/")
    place = Path(os.path.expanduser(folder + slash or "."))
    with contextlib.suppress(OSError):
        return [
            f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
            for path in sorted(place.iterdir())
            if path.name.startswith(name) and path.name.startswith(".") <= name.startswith(".")
        ]
    return []


def _outputs(ctx: Any) -> Path:
    return Path(ctx.params.get("outputs") or os.environ.get("KANRUN_OUTPUTS") or "outputs")


def _bash_words() -> list[str]:
    """Return the words typed in bash, the last one incomplete; [] in other shells."""
    shell = os.environ.get("_KANRUN_COMPLETE", "")
    if "COMP_WORDS" not in os.environ or not shell.endswith("bash"):
        return []
    pieces = os.environ["COMP_WORDS"].split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    words: list[str] = []
    for piece in pieces:
        if words and (piece == "=" or words[-1].endswith("=")):
            words[-1] += piece
        else:
            words.append(piece)
    return words
