"""Conversion of command-line arguments to a study, which `kanrun.study` runs.

This is the only package that imports Hydra. Hydra composes the configuration files selected by the
choices of groups, once for each combination of choices (`composition.py`). All other arguments are
then set in the result as plain values, and `kanrun.config.rules` converts these to typed settings.

Free text, such as formulas, paths and column names (settings with `free_text`), is taken as typed,
without Hydra's grammar. If the setting is a list or a mapping, `[...]` and `{...}` contain its
entries, separated by commas outside brackets and quotes. With -m, such commas, or `choice(...)`,
separate several values of the setting. Quotes around an entry, `null` and `${...}` have their usual
meaning. Hydra's parser reads all other arguments.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from kanrun.config import EXPERIMENTS, GROUPS, groups_of, keys_of, settings_of
from kanrun.config.registry import group_of, implied_choices, module_of
from kanrun.config.rules import (
    MissingSettings,
    holder_of,
    merged,
    resolve_interpolations,
    typed_config,
)
from kanrun.errors import UsageError, closest_names, did_you_mean
from kanrun.launch.composition import Source, compose_files
from kanrun.runs import Point, Run, find_run
from kanrun.study import check_size
from kanrun.study.studies import Study

__all__ = ["Source", "compose", "compose_again", "shown_config"]

#: Options of the command line that name the source of the configuration.
_FOLDERS = {
    **dict.fromkeys(("--config-dir", "-cd"), "config_dir"),
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
    known = [word for word in kept if full_key(command, word) == "scheduler"]
    if known and "n_jobs" not in replaced:
        raise UsageError(
            f"{run.name} ran with {known[0]}, which could run code here; add scheduler=ADDRESS or "
            "n_jobs=N."
        )
    kept = [word for word in kept if word not in known]
    options = itertools.pairwise(argv)
    folders: dict[str, Any] = {_FOLDERS[text]: value for text, value in options if text in _FOLDERS}
    source = Source(command, outputs, **folders)
    argv = ("kanrun", *sys.argv[1:])
    return compose(source, [*kept, *arguments], several=several, argv=argv)


def _set_argument(command: str, plain: dict[str, Any], argument: Argument) -> Any:
    """Apply an argument to the configuration `plain`: set its value, or for ~key remove the key.

    Return the previous value. Raises UsageError if this is impossible. Keys within a group are
    checked later, with the types, in `kanrun.config.rules`.
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


