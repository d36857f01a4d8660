"""Suites of equations: entries such as {equation: heat, name: heat, networks: [...], bounds: {l2: 1e-6}}."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import EquationConfig, SolveConfig
from kanrun.config.rules import check
from kanrun.errors import UsageError

#: Keys of an entry that are no settings: its number of the network, its name, and the bounds that it claims.
_APART = ("network", "name", "bounds", "equation")


def settings_of(cfg: SolveConfig, cell: Mapping[str, Any]) -> SolveConfig:
    """The settings of one cell: an equation of the group by its name, and further differences from `cfg`.

    Raises UsageError for an equation that the group does not have and for settings against their rules.
    """
    differences = {name: value for name, value in cell.items() if name not in _APART}
    if "equation" not in cell and not differences:
        return cfg
    node = OmegaConf.structured(cfg)
    try:
        if "equation" in cell:
            entry = files("kanrun.conf").joinpath("equation", f"{cell['equation']}.yaml")
            if not entry.is_file():
                raise UsageError(f"suite names the equation {cell['equation']}, which the group does not have.")
            loaded = OmegaConf.create(entry.read_text())
            node.equation = OmegaConf.merge(OmegaConf.structured(EquationConfig), loaded)
        merged: Any = OmegaConf.to_object(OmegaConf.merge(node, differences))
    except OmegaConfBaseException as error:
        raise UsageError(f"suite: {str(error).splitlines()[0]}.") from error
    check(merged)
    result: SolveConfig = merged
    return result
