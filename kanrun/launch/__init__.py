"""Conversion of command-line arguments to a study, which `kanrun.study` runs.

This is the only package that imports Hydra. Hydra composes the configuration files selected by the
choices of groups, once for each combination of choices (`composition.py`). All other arguments
(`arguments.py`) are then set in the result as plain values, and `kanrun.config.conversion` converts
these to typed settings.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kanrun.config import EXPERIMENTS, GROUPS, keys_of
from kanrun.config.conversion import (
    MissingSettings,
    holder_of,
    merged,
    resolve_interpolations,
    typed_config,
)
from kanrun.config.registry import implied_choices, module_of
from kanrun.errors import UsageError
from kanrun.launch.arguments import Argument, ArgumentReader, full_key, no_key_error, split
from kanrun.launch.composition import Source, compose_files
from kanrun.runs import Point, Run
from kanrun.study import check_size
from kanrun.study.studies import Study

__all__ = ["Source", "compose", "compose_again", "shown_config"]

#: Options of the command line that name the source of the configuration.
_FOLDERS = {
    **dict.fromkeys(("--config-dir", "-cd"), "config_dir"),
    **dict.fromkeys(("--config-path", "-cp"), "config_path"),
    **dict.fromkeys(("--config-name", "-cn"), "config_name"),
}


def compose(
    source: Source, arguments: Sequence[str], *, several: bool = False, argv: Sequence[str] = ()
) -> Study:
    """Return the study that a command line describes: its points and their configurations.

    Args:
        source: Sources of the configuration.
        arguments: Arguments as typed: key=value, group=choice, +key=value, ~key.
        several: Whether arguments may have several values (-m); each combination is then a point.
        argv: The whole command line, which is recorded with the run.

    Raises:
        UsageError: If an argument or a file is invalid.
    """
    read = ArgumentReader(source, several).read_all(arguments)
    check_size(math.prod(map(len, read)))
    keys = [alternatives[0].key for alternatives in read if alternatives[0].sign != "~"]
    swept = {alternatives[0].key for alternatives in read if len(alternatives) > 1}
    bases: dict[tuple[str, ...], int] = {}
    composed = []
    points = []
    # For each composed configuration, the values from files that arguments replaced, by key.
    replaced: list[dict[str, Any]] = []
    for number, chosen in enumerate(itertools.product(*read)):
        groups = {argument.key: argument for argument in chosen if argument.is_group}
        choices = {name: argument.text or "" for name, argument in groups.items()}
        implied = implied_choices(EXPERIMENTS[source.command], choices, keys)
        key = (*implied, *map(str, groups.values()))
        if key not in bases:
            bases[key] = len(bases)
            settings = [argument for argument in chosen if not argument.is_group]
            plain = compose_files(source, key, [argument.key for argument in settings])
            there = {
                argument.key: _set_argument(source.command, plain, argument)
                for argument in settings
            }
            _check_run(source, plain, chosen)
            replaced.append(there)
            composed.append(plain)
        before = replaced[bases[key]]
        values = {
            argument.key: _new_value(source.command, before.get(argument.key), argument)
            for argument in chosen
            if argument.key in swept
        }
        points.append(Point(number, (*implied, *map(str, chosen)), values, bases[key]))
    return Study(source.command, tuple(argv), tuple(composed), tuple(points))


def _check_run(source: Source, plain: Mapping[str, Any], chosen: Sequence[Argument]) -> None:
    """Raise UsageError if a target is set together with from_run, because the run has a target."""
    if not plain.get("from_run"):
        return
    default = compose_files(source, (), ())
    for name in ("target", "sampling", "suite"):
        if plain[name] != default[name]:
            named = {argument.key.partition(".")[0]: str(argument) for argument in chosen}
            word = named.get(name) or named.get("study", name)
            raise UsageError(
                f"{word} has no effect next to from_run: the target and its points are those of "
                f"the run. Leave out {word} or from_run."
            )


def shown_config(study: Study, resolve: bool) -> str:
    """Return the first configuration of a study as YAML, with interpolations resolved if `resolve`.

    Raises UsageError if the configuration is invalid.
    """
    plain = dict(study.bases[0])
    with contextlib.suppress(MissingSettings):
        typed_config(study.command, plain)
    return OmegaConf.to_yaml(OmegaConf.create(resolve_interpolations(plain) if resolve else plain))


def compose_again(run: Run, arguments: Sequence[str], outputs: Path) -> Study:
    """Return the study of a recorded run, changed by `arguments`.

    `outputs` is the folder of runs. Raises UsageError if an argument or a file is invalid.
    """
    command = run.manifest.command
    argv = run.manifest.argv
    replaced = {full_key(command, word) for word in arguments}
    several = run.has_points
    kept = [
        key + ",".join(f"'{text}'" if several and len(split(text)) > 1 else text for text in texts)
        for key, texts in run.values_by_key.items()
        if full_key(command, key) not in replaced
    ]
    options = itertools.pairwise(argv)
    folders: dict[str, Any] = {_FOLDERS[text]: value for text, value in options if text in _FOLDERS}
    source = Source(command, outputs, **folders)
    argv = ("kanrun", *sys.argv[1:])
    return compose(source, [*kept, *arguments], several=several, argv=argv)


def _set_argument(command: str, plain: dict[str, Any], argument: Argument) -> Any:
    """Apply an argument to the configuration `plain`: set its value, or for ~key remove the key.

    Return the previous value. Raises UsageError if this is impossible. Keys within a group are
    checked later, with the types, in `kanrun.config.conversion`.
    """
    key = argument.key
    sign = argument.sign
    first, _, rest = key.partition(".")
    if rest == "kind" and first in GROUPS:
        raise UsageError(
            f"{argument} cannot be set. Write {first}=NAME, or in a file `override /{first}: NAME` "
            "among its defaults."
        )
    paths = {known.path for known in keys_of(command) if known.rule != "group"}
    try:
        holder, last = holder_of(plain, key)
        there = holder[last]
    except (IndexError, ValueError) as error:
        raise UsageError(
            f"{key} is not an entry of the list; the first entry has the number 0."
        ) from error
    except (KeyError, TypeError):
        there = None
        if sign == "~":
            raise no_key_error(command, key) from None
    if sign == "~":
        if key in paths:
            raise UsageError(f"{key} cannot be removed; set it to another value.")
        del holder[last]
        return there
    if sign == "+" and there is not None and not isinstance(there, dict | list):
        raise UsageError(f"{key} exists already; leave out the +.")
    holder, last = holder_of(plain, key, make=True)
    holder[last] = _new_value(command, there, argument)
    return there


def _new_value(command: str, there: Any, argument: Argument) -> Any:
    """Return the new value of a setting, given its present value `there`.

    Mappings are merged, except that the argument `{}` empties a mapping.
    """
    if argument.value == {} and argument.key in {known.path for known in keys_of(command)}:
        return {}
    return merged(there, argument.value)
