"""Errors of Hydra, OmegaConf and YAML while composing, as one sentence each."""

from __future__ import annotations

import yaml  # type: ignore[import-untyped]
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from kanrun.errors import UsageError, did_you_mean

CONFIGURATION_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    OSError,
    RecursionError,
    ValueError,
)
#: Lines of OmegaConf's and Hydra's messages that say nothing to users.
_MARKS = ("full_key:", "object_type=", "reference_type=", "See http")


def explain(error: Exception, place: str) -> UsageError:
    """Return the UsageError for `error`, raised while composing the configuration in `place`."""
    if isinstance(error, MissingConfigException):
        name, options = error.missing_cfg_file or "", error.options or ()
        sentence = f"there is no configuration {name} in {place}{did_you_mean(name, options)}"
        if options:
            sentence += f" (choices: {', '.join(options)})"
    elif isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
        sentence = f"{where} is not valid YAML: {getattr(error, 'problem', None) or error}"
    elif isinstance(error, RecursionError):
        sentence = "the configuration is nested too deeply"
    else:
        lines = (line.strip() for line in str(error).splitlines())
        sentence = "; ".join(line for line in lines if line and not line.startswith(_MARKS))
    return UsageError(sentence if sentence.endswith((".", "?")) else f"{sentence}.")
