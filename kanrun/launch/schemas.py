"""The dataclasses of kanrun.config as schemas that Hydra checks a configuration against, and the way back.

A group's file names its schema (`/schema/target/named@_here_`), so a wrong key or type is refused where it is
typed. What reaches kanrun without one (a group file of the user's, a stored config.yaml) is checked here by its
`kind`: nothing in a configuration is ever built by naming a class.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from kanrun.config import GROUPS, ExperimentConfig
from kanrun.config.catalogue import COMMANDS, Command
from kanrun.errors import UsageError
from kanrun.launch.refusals import check_numbers
from kanrun.near import near


def command_of(name: str) -> Command:
    """The command's line of the table. Raises UsageError for a name that is not there."""
    if name not in COMMANDS:
        raise UsageError(f"there is no experiment {name!r}{near(name, COMMANDS)}; there are {', '.join(COMMANDS)}.")
    return COMMANDS[name]


def register() -> None:
    """Hands the dataclasses to Hydra; doing it again changes nothing."""
    store = ConfigStore.instance()
    for group, kinds in GROUPS.items():
        for kind, schema in kinds.items():
            store.store(group=f"schema/{group}", name=kind, node=schema, provider="kanrun")
    for command in COMMANDS.values():
        store.store(group="schema", name=command.module, node=command.schema, package="_global_", provider="kanrun")


def typed(command: str, composed: DictConfig, *, extras: bool = False) -> ExperimentConfig:
    """The dataclass that a composed configuration is, its groups included.

    With `extras`, keys that no schema knows are kept: a stored configuration may hold what its author added
    with `+key=value`. Raises UsageError for a kind that does not exist, for what is missing and for NaN, and leaves
    the errors of OmegaConf (a wrong key or type) to the caller.
    """
    schema = command_of(command).schema
    composed = copy.deepcopy(composed)
    if OmegaConf.get_type(composed) is not schema:
        composed = _merged(schema, composed, extras)
    for group in GROUPS:
        if composed.get(group) is not None:
            OmegaConf.update(composed, group, _group(group, composed[group], extras), merge=False)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given, as {missing[0]}=VALUE.")
    check_numbers(composed)
    return OmegaConf.to_object(composed)  # type: ignore[return-value]


def _group(group: str, node: Any, extras: bool) -> DictConfig:
    kinds = GROUPS[group]
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
