"""TAB completion: groups, choices, settings and values of overrides, columns of the table at hand, and runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from kanrun.config import EXPERIMENTS
from kanrun.config.keys import listed_values
from kanrun.config.rules import MISSING
from kanrun.errors import KanrunError

_COLUMNS = (
    "inputs",
    "outputs",
    "exclude",
    "categorical_columns",
    "columns",
    "weight_column",
    "split",
    "monotone",
    "units",
)
_RUNS = ("from_run",)
#: Settings that take these names beside others.
_NAMES = {
    "device": ["auto", "cpu", "cuda", "mps"],
    "order": ["ascending", "descending", "random"],
    "target.split": ["random", "group:", "time:"],
}
_HYDRA = "hydra"


def complete_run(ctx: Any, incomplete: str) -> list[str]:
    """The names of runs, jobs and tags that begin with `incomplete`, the newest first."""
    return runs_beginning(incomplete, _outputs(ctx))


def complete_override(ctx: Any, incomplete: str) -> list[str]:
    """The words that may go on from `incomplete`, for Typer's completion of the OVERRIDES argument."""
    words = [str(word) for word in ctx.params.get("overrides") or ()]
    word, split = incomplete, False
    if typed := _bash_words():
        # bash splits at `=`, so that neither the words nor the incomplete one are whole.
        *words, word = typed
        split = "=" in word
        words = [other for other in words if "=" in other]
    completed = completions(ctx.info_name, words, word, _outputs(ctx))
    cut = word.rindex("=") + 1 if split else 0
    return [whole[cut:] for whole in completed]


def completions(
    command: str, words: Sequence[str], word: str, outputs: Path = Path("outputs")
) -> list[str]:
    """All groups, choices, settings and values that begin with `word`, given the other overrides `words`.

    A single one that ends with `=`, `.`, `/` or `:` is followed by what may come after it, so that the shell
    does not end the word there.
    """
    if command not in EXPERIMENTS:
        return []
    sign = word[: len(word) - len(word.lstrip("+~"))]
    found = _matching(command, words, word[len(sign) :], outputs)
    while (
        len(found) == 1
        and found[0] != word[len(sign) :]
        and found[0].endswith(("=", ".", "/", ":"))
    ):
        following = [
            name for name in _matching(command, words, found[0], outputs) if name != found[0]
        ]
        if not following:
            break
        found = [found[0], *following]
    return [sign + name for name in found]


def runs_beginning(beginning: str, outputs: Path) -> list[str]:
    """Names of runs, and, once a whole name or a tag is begun, of points and tags, the newest first."""
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


def _matching(command: str, words: Sequence[str], beginning: str, outputs: Path) -> list[str]:
    from hydra.types import RunMode

    from kanrun.launch.composing import opened, readable
    from kanrun.launch.quoting import hydra_words
    from kanrun.launch.request import Request
    from kanrun.launch.sentences import CONFIGURATION_ERRORS

    request = Request(command)
    key, equals, value = beginning.partition("=")
    with opened(request) as loader:
        if equals and (choices := _choices(loader, key, request.module)):
            return _begun(beginning, (f"{key}={choice}" for choice in choices))
        groups = [] if equals else _groups(loader, beginning, request.module)
        try:
            before = readable(hydra_words(words, command, multirun=True))
            settings = loader.load_configuration(request.primary, before, RunMode.MULTIRUN)
            if equals:
                values = _values(settings, key, value, outputs)
                return _begun(beginning, (f"{key}={each}" for each in values))
            return _begun(beginning, {*groups, *_keys(settings, beginning)})
        except CONFIGURATION_ERRORS:
            return _begun(beginning, groups)


def _begun(beginning: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in dict.fromkeys(names) if name.startswith(beginning))


def _choices(loader: Any, group: str, module: str) -> list[str]:
    """The names that a group may be set to; `study` stands for the command's own."""
    place = f"study/{module}" if group == "study" else group
    return [name for name in loader.get_group_options(place) if not name.startswith("schema")]


def _groups(loader: Any, beginning: str, module: str) -> list[str]:
    """Groups, with = after them; those of Hydra only once they are begun."""
    parent = beginning.rpartition("/")[0]
    named = [f"{parent}/{name}" if parent else name for name in loader.list_groups(parent)]
    own = [
        name
        for name in named
        if name.partition("/")[0] not in ("schema", _HYDRA) or beginning.startswith("h")
    ]
    return [f"{name}=" for name in own if name != "schema" and _choices(loader, name, module)]


