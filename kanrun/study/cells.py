"""Cells as differences from a configuration: what a `suite` lists and what its entries mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import GROUPS, ExperimentConfig
from kanrun.errors import UsageError

Cfg = TypeVar("Cfg", bound=ExperimentConfig)


def suite_cells(suite: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a suite as cells; a configuration without a suite is one cell without differences."""
    return [dict(entry) for entry in suite] or [{}]


def with_cell(cfg: Cfg, cell: Mapping[str, Any]) -> Cfg:
    """`cfg` with the cell's differences merged in, typed; a group entry that names a `kind` replaces the group.
    `bounds` is not a difference but a claim on the cell, see `kanrun.study.bounds`.

    Raises UsageError for a key, type or kind that the configuration does not have.
    """
    if not cell:
        return cfg
    node = OmegaConf.structured(cfg)
    differences = {key: value for key, value in cell.items() if key != "bounds"}
    try:
        for group, kinds in GROUPS.items():
            chosen = cell.get(group)
            if isinstance(chosen, Mapping) and "kind" in chosen:
                schema = _kind(group, kinds, str(chosen["kind"]))
                OmegaConf.update(node, group, OmegaConf.structured(schema), merge=False)
        merged = OmegaConf.merge(node, differences)
    except OmegaConfBaseException as error:
        raise UsageError(f"{_plain(cell)} does not fit the configuration: {str(error).splitlines()[0]}.") from error
    assert isinstance(merged, DictConfig)
    result: Cfg = OmegaConf.to_object(merged)  # type: ignore[assignment]
    return result


def _plain(cell: Mapping[str, Any]) -> Any:
    return OmegaConf.to_container(cell) if isinstance(cell, DictConfig) else dict(cell)


def _kind(group: str, known: Mapping[str, type], name: str) -> type:
    if name not in known:
        raise UsageError(f"{group}.kind={name} in a suite is not one of {', '.join(known)}.")
    return known[name]
