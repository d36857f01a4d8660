"""The dataclasses of kanrun.config as schemas that Hydra checks a configuration against, and the way back.

A group's file names its schema (`/schema/target/named@_here_`), so a wrong key or type is refused where it is
typed. What reaches kanrun without one (a group file of the user's, a stored config.yaml) is checked here by its
`kind`: nothing in a configuration is ever built by naming a class.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from kanrun.config import EXPERIMENTS, GROUPS, ExperimentConfig, check, former
from kanrun.errors import UsageError


def register() -> None:
    """Hands the dataclasses to Hydra; doing it again changes nothing."""
    store = ConfigStore.instance()
    for group, kinds in GROUPS.items():
        for name, kind in kinds.items():
            store.store(group=f"schema/{group}", name=name, node=kind.settings, provider="kanrun")
            if kind.is_plugin:
                store.store(group=group, name=name, node=kind.settings, provider=kind.settings.__module__)
    for one in EXPERIMENTS.values():
        store.store(group="schema", name=one.file, node=one.settings, package="_global_", provider="kanrun")
        if one.is_plugin:
            store.store(name=one.file, node={"defaults": one.defaults}, provider=one.settings.__module__)


#: Columns that a sentence names.
MOST_NAMES = 20


def typed(
    command: str, composed: DictConfig, *, extras: bool = False, warn: Callable[[str], None] = lambda _: None
) -> ExperimentConfig:
    """The dataclass that a composed configuration is, its groups included; `warn` is told of renamed keys.

    With `extras`, keys that no schema knows are kept: a stored configuration may hold what its author added
    with `+key=value`. Raises UsageError for a kind that does not exist, for what is missing and for a value that
    breaks its rule, and leaves the errors of OmegaConf (a wrong key or type) to the caller.
    """
    schema = EXPERIMENTS.find(command).settings
    composed = copy.deepcopy(composed)
    with open_dict(composed):
        for warning in former.rename(composed, stored=extras):
            warn(warning)
    if OmegaConf.get_type(composed) is not schema:
        composed = _merged(schema, composed, extras)
    for group in GROUPS:
        if composed.get(group) is not None:
            OmegaConf.update(composed, group, _group(group, composed[group], extras), merge=False)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given, as {missing[0]}={_columns(composed, missing[0])}.")
    settings: ExperimentConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    check(settings)
    return settings


def _columns(composed: DictConfig, missing: str) -> str:
    """What to write for a missing setting: of a table's outputs, its columns."""
    path = OmegaConf.select(composed, "target.path", throw_on_missing=False)
    if missing != "target.outputs" or path is None:
        return "VALUE"
    from kanrun.targets.tables import column_names

    names = column_names(path)
    return f"[NAME], of the columns {', '.join(names[:MOST_NAMES])}{' and more' if len(names) > MOST_NAMES else ''}"


def _group(group: str, node: Any, extras: bool) -> DictConfig:
    kinds = {name: kind.settings for name, kind in GROUPS[group].items()}
    if not isinstance(node, DictConfig) or node.get("kind") is None:
        raise UsageError(f"{group} is {node}, not a choice of the group, which has a kind: one of {', '.join(kinds)}.")
    kind = str(node.kind)
    if kind not in kinds:
        raise UsageError(f"{group}.kind is {kind}, which is not one of {', '.join(kinds)}.")
    if OmegaConf.get_type(node) is kinds[kind]:
        return node
    if dataclasses.is_dataclass(OmegaConf.get_type(node)):
        raise UsageError(
            f"{group}.kind={kind} cannot be set by hand; choose the kind with {group}=NAME, "
            f"in a file with `override /{group}: NAME` in its defaults."
        )
    return _merged(kinds[kind], node, extras)


def _merged(schema: type, node: DictConfig, extras: bool) -> DictConfig:
    base = OmegaConf.structured(schema)
    OmegaConf.set_struct(base, not extras)
    merged = OmegaConf.merge(base, node)
    assert isinstance(merged, DictConfig)
    return merged