#: Settings of the whole run, which cannot have several values in a sweep.
FIXED = ("n_jobs", "scheduler", "max_cpu_seconds", "tracker", "tags", "note")

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CHOICE = re.compile(r"choice\s*\((.*)\)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_DEEPER = dict.fromkeys(_PAIRS, 1) | dict.fromkeys(_PAIRS.values(), -1)


@dataclass(frozen=True)
class Argument:
    """One argument with one value; str() returns it as typed, but with the full key.

    Attributes:
        sign: "", "+", "++" or "~".
        key: Full name of a setting ("model.degree") or of a group ("target").
        is_group: Whether the key is a group; its value is then the name of a choice.
        text: The value as typed; None if there is no value (after "~").
        value: The value as plain data.
    """

    sign: str
    key: str
    is_group: bool = False
    text: str | None = None
    value: Any = None

    def __str__(self) -> str:
        return f"{self.sign}{self.key}" + ("" if self.text is None else f"={self.text}")


class ArgumentReader:
    """Parser of the arguments of one command.

    Args:
        source: The command, and the folders in which the files of its configuration groups are
            looked up.
        several: Whether an argument may have several values (-m).
    """

    def __init__(self, source: Source, several: bool = False) -> None:
        self._source = source
        self._command = source.command
        self._several = several

    def read_all(self, arguments: Sequence[str]) -> list[list[Argument]]:
        """Parse all arguments; return, for each, one `Argument` per value.

        If a setting is given twice, both values are returned, and the last one will be used. Raises
        UsageError if an argument is invalid, or if a group or a swept setting is given more than
        once.
        """
        read = [self.read(word) for word in arguments]
        counts = Counter(values[0].key for values in read)
        for values in read:
            key = values[0].key
            if counts[key] > 1 and (values[0].is_group or len(values) > 1):
                raise UsageError(f"{key} is given {counts[key]} times; give it once.")
        return read

    def read(self, word: str) -> list[Argument]:
        """Parse one argument; return one `Argument` per value. Raises UsageError if invalid."""
        deepest = 50  # with more brackets, Hydra's parser takes seconds or raises RecursionError
        if max(accumulate(_DEEPER.get(letter, 0) for letter in word), default=0) > deepest:
            raise UsageError(f"{word[:60]}... has brackets more than {deepest} deep.")
        if (unnamed := EXPERIMENTS[self._command].argument) and not re.search("[=~]", word):
            word = f"{unnamed}={word}"
        whole, equals, text = word.partition("=")
        key = whole.lstrip("+~").strip()
        text = text.strip()
        sign = whole[: len(whole) - len(whole.lstrip("+~"))]
        if not key or not (equals or sign == "~"):
            raise UsageError(
                f"{word!r} is not an override; {self._table_hint(word) or 'write key=value'}."
            )
        if re.match(r"hydra\b", key):
            raise UsageError(
                f"{word} is not available: kanrun has no hydra.* settings. Choose the folder of "
                "runs with --outputs DIR, and where trainings run with n_jobs=N or "
                "scheduler=ADDRESS."
            )
        key = full_key(self._command, key)
        values = self._arguments(sign, key, text)
        if not values:
            raise UsageError(f"{key}={text} has no values; give at least one.")
        if len(values) > 1 and key.partition(".")[0] in FIXED:
            raise UsageError(
                f"{key}={text} has several values, but {key} is a setting of the whole run. Give"
                " one."
            )
        return values

    def _table_hint(self, word: str) -> str:
        """Return advice on how to name a table if `word` is the name of a table file, or ""."""
        from kanrun.targets.table_files import is_table

        groups = dict(groups_of(self._command))
        settings = EXPERIMENTS[self._command].settings
        if not is_table(Path(word)) or "target" not in settings_of(settings):
            return ""
        return f"write target.path={word}" + " target.outputs=COLUMN" * ("target" in groups)

    def _arguments(self, sign: str, key: str, text: str) -> list[Argument]:
        file = module_of(self._command)
        place = f"study/{file}" if key == "study" else key
        options = [] if re.search("[@:]", key) else self._source.choices(place)
        if options:
            text = text.removeprefix(f"{file}/")
        if sign == "~" or (key == "study" and text == "null"):
            return [Argument(sign, key, bool(options), text if options and text else None)]
        if not options:
            if re.search(r"[/@:]", key):
                raise UsageError(f"there is no key {key}.")
            if key.partition(".")[0] not in settings_of(EXPERIMENTS[self._command].settings):
                raise no_key_error(self._command, key)
            return [Argument(sign, key, False, *pair) for pair in self._values(key, text)]
        pairs = self._parsed(place, text, options)
        is_group = not text.startswith("{")
        for choice, _ in pairs if is_group else ():
            self.check_choice(key, choice, options)
        return [Argument(sign, key, is_group, *pair) for pair in pairs]

    def check_choice(self, group: str, name: str, options: Sequence[str]) -> None:
        """Raise UsageError if `name` is not one of the `options` of a group."""
        if name in options:
            return
        if group == "target" and (hint := self._table_hint(name)):
            raise UsageError(f"{group}={name} is not a choice of {group}; {hint}.")
        offer = did_you_mean(name, options, max_names=1)
        listed = ", ".join(options)
        choices = f"{offer} (choices: {listed})." if offer else f"; choose one of {listed}."
        raise UsageError(f"{group}={name} is not a choice of {group}{choices}")

    def _parsed(self, key: str, text: str, options: Sequence[str] = ()) -> list[tuple[str, Any]]:
        """Parse `text` by Hydra's grammar; return each value as text and as plain data.

        `glob(...)` selects among the `options`.
        """
        word = f"{key}={text}"
        override = _override(word)
        if not override.is_sweep_override():
            return [(text, override.value())]
        if not self._several:
            raise UsageError(
                f"{word} has several values: add -m to run each of them, "
                f"or write a list as {key}=[...]."
            )
        if not override.is_discrete_sweep():
            raise UsageError(f"{word} is not a list of values; write range(...) or choice(...).")
        if isinstance(pattern := override.value(), Glob):
            return [(name, name) for name in pattern.filter(list(options))]
        try:
            texts = list(override.sweep_string_iterator())
            values = [
                value
                if isinstance(value, int | float)
                else _override(f"{key}={value_text}").value()
                for value_text, value in zip(texts, override.sweep_iterator(), strict=True)
            ]
        except HydraException as error:
            raise UsageError(f"{word} cannot be read: {error}.") from error
        return list(zip(texts, values, strict=True))

    def _values(self, key: str, text: str) -> list[tuple[str, Any]]:
        """Return the values of a setting, each as typed and as plain data."""
        # The cells of a suite have the keys of the configuration, as in suite.0.target.formula.
        inner_key = re.sub(r"^\w+\.\d+\.", "", key)
        kinds = [
            known.free_text
            if known.path == inner_key
            else "text"
            if "mapping" in known.rule
            else "any"
            for known in keys_of(self._command)
            if known.free_text and f"{inner_key}.".startswith(f"{known.path}.")
        ]
        if not kinds:
            try:
                return self._parsed(key, text)
            except UsageError:
                paths = [known.path for known in keys_of(self._command) if known.rule != "group"]
                if any(f"{inner_key}.".startswith(f"{path}.") for path in paths):
                    raise
                return [(text, text)]  # the check of the configuration names the unknown key
        kind = kinds[0]
        parts = [text]
        if self._several and (key not in FIXED or kind == "list"):
            choice = _CHOICE.fullmatch(text)
            parts = split(choice[1] if choice else text) or [""]
            if not any(parts):  # the comma itself, as in target.read.decimal=,
                parts = [text]
        for number, part in enumerate(parts if key == "from_run" else ()):
            name = part[1:-1] if _QUOTED.fullmatch(part) else part
            if name.lower() != "null" and "${" not in name:
                # Use the absolute path, because `latest` may soon name another run.
                run = find_run(name, self._source.outputs, one=True)
                parts[number] = os.path.abspath(run.address)
        return [(part, read_text(part, kind, key)) for part in parts]


def _override(word: str) -> Any:
    """Parse an argument by Hydra's grammar. Raises UsageError if it is invalid."""
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except OverrideParseException as error:
        key = word.partition("=")[0]
        raise UsageError(
            f"{word} cannot be read: a bracket, quote or comma is missing, or text needs "
            f"quotes. Inside the quotes of the shell write {key}='...'."
        ) from error


def no_key_error(command: str, key: str) -> UsageError:
    """Return the error for a key that the command does not have, with a suggestion."""
    paths = [*dict(groups_of(command)), *(known.path for known in keys_of(command))]
    # The user may have meant the key of a group and left out the group.
    names = {path.rpartition(".")[2]: path for path in paths} | {path: path for path in paths}
    near = closest_names(key, names, 1, 0.75)  # only misspellings
    offer = f"; did you mean {names[near[0]]}?" if near else ""
    return UsageError(f"there is no key {key}{offer} (see kanrun keys --command {command}).")


def full_key(command: str, word: str) -> str:
    """Return the key of an argument with its group, such as model.degree for degree=3."""
    key = word.partition("=")[0].lstrip("+~").strip()
    group = group_of(EXPERIMENTS[command], key)
    return f"{group}.{key}" if group else key


def read_text(text: str, kind: str, key: str) -> Any:
    """Return the value that free text stands for.

    Args:
        text: The text as typed.
        kind: How the text is read: as "text", "list" (of text) or "structure".
        key: Name of the setting, for error messages.

    Raises:
        UsageError: If brackets do not match, or a list has no brackets.
    """
    if text.lower() == "null":
        return None
    if kind == "text":
        return _string(text)
    if kind != "list":
        return _structure(text, key, inside=False)
    listed = text.startswith("[") and text.endswith("]")
    parts = split(text[1:-1] if listed else text)
    if not listed and len(parts) > 1:
        raise UsageError(f"{key}={text} has several values; write a list as {key}=[...].")
    return [_string(part) for part in parts]


def _structure(text: str, key: str, inside: bool = True) -> Any:
    """Parse free text that may be a list or a mapping.

    `inside` says that `text` is an entry of a list or mapping. Numbers and null are recognised only
    there.
    """
    if text[:1] in ("[", "{") and _split(text) is None:
        raise UsageError(f"{key}={text} cannot be read: a bracket or quote is missing.")
    if text.startswith("[") and text.endswith("]"):
        return [_structure(part, key) for part in split(text[1:-1])]
    if text.startswith("{") and text.endswith("}"):
        pairs = [_split(part, mark=":", most=1) or [part] for part in split(text[1:-1])]
        if any(len(pair) != 2 for pair in pairs):
            raise UsageError(f"{key}={text} must be a mapping, such as {{name: value}}.")
        return {_string(name): _structure(value, key) for name, value in pairs}
    if inside and text.lower() == "null":
        return None
    if inside and _NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".eE") else int(text)
    return _string(text)


