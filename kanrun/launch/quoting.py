"""Overrides as people type them, as Hydra's grammar wants them.

The shell takes quotes away, and Hydra's grammar has its own meaning for the brackets, commas, spaces and signs
that formulas, file names and column names are full of. The values of `*.formula`, `*.path`, `*.inputs`,
`*.outputs`, `*.columns`, `*.domain`, `custom_candidates.*`, `candidates`, `from_run`, `note`, `tags` and other names of
columns are therefore quoted here.
Values that are quoted already stay as they are, and so do null and interpolations `${...}`. With -m, commas at
the top level separate the values of a sweep, as for any other key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from kanrun.config.registry import module_of
from kanrun.errors import UsageError

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CHOICE = re.compile(r"choice\s*\((.*)\)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|null", re.IGNORECASE)
_OPENING = re.compile(r"(\\*)\$\{")
_DEEPEST = 50
_DEEPER = dict.fromkeys("([{", 1) | dict.fromkeys(")]}", -1)
_PAIRS = {")": "(", "]": "[", "}": "{"}


def hydra_words(words: Sequence[str], command: str, multirun: bool) -> list[str]:
    """The overrides of a command in Hydra's grammar; `study=NAME` becomes `study=<command>/NAME`.

    Raises UsageError for one with brackets so deep that reading it would take seconds or end in a RecursionError.
    """
    for word in words:
        if max(accumulate(_DEEPER.get(letter, 0) for letter in word), default=0) > _DEEPEST:
            raise UsageError(f"{word[:60]}... has brackets more than {_DEEPEST} deep.")
    sweeping = multirun or any(word.lower() == "hydra.mode=multirun" for word in words)
    return [_hydra_word(word, module_of(command), sweeping) for word in words]


def _hydra_word(word: str, module: str, sweeping: bool) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    if not equals or not value.strip() or name.startswith(("hydra.", "hydra/")):
        return word
    if name == "study":
        return f"{key}={_each(value, lambda text: _study(text, module), sweeping=True)}"
    if name.startswith(_OWN):
        key = (
            key if key.startswith(("+", "~")) else f"++{key}"
        )  # new entries need no sign of their own
        return f"{key}={_each(value, _formula, sweeping)}"
    if name in _BY_NAME:
        return f"{key if key.startswith(('+', '~')) else f'++{key}'}={_each(value, _mapping, sweeping)}"
    quote = _QUOTERS.get(name.rpartition(".")[2]) if "." in name else _TOP.get(name)
    return word if quote is None else f"{key}={_each(value, quote, sweeping)}"


def _each(value: str, quote: Callable[[str], str], sweeping: bool) -> str:
    """`value` quoted, or each value of the sweep that it is."""
    value = value.strip()
    if value.lower() == "null":
        return value
    # Hydra drops the quotes of what is inside `choice(...)`, so that is written as the values alone.
    choice = _CHOICE.fullmatch(value)
    parts = split(choice[1]) if choice else split(value) if sweeping else [value]
    return ",".join(quote(part) for part in parts)


def _formula(value: str) -> str:
    """One formula, or a list of them in brackets."""
    if _in_brackets(value):
        return f"[{','.join(_string(part) for part in split(value[1:-1]))}]"
    return _string(value)


def _string(value: str) -> str:
    """Text, letter by letter unless it is quoted or has an interpolation."""
    if _QUOTED.fullmatch(value):
        return value
    return quoted(value) if _has_interpolation(value) else literal(value)


def _columns(value: str) -> str:
    """A list of column names; a single name needs no brackets."""
    if _has_interpolation(value) and value.startswith("${"):
        return value
    inner = value[1:-1] if _in_brackets(value) else value
    if not _in_brackets(value) and len(split(value)) > 1:
        return value  # Hydra's refusal tells how to write a list
    return f"[{','.join(_string(part) for part in split(inner))}]"


def _domain(value: str) -> str:
    """Nested lists of numbers, with constants such as 0.4*pi as strings, or such lists by name."""
    if value.startswith("{"):
        return _mapping(value, _domain)
    if value.startswith("[") and _split(value, nested=True) is None:
        return value  # Hydra's refusal tells that a bracket is missing
    if _in_brackets(value):
        return f"[{','.join(_domain(part) for part in split(value[1:-1]))}]"
    return value if _NUMBER.fullmatch(value) or _has_interpolation(value) else _string(value)


def _mapping(value: str, quote: Callable[[str], str] = _string) -> str:
    """Values by name in braces, `{age: increasing}`."""
    if not (value.startswith("{") and value.endswith("}")):
        return value
    pairs = [part.partition(":") for part in split(value[1:-1])]
    if any(_QUOTED.match(name.strip()) for name, _, _ in pairs):
        return value  # Hydra's refusal tells that names take no quotes
    names = [re.sub(r"[\\()\[\]{}:=,]", r"\\\g<0>", name.strip()) for name, _, _ in pairs]
    entries = zip(names, pairs, strict=True)
    return f"{{{', '.join(f'{name}: {quote(text.strip())}' for name, (_, _, text) in entries)}}}"


def _study(value: str, module: str) -> str:
    plain = re.fullmatch(r"[\w-]+", value) is not None and value.lower() != "null"
    return f"{module}/{value}" if plain else value


_QUOTERS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("formula", "formulas"), _formula),
    **dict.fromkeys(("path", "test_path", "weight_column", "split"), _string),
    **dict.fromkeys(("inputs", "outputs", "columns", "exclude", "categorical_columns"), _columns),
    "domain": _domain,
}
_TOP: dict[str, Callable[[str], str]] = {
    "candidates": _columns,
    "from_run": _string,
    "note": _string,
    "tags": _columns,
}
_OWN = "custom_candidates."
_BY_NAME = (
    "model.monotone",
    "model.curvature",
    "target.units",
)  # mappings, whose new keys need no sign of their own


def split(text: str) -> list[str]:
    """The parts of `text` between commas that lie outside quotes and brackets, without outer spaces.

    Brackets that do not match are letters like others: then every comma outside quotes separates.
    """
    if not text.strip():
        return []
    return _split(text, nested=True) or _split(text, nested=False) or [text.strip()]


def _split(text: str, nested: bool) -> list[str] | None:
    parts: list[str] = []
    depth: list[str] = []
    start = at = 0
    while at < len(text):
        opens_part = not text[start:at].strip()
        quoted_part = _QUOTED.match(text, at) if opens_part or depth else None
        if quoted_part:
            at = quoted_part.end()
            continue
        letter = text[at]
        if letter == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
        elif nested and letter in "([{":
            depth.append(letter)
        elif nested and letter in ")]}" and (not depth or depth.pop() != _PAIRS[letter]):
            return None
        at += 1
    return None if depth else [*parts, text[start:].strip()]


def _in_brackets(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def _has_interpolation(value: str) -> bool:
    """Whether `${` in `value` begins interpolations that OmegaConf can read."""
    if "${" not in value:
        return False
    try:
        parse(value)
    except GrammarParseError:
        return False
    return True


def quoted(text: str) -> str:
    """`text` in quotes, as Hydra reads it back; an interpolation `${...}` in it stays one."""
    quote = Quote.double if "'" in text and '"' not in text else Quote.single
    return QuotedString(text, quote).with_quotes()


def literal(text: str) -> str:
    """`text` in quotes, read back letter by letter: `${` in it is not an interpolation."""
    return quoted(_OPENING.sub(lambda match: match[1] * 2 + r"\${", text))