def _keys(settings: Any, beginning: str) -> list[str]:
    """Settings at the path that is begun: `model.hidden=`, or `model.` where there is more beneath."""
    from omegaconf import DictConfig, OmegaConf

    parent = beginning.rpartition(".")[0]
    node = OmegaConf.select(settings, parent, throw_on_missing=False) if parent else settings
    found = []
    for name in map(str, node) if isinstance(node, DictConfig) else ():
        if name == "kind" or (name == _HYDRA and not beginning.startswith("h")):
            continue
        missing = OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name)
        deeper = not missing and isinstance(node[name], DictConfig)
        found.append(f"{parent}.{name}" if parent else name)
        found[-1] += "." if deeper else "="
    return found


def _values(settings: Any, key: str, value: str, outputs: Path) -> list[str]:
    """What a setting may be: names that kanrun knows, choices of its rule, true and false, and its present value."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    if key in _RUNS:
        return runs_beginning(value, outputs)
    if key.endswith("path"):
        return _files(value)
    if key in _NAMES and ":" not in value:
        return _NAMES[key]
    table = OmegaConf.select(settings, "target.path", throw_on_missing=False)
    if key.rpartition(".")[2] in _COLUMNS and table:
        return _columns(str(table), value)
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(settings, parent, throw_on_missing=False) if parent else settings
    if not isinstance(node, DictConfig) or name not in list(
        node
    ):  # in which one without a value counts too
        return []
    present, schema = (
        MISSING if OmegaConf.is_missing(node, name) else node[name],
        OmegaConf.get_type(node),
    )
    ruled = {one.name: listed_values(one) for one in fields(schema)} if is_dataclass(schema) else {}
    names = [*(_known_names(key, schema) or ruled.get(name, ()))]
    if isinstance(present, bool):
        return names or ["true", "false"]
    if isinstance(present, ListConfig):
        choices = [f"[{one}" for one in names]
        return [*choices, str(OmegaConf.to_container(present)).replace(" ", "").replace("'", "")]
    return names or ([] if present is None or present == MISSING else [str(present)])


def _known_names(key: str, schema: Any) -> Iterable[str]:
    """The names that `target.name` and `target.id` may be, by the kind of target."""
    if key not in ("target.name", "target.id", "function.name"):
        return ()
    from kanrun import targets
    from kanrun.config import targets as kinds
    from kanrun.targets.table_targets import BUNDLED

    known: dict[Any, Iterable[str]] = {
        kinds.NamedTarget: targets.NAMED,
        kinds.SpecialTarget: targets.SPECIAL,
        kinds.BundledTarget: BUNDLED,
        kinds.FeynmanTarget: targets.feynman_formulas(),
    }
    return known.get(schema, ())


def _columns(path: str, value: str) -> list[str]:
    """The columns of a table, each after what is written before it: other columns, a bracket, or `time:`."""
    from kanrun.targets.table_reading import column_names

    before = value[: max(value.rfind(mark) for mark in ",[{:") + 1]
    written = [part.partition(":")[0].strip() for part in before.lstrip("[{").split(",")]
    with contextlib.suppress(KanrunError, OSError):
        return [f"{before}{name}" for name in column_names(path) if name not in written]
    return []


def _files(beginning: str) -> list[str]:
    """Files and folders that begin so, folders with a slash."""
    folder, slash, name = beginning.rpartition("/")
    place = Path(os.path.expanduser(folder + slash or "."))
    with contextlib.suppress(OSError):
        there = sorted(place.iterdir())
        return [
            f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
            for path in there
            if path.name.startswith(name)
            and (name.startswith(".") or not path.name.startswith("."))
        ]
    return []


def _outputs(ctx: Any) -> Path:
    return Path(ctx.params.get("outputs") or os.environ.get("KANRUN_OUTPUTS") or "outputs")


def _bash_words() -> list[str]:
    """The words typed so far as the user sees them, the last one incomplete; empty in other shells."""
    if "COMP_WORDS" not in os.environ or not os.environ.get("_KANRUN_COMPLETE", "").endswith(
        "bash"
    ):
        return []
    pieces = os.environ["COMP_WORDS"].split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    words: list[str] = []
    for piece in pieces:
        if words and (piece == "=" or words[-1].endswith("=")):
            words[-1] += piece
        else:
            words.append(piece)
    return words