def _string(text: str) -> str:
    """Return text without surrounding quotes; escape `${` unless it begins an interpolation."""
    if _QUOTED.fullmatch(text):
        text = re.sub(rf"\\([\\{text[0]}])", r"\1", text[1:-1])
    if "${" in text:
        try:
            parse(text)
        except GrammarParseError:
            return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    return text


def split(text: str) -> list[str]:
    """Split `text` at commas outside quotes and brackets, and strip the parts.

    If brackets do not match, they are ignored, and `text` is split at all commas outside quotes.
    """
    if not text.strip():
        return []
    return _split(text) or _split(text, nested=False) or [text.strip()]


def _split(text: str, nested: bool = True, mark: str = ",", most: int = -1) -> list[str] | None:
    """Split `text` at up to `most` marks (-1: all) outside quotes and, if `nested`, brackets.

    Return None if brackets do not match. A quoted text can begin at the start of a part, after a
    colon, and anywhere in brackets.
    """
    parts: list[str] = []
    closing: list[str] = []
    start = at = 0
    while at < len(text):
        before = text[start:at].strip()
        letter = text[at]
        if (closing or not before or before.endswith(":")) and (quoted := _QUOTED.match(text, at)):
            at = quoted.end()
            continue
        if letter == mark and not closing and len(parts) != most:
            parts.append(before)
            start = at + 1
        elif nested and letter in _PAIRS:
            closing.append(_PAIRS[letter])
        elif nested and letter in _PAIRS.values() and (not closing or closing.pop() != letter):
            return None
        at += 1
    return None if closing else [*parts, text[start:].strip()]
