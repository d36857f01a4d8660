"""The mistakes that people make with overrides, each as one sentence with what to do; the rest in Hydra's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import EXPERIMENTS
from kanrun.config.former import new_spelling
from kanrun.config.keys import keys_of
from kanrun.errors import UsageError
from kanrun.launch.request import Request
from kanrun.suggestions import closest_names, did_you_mean

CONFIGURATION_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    OSError,
    RecursionError,
)

_TYPES = {
    **dict.fromkeys(("Integer", "int"), "a whole number"),
    **dict.fromkeys(("Float", "float"), "a number"),
    **dict.fromkeys(("Boolean", "bool"), "true or false"),
    **dict.fromkeys(("String", "str"), "text"),
}
_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}
_UNKNOWN = re.compile(
    r"Could not (?:override|delete(?: from config\.)?) '([^']*)'|.*config group '([^']*)' does not\s+exist",
    re.DOTALL,
)
#: Of Hydra's sentences these have a remedy.
_REMEDIES = (
    (
        r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)=(.*?)'(?: requires|\n)",
        r"\1=\2 has several values: add -m to run each of them, or write a list as \1=[...]",
    ),
    (
        r"Could not append to config\. An item is already at '([^']*)'",
        r"\1 exists already: leave out the +",
    ),
)
#: And of OmegaConf's on a value these, as what follows `key=value: `.
_WRONG = (
    (
        r"Value ('.*'|.*) (?:of type '.*' could not be converted to|is not a valid|\(\w+\) is incompatible with type hint)"
        r" '?(\w+)",
        "{0} is not {type}",
    ),
    (
        r"(?:Incompatible value 'None' for field of type '(\w+)'|field '.*' is not Optional)",
        "{key} may not be null",
    ),
    (r"(?:.*is not a ListConfig, list or tuple)", "{list}"),
    (
        r"Cannot (?:assign|merge) .* (?:dict|DictConfig|Dict\[.*\])|.*is not a subclass of|.*to a dict",
        "{key} has keys of its own; set those, as {key}.KEY=VALUE",
    ),
    (r".*does not support deletion", "{key} cannot be taken away; set it to another value"),
)
_LIST = (
    "{0} is a list; write it in brackets, as {0}=[...]",
    "each entry of {0} is a list itself, as {0}=[[...]]",
)


def explain(error: Exception, request: Request, loader: ConfigLoader) -> UsageError:
    """The UsageError that says what `error`, raised while composing `request`, means."""
    return UsageError(_ended(_sentence(error, request, loader)))


def explain_stored(error: Exception, file: Path) -> UsageError:
    """The UsageError for a stored configuration that cannot be used."""
    said = (
        _wrong_value(error, "")
        if isinstance(error, OmegaConfBaseException)
        else _one_line(str(error))
    )
    return UsageError(_ended(f"{file}: {said}"))


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _sentence(error: Exception, request: Request, loader: ConfigLoader) -> str:
    text, cause = str(error), error.__cause__
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _no_such_choice(error, request, loader)
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a configuration file"
        return f"{where} is not valid YAML: {getattr(error, 'problem', None) or _one_line(text)}"
    if isinstance(error, OmegaConfBaseException):
        return _wrong_value(error, "")
    if isinstance(error, RecursionError):
        return "the configuration is nested too deeply"
    if match := _UNKNOWN.match(text):
        return _unknown_key(match[1] or match[2], cause, request, loader)
    if text.startswith("Config group override must be a string"):
        return _group_without_choice(request, loader)
    if isinstance(cause, OmegaConfBaseException):
        match = re.match(r"Error merging override (.*)", text, re.DOTALL)
        return _wrong_value(cause, match[1] if match else "")
    for pattern, remedy in _REMEDIES:
        if match := re.match(pattern, text, re.DOTALL):
            return match.expand(remedy)
    old = re.match(r"In '(\w+)/.*Key '(\w+)' not in", text, re.DOTALL)
    return _one_line(text) + (new_spelling(f"{old[1]}.{old[2]}") if old else "")


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
    options = [
        one
        for one in loader.get_group_options(group, ObjectType.CONFIG)
        if one != "_dummy_empty_config_"
    ]
    offer = _offer(name, options)
    if not group:
        return f"there is no configuration {name} in {request.config_path or request.config_dir or 'kanrun'}{offer}"
    if group == "hydra/launcher" and name in _EXTRAS:
        return f"hydra/launcher={name} needs an extra: pip install 'kanrun[{_EXTRAS[name]}]'"
    where = group.removesuffix(f"/{request.module}") if group.startswith("study/") else group
    match = re.match(r"In '([^']*)'", str(error))
    if match and match[1] not in (request.primary, "hydra/config"):
        return f"the configuration {match[1]} asks for {where}={name}, which is not there{offer}"
    return f"{where}={name} is not a choice of {where}{offer}"


def _unknown_key(key: str, cause: Any, request: Request, loader: ConfigLoader) -> str:
    """The keys beside it are those of the part of the configuration where OmegaConf missed it."""
    missed = str(getattr(cause, "full_key", None) or "")
    key = (
        missed if missed.startswith(f"{key}.") else key
    )  # of a whole group that is set, as group={key: ...}
    if now := new_spelling(key):
        return f"there is no key {key}{now}"
    if key in loader.list_groups(""):
        return f"{key} is not in this configuration; to add it write +{key}=NAME"
    parent, _, last = key.rpartition(".")
    if cause is None or missed != key:
        known = (
            *(one.path for one in keys_of(request.command)),
            *EXPERIMENTS[request.command].implied,
        )
        return f"there is no key {key}{did_you_mean(key, known, max_names=1)}"
    there = sorted(
        {*map(str, cause.parent_node), *([] if parent else ["study"])} - {"hydra", "kind"}
    )
    close = "".join(
        f"; did you mean {parent}{'.' * bool(parent)}{name}?"
        for name in closest_names(last, there, max_names=1)
    )
    return f"there is no key {key}{close} ({f'keys of {parent}' if parent else 'keys'}: {', '.join(there)})"


def _group_without_choice(request: Request, loader: ConfigLoader) -> str:
    for override in OverridesParser.create().parse_overrides(list(request.overrides)):
        key, value = override.key_or_group, override.value()
        options = loader.get_group_options(key, ObjectType.CONFIG)
        if options and not isinstance(value, str | list | dict):
            return f"{override.input_line} names no choice of {key}{_offer(str(value), options)}"
    return "a group needs the name of one of its choices"


def _wrong_value(error: OmegaConfBaseException, override: str) -> str:
    """What is wrong with the value of `override`, or without one of the key that the error names."""
    text, value = (error.msg or str(error)).partition("\n")[0], override.partition("=")[2]
    key = (str(error.full_key or "").strip() or override.partition("=")[0]).lstrip("~")
    shown = f"{override or key}: " if override or key else ""
    for pattern, rule in _WRONG:
        if match := re.match(pattern, text, re.DOTALL):
            said = (*match.groups(), "")
            kind = _TYPES.get(str(said[-2]), said[-2]) if match.groups() else ""
            return shown + rule.format(
                said[0], key=key, type=kind, list=_LIST[value.startswith("[")].format(key)
            )
    if match := re.match(r"Key '(.*)' (not in|is not in struct)", text):
        return f"there is no key {key or match[1]}" + (
            new_spelling(key) or (f" ({override})" if override else "")
        )
    return shown + _one_line(text)


def _offer(name: str, options: Iterable[str]) -> str:
    """What to write instead of `name`, to follow the sentence that refuses it."""
    options = list(options)
    if offer := did_you_mean(name, options, max_names=1):
        return f"{offer} (choices: {', '.join(options)})"
    return f"; choose one of {', '.join(options)}" if options else ""


def _one_line(text: str) -> str:
    marks = ("full_key:", "object_type=", "reference_type=", "See http")
    lines = (line.strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line and not line.startswith(marks))
