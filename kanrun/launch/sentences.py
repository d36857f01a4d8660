"""Hydra's and OmegaConf's errors as one sentence that names the key, the value, the rule and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import EXPERIMENTS
from kanrun.config.former import new_spelling
from kanrun.errors import UsageError
from kanrun.launch.request import Request
from kanrun.suggestions import near, near_names

CONFIGURATION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, RecursionError)

_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}


def explain(error: Exception, request: Request, loader: ConfigLoader) -> UsageError:
    """The UsageError that says what `error`, raised while composing `request`, means."""
    return UsageError(_ended(_sentence(error, request, loader)))


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _sentence(error: Exception, request: Request, loader: ConfigLoader) -> str:
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _no_such_choice(error, request, loader)
    if isinstance(error, yaml.YAMLError):
        return _broken_yaml(error)
    if isinstance(error, OmegaConfBaseException):
        return _wrong_value(error, None)
    if isinstance(error, RecursionError):
        return "the configuration is nested too deeply"
    text = str(error)
    cause = error.__cause__
    match = re.match(r"Error merging override (.*)", text, re.DOTALL)
    if match and isinstance(cause, OmegaConfBaseException):
        return _wrong_value(cause, match[1])
    for pattern, sentence in (
        (r"Could not override '(?P<key>[^']*)'", _unknown_key),
        (r"Could not delete (from config\. )?'(?P<key>[^']*)'", _unknown_key),
        (r".*config group '(?P<key>[^']*)' does not\s+exist", _unknown_key),
        (r"Config group override must be a string", _group_without_choice),
    ):
        if match := re.match(pattern, text, re.DOTALL):
            key = match.groupdict().get("key", "")
            inner = str(getattr(cause, "full_key", None) or "")  # of a whole group that is set, as group={key: ...}
            return sentence(inner if inner.startswith(f"{key}.") else key, request, loader)
    return _plain(text, error)


def explain_stored(error: Exception, file: Path) -> UsageError:
    """The UsageError for a stored configuration that cannot be used."""
    said = _wrong_value(error, None) if isinstance(error, OmegaConfBaseException) else _one_line(str(error))
    return UsageError(_ended(f"{file}: {said}"))


def _plain(text: str, error: Exception) -> str:
    """The remaining errors of Hydra that people meet, else its own words on one line."""
    if match := re.match(
        r"(Ambiguous value for argument|Sweep parameters) '(?P<line>.*?)'( requires|\n)", text, re.DOTALL
    ):
        key, _, value = match["line"].partition("=")
        return f"{key}={value} has several values: add -m to run each of them, or write a list as {key}=[...]"
    if match := re.match(r"Could not append to config\. An item is already at '(.*)'", text):
        return f"{match[1]} exists already: leave out the +"
    if match := re.match(r"You must specify '([^']*)'.*?Available options:\s*(.*)", text, re.DOTALL):
        return f"{match[1]} must be given; choose one of {', '.join(match[2].split())}"
    if match := re.match(r"In '([^']*)': \w+ raised while composing config:\n(.*)", text, re.DOTALL):
        old = re.match(r"Key '(\w+)' not in", match[2])
        now = new_spelling(f"{match[1].partition('/')[0]}.{old[1]}") if old else ""
        return f"in the configuration {match[1]}: {_one_line(match[2])}{now}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return _wrong_value(error.__cause__, None)
    return _one_line(text)


def _unreadable(error: OverrideParseException) -> str:
    override = error.override
    if "=" not in override:
        return f"{override!r} is not an override; write key=value"
    key, _, value = override.partition("=")
    if match := re.search(r"(Unknown function '[^']*'|\w+ while evaluating .*)", error.message):
        return f"{override} cannot be read ({_one_line(match[1])}); for text write {key}='{value}'"
    return (
        f"{override} cannot be read: a bracket, quote or comma is missing or a character needs quotes; "
        f"inside the quotes of the shell write {key}='...'"
    )


def _no_such_choice(error: MissingConfigException, request: Request, loader: ConfigLoader) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        place = request.config_path or request.config_dir or "kanrun"
        there = [file for file in loader.get_group_options("", ObjectType.CONFIG) if file != "_dummy_empty_config_"]
        return f"there is no configuration {name} in {place}{_offer(name, there)}"
    if group == "hydra/launcher" and name in _EXTRAS:
        return f"hydra/launcher={name} needs an extra: pip install 'kanrun[{_EXTRAS[name]}]'"
    where = group.removesuffix(f"/{request.module}") if group.startswith("study/") else group
    options = loader.get_group_options(group, ObjectType.CONFIG)
    match = re.match(r"In '([^']*)'", str(error))
    offer = _offer(name, options)
    if match and match[1] not in (request.primary, "hydra/config"):
        return f"the configuration {match[1]} asks for {where}={name}, which is not there{offer}"
    return f"{where}={name} is not a choice of {where}{offer}"


def _unknown_key(key: str, request: Request, loader: ConfigLoader) -> str:
    known = {*_known_keys(request, loader), *EXPERIMENTS[request.command].implied}
    if now := new_spelling(key):
        return f"there is no key {key}{now}"
    parent, _, last = key.rpartition(".")
    siblings = sorted(k.removeprefix(f"{parent}.") for k in known if k.rpartition(".")[0] == parent)
    groups = [g for g in loader.list_groups("") if g not in ("schema", "hydra")]
    if not parent:
        siblings = sorted({*siblings, *groups} & {*known, "study"})
    if key in groups:
        return f"{key} is not in this configuration; to add it write +{key}=NAME"
    if not siblings:
        return f"there is no key {key}{near(key, known, most=1)}"
    there = f"keys of {parent}" if parent else "keys"
    close = [f"{parent}.{name}" if parent else name for name in near_names(last, siblings, most=1)]
    offer = f"; did you mean {close[0]}?" if close else ""
    return f"there is no key {key}{offer} ({there}: {', '.join(siblings)})"


def _group_without_choice(_: str, request: Request, loader: ConfigLoader) -> str:
    for override in OverridesParser.create().parse_overrides(list(request.overrides)):
        key, value = override.key_or_group, override.value()
        options = loader.get_group_options(key, ObjectType.CONFIG)
        if options and not isinstance(value, str | list | dict):
            return f"{override.input_line} names no choice of {key}{_offer(str(value), options)}"
    return "a group needs the name of one of its choices"


def _known_keys(request: Request, loader: ConfigLoader) -> Iterator[str]:
    """All keys that an override may set, groups chosen as the request chooses them where that works."""
    chosen = [override.input_line or "" for override in _choices(request, loader)]
    try:
        composed = loader.load_configuration(request.primary, chosen, RunMode.MULTIRUN)
    except CONFIGURATION_ERRORS:
        return
    yield from _keys(composed, "")


def _choices(request: Request, loader: ConfigLoader) -> Iterator[Override]:
    for override in OverridesParser.create().parse_overrides(list(request.overrides)):
        group, value = override.key_or_group, override.value()
        if isinstance(value, str) and value in loader.get_group_options(group, ObjectType.CONFIG):
            yield override


def _keys(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        path = prefix + key
        yield path
        if path != "hydra" and not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            value = node[key]
            if isinstance(value, DictConfig):
                yield from _keys(value, f"{path}.")


def _wrong_value(error: OmegaConfBaseException, override: str | None) -> str:
    text = (error.msg or str(error)).partition("\n")[0]
    key = str(error.full_key or "").strip() or (override or "").partition("=")[0]
    shown = override or key
    if match := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", text, re.DOTALL):
        return f"{shown}: '{match[1]}' is not {_KINDS.get(match[2], match[2])}"
    if match := re.match(
        r"(Incompatible value 'None' for field of type '(?P<type>\w+)'|field '.*' is not Optional)", text
    ):
        need = _TYPES.get(match["type"] or "", "a value")
        return f"{shown}: {key} may not be null; {need} is needed"
    if match := re.match(r"Value '(.*)' is not a valid (\w+)", text, re.DOTALL):
        return f"{shown}: '{match[1]}' is not {_TYPES.get(match[2], match[2])}"
    if match := re.match(r"Value (.*) \(\w+\) is incompatible with type hint '(\w+)'", text, re.DOTALL):  # in a list
        return f"{shown}: {match[1]} is not {_TYPES.get(match[2], match[2])}"
    if "is not a ListConfig, list or tuple" in text:
        if (override or "").partition("=")[2].startswith("["):
            return f"{shown}: each entry of {key} is a list itself, as {key}=[[...]]"
        return f"{shown}: {key} is a list; write it in brackets, as {key}=[...]"
    if re.match(r"Cannot (assign|merge) .* (dict|DictConfig|Dict\[.*\])|.*is not a subclass of|.*to a dict", text):
        return f"{shown}: {key} has keys of its own; set those, as {key}.KEY=VALUE"
    if "does not support deletion" in text:
        return f"{shown}: {key.lstrip('~')} cannot be taken away; set it to another value"
    if match := re.match(r"Key '(.*)' (not in|is not in struct)", text):
        return f"there is no key {key or match[1]}" + (new_spelling(key) or (f" ({shown})" if override else ""))
    return f"{shown}: {_one_line(text)}" if shown else _one_line(text)


def _broken_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a configuration file"
    return f"{where} is not valid YAML: {getattr(error, 'problem', None) or _one_line(str(error))}"


def _offer(name: str, options: Iterable[str]) -> str:
    """What to write instead of `name`, to follow the sentence that refuses it."""
    options = list(options)
    choices = ", ".join(options)
    if offer := near(name, options, most=1):
        return f"{offer} (choices: {choices})"
    return f"; choose one of {choices}" if choices else ""


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    lines = [
        line
        for line in lines
        if line and not line.startswith(("full_key:", "object_type=", "reference_type=", "See http"))
    ]
    return "; ".join(lines)
