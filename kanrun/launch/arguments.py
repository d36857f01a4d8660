"""Arguments of a command as people type them, read once: the values that each key takes.

There is one rule for free text (formulas, paths, names of columns: settings with `free_text=True`).
It is taken as typed, without Hydra's grammar. If the setting is a list or a mapping, `[...]` and
`{...}` hold entries, which are separated by commas outside brackets and quotes. With -m, such
commas, or `choice(...)`, separate values. Quotes around an entry, `null` and `${...}` have their
usual meaning. Hydra's parser reads all other arguments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from kanrun.config.keys import free_text_types
from kanrun.config.registry import EXPERIMENTS, group_of, module_of
from kanrun.errors import UsageError, did_you_mean
from kanrun.runs import find_run

#: Settings of the whole run.
FIXED = ("executor", "max_cpu_seconds", "tracker", "tags", "note")
#: Deeper brackets take Hydra's parser seconds, or end in a RecursionError.
MAX_DEPTH = 50

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CHOICE = re.compile(r"choice\s*\((.*)\)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
_OPENING = re.compile(r"(\\*)\$\{")
_DEEPER = dict.fromkeys("([{", 1) | dict.fromkeys(")]}", -1)
_PAIRS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True)
class Argument:
    """One argument with all the values that it stands for.

    Attributes:
        sign: "", "+", "++" or "~".
        key: Full name of a setting ("model.degree") or of a group ("target").
        is_group: Whether the key is a group, whose value names a choice.
        values: Plain values; one without -m, none after "~".
        texts: The same values as they are typed.
    """

    sign: str
    key: str
    is_group: bool
    values: tuple[Any, ...]
    texts: tuple[str, ...]

    def typed(self, number: int) -> str:
        """Return the argument that gives the value `number` alone."""
        return f"{self.sign}{self.key}" + (f"={self.texts[number]}" if self.texts else "")


class ArgumentReader:
    """Reads the arguments of one command."""

    def __init__(self, command: str, loader: ConfigLoader, outputs: Path, several: bool) -> None:
        self._command, self._loader, self._outputs = command, loader, outputs
        self._several = several  # whether an argument may have several values (-m)
        self._free_text = free_text_types(command)

    def read(self, word: str) -> Argument:
        """Return the argument that `word` is. Raises UsageError."""
        if max(accumulate(_DEEPER.get(letter, 0) for letter in word), default=0) > MAX_DEPTH:
            raise UsageError(f"{word[:60]}... has brackets more than {MAX_DEPTH} deep.")
        whole, equals, text = word.partition("=")
        key = whole.lstrip("+~").strip()
        sign, text = whole[: len(whole) - len(whole.lstrip("+~"))], text.strip()
        if not key or not (equals or sign == "~"):
            raise UsageError(f"{word!r} is not an override; write key=value.")
        _check_hydra(word, key)
        key = full_key(self._command, key)
        argument = self._argument(sign, key, text)
        if len(argument.values) > 1 and key.partition(".")[0] in FIXED:
            raise UsageError(
                f"{key}={text} has several values, but {key} is a setting of the whole run. Give"
                f" one."
            )
        return argument

    def _argument(self, sign: str, key: str, text: str) -> Argument:
        if options := self._options(key):
            return self._group(sign, key, text, options)
        if sign == "~":
            return Argument(sign, key, False, (), ())
        if re.search(r"[/@:]", key):
            raise UsageError(f"there is no key {key}.")
        kind = self._text_type(key)
        if kind is not None:
            return self._text(sign, key, text, kind)
        return self._plain(sign, key, text)

    def _options(self, key: str) -> list[str]:
        place = f"study/{module_of(self._command)}" if key == "study" else key
        if key.startswith("schema") or "@" in key:
            return []
        return self._loader.get_group_options(place)

    def _group(self, sign: str, key: str, text: str, options: Sequence[str]) -> Argument:
        if sign == "~" or (key == "study" and text == "null"):
            return Argument(sign, key, True, *(((None,), (text,)) if text else ((), ())))
        place = f"study/{module_of(self._command)}" if key == "study" else key
        if "/" in text and key == "study":
            text = text.removeprefix(f"{module_of(self._command)}/")
        if not text.startswith("{"):
            values, texts = self._parsed(place, text)
            for each in (
                each for each, value in zip(texts, values, strict=True) if value not in options
            ):
                offer, listed = did_you_mean(each, options, max_names=1), ", ".join(options)
                choices = f"{offer} (choices: {listed})." if offer else f"; choose one of {listed}."
                raise UsageError(f"{key}={each} is not a choice of {key}{choices}")
            return Argument(sign, key, True, values, texts)
        return self._plain(sign, key, text)

    def _plain(self, sign: str, key: str, text: str) -> Argument:
        return Argument(sign, key, False, *self._parsed(key, text))

    def _parsed(self, key: str, text: str) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """Return the values that Hydra reads in `text`, and each as it is typed."""
        word = f"{key}={text}"
        try:
            found = OverridesParser.create(config_loader=self._loader).parse_overrides([word])[0]
        except OverrideParseException as error:
            raise _unreadable(key, text, error) from error
        if not found.is_sweep_override():
            return (found.value(),), (text,)
        if not self._several:
            raise UsageError(
                f"{word} has several values: add -m to run each of them, "
                f"or write a list as {key}=[...]."
            )
        if not found.is_discrete_sweep():
            raise UsageError(f"{word} does not list its values; write range(...) or choice(...).")
        try:
            values = tuple(Override._convert_value(each) for each in found.sweep_iterator())
            return values, tuple(found.sweep_string_iterator())
        except HydraException as error:
            raise UsageError(f"{word} cannot be read: {error}.") from error

    def _text_type(self, key: str) -> str | None:
        """Return the declared type of a key that takes free text, or None.

        The cells of a suite have the keys of the configuration, as in suite.0.target.formula.
        """
        key = re.sub(r"^\w+\.\d+\.", "", key)
        if key in self._free_text:
            return self._free_text[key]
        parent = next((one for one in self._free_text if key.startswith(f"{one}.")), None)
        if parent is None:
            return None
        return "text" if self._free_text[parent].startswith("mapping") else "any"

    def _text(self, sign: str, key: str, text: str, kind: str) -> Argument:
        parts = [text]
        if self._several and (key not in FIXED or kind.startswith("list")):
            choice = _CHOICE.fullmatch(text)
            parts = split(choice[1] if choice else text) or [""]
        if key == "from_run":
            parts = [self._run_folder(part) for part in parts]
        return Argument(
            sign, key, False, tuple(read_text(part, kind, key) for part in parts), tuple(parts)
        )

    def _run_folder(self, text: str) -> str:
        """Return the absolute path of the run that `text` names: what `latest` is may change."""
        name = text[1:-1] if _QUOTED.fullmatch(text) else text
        if not name or name.lower() == "null" or "${" in name:
            return text
        return os.path.abspath(find_run(name, self._outputs, one=True).address)


def full_key(command: str, word: str) -> str:
    """Return the key of an argument with its group, such as model.degree for degree=3."""
    key = word.partition("=")[0].lstrip("+~").strip()
    group = group_of(EXPERIMENTS[command], key)
    return f"{group}.{key}" if group else key


def read_text(text: str, kind: str, key: str) -> Any:
    """Return the value that free text stands for, given the type in words of its setting `key`.

    Raises UsageError for brackets that do not match, and for a list without brackets.
    """
    if text.lower() == "null":
        return None
    if kind.startswith("text"):
        return _string(text)
    if not kind.startswith("list of text"):
        return _structure(text, key, inside=False)
    listed = text.startswith("[") and text.endswith("]")
    parts = split(text[1:-1] if listed else text)
    if not listed and len(parts) > 1:
        raise UsageError(f"{key}={text} has several values; write a list as {key}=[...].")
    return [_string(part) for part in parts]


def _structure(text: str, key: str, inside: bool = True) -> Any:
    """Return lists and mappings with text in them; `inside` them, numbers and null are read too."""
    if text[:1] in ("[", "{") and _split(text, nested=True) is None:
        raise UsageError(f"{key}={text} cannot be read: a bracket or quote is missing.")
    if text.startswith("[") and text.endswith("]"):
        return [_structure(part, key) for part in split(text[1:-1])]
    if text.startswith("{") and text.endswith("}"):
        pairs = [
            _split(part, nested=True, mark=":", most=1) or [part] for part in split(text[1:-1])
        ]
        if any(len(pair) != 2 for pair in pairs):
            raise UsageError(f"{key}={text} must be a mapping, such as {{name: value}}.")
        return {_string(name): _structure(value, key) for name, value in pairs}
    if inside and text.lower() == "null":
        return None
    if inside and _NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?[\d_]+", text) else float(text)
    return _string(text)


def _string(text: str) -> str:
    """Return text without its quotes; `${` is escaped unless it begins an interpolation."""
    if _QUOTED.fullmatch(text):
        text = re.sub(rf"\\([\\{text[0]}])", r"\1", text[1:-1])
    if "${" in text:
        try:
            parse(text)
        except GrammarParseError:
            return _OPENING.sub(lambda match: match[1] * 2 + r"\${", text)
    return text


def split(text: str) -> list[str]:
    """Return the parts of `text` between commas outside quotes and brackets, stripped.

    Brackets that do not match are letters like others: then every comma outside quotes separates.
    """
    if not text.strip():
        return []
    return _split(text, nested=True) or _split(text, nested=False) or [text.strip()]


def _split(text: str, nested: bool, mark: str = ",", most: int = -1) -> list[str] | None:
    """Return the parts between `most` of the marks, or None if quotes or brackets do not match."""
    parts: list[str] = []
    depth: list[str] = []
    start = at = 0
    while at < len(text):
        before = text[start:at].strip()
        begins = not before or before.endswith(":")
        quoted = _QUOTED.match(text, at) if begins or depth else None
        letter = text[at]
        if quoted is None and letter == mark and not depth and len(parts) != most:
            parts.append(text[start:at].strip())
            start = at + 1
        elif quoted is None and nested and letter in "([{":
            depth.append(letter)
        elif (
            quoted is None
            and nested
            and letter in ")]}"
            and (not depth or depth.pop() != _PAIRS[letter])
        ):
            return None
        at = quoted.end() if quoted else at + 1
    return None if depth else [*parts, text[start:].strip()]


def _check_hydra(word: str, key: str) -> None:
    """Raise UsageError for settings of Hydra itself: kanrun only composes with it."""
    if key.partition("@")[0].replace("/", ".").partition(".")[0] != "hydra":
        return
    if key.startswith(("hydra.run", "hydra.sweep.", "hydra.output_subdir")):
        remedy = "choose where run folders are made with --outputs DIR"
    elif key == "hydra/launcher" or key.startswith("hydra.launcher"):
        remedy = "choose where trainings run with executor=serial, executor=local or executor=dask"
    else:
        remedy = "kanrun composes configurations with Hydra, and has no hydra.* settings"
    raise UsageError(f"{word} is not available: {remedy}.")


def _unreadable(key: str, text: str, error: OverrideParseException) -> UsageError:
    found = re.search(r"(Unknown function '[^']*'|\w+ while evaluating [^\n]*)", error.message)
    if found:
        return UsageError(
            f"{key}={text} cannot be read ({found[1]}); for text write {key}='{text}'."
        )
    return UsageError(
        f"{key}={text} cannot be read: a bracket, quote or comma is missing or a character needs "
        f"quotes; inside the quotes of the shell write {key}='...'."
    )
