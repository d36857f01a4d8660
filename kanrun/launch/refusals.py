"""What a configuration may not do: Hydra builds some objects by itself, so it could run code that someone sends.

kanrun never builds an object that a configuration names. Hydra does, for callbacks, launcher, sweeper and logging, and
it writes where a configuration says. A short list of its settings may be given, and is looked at after composing and
before Hydra uses it, wherever it comes from; the rest must be as Hydra has it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra.conf
import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

import kanrun.conf
from kanrun.config import ExecutorConfig
from kanrun.config.keys import keys_of
from kanrun.errors import UsageError
from kanrun.launch.request import Request
from kanrun.suggestions import one_letter_off

_OWN = "hydra._internal.core_plugins"  # as Hydra writes them into a configuration
LAUNCHERS = {
    f"{_OWN}.basic_launcher.BasicLauncher": "basic",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "submitit_slurm",
}
# Shell commands that a launcher puts into a job's script: from the command line only, never from a file.
SHELL_KEYS = ("setup", "srun_args", "additional_parameters", "python")
# Folders that a launcher writes to: where it likes, or where the command line says.
FOLDER_KEYS = ("submitit_folder", "temp_folder")
VARIABLES = ("OMP_", "MKL_", "OPENBLAS_", "CUDA_VISIBLE_DEVICES", "KANRUN_")
NUMBERED = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")
# What a configuration may set of `hydra`, looked at below where it could do harm; the rest stays as Hydra has it.
_PRE_DISPATCH = re.compile(r"\d+|all|(\d+ ?\* ?)?n_jobs")
SETTABLE = ("launcher", "sweeper.params", "mode", "searchpath", "job.env_set")
# What Hydra writes itself, and the folders that kanrun sets whatever a file says of them.
_WRITTEN = (
    "run",
    "sweep.dir",
    "sweep.mode",
    "runtime",
    "overrides",
    "help",
    "hydra_help",
    "job.override_dirname",
    "job.id",
    "job.num",
    "job.config_name",
    "job.config",
    "env",
    "output",
)
_IN_SWEEP = re.compile(r"\$\{hydra\.sweep\.dir\}(/[\w%.-]+)*")
_MOST_VALUES = (
    10**6
)  # of a YAML file, those behind its aliases counted: aliases of aliases grow like a power


def check_overrides(parsed: Sequence[Override]) -> None:
    """Raises UsageError for an override of what kanrun decides: the folders of runs."""
    for override in parsed:
        if not override.key_or_group:
            raise UsageError(f"{override.input_line!r} is not an override; write key=value.")
        if override.key_or_group in NUMBERED:
            raise UsageError(
                f"{override.input_line} is refused, since kanrun numbers its run folders itself; "
                "choose where they lie with --outputs DIR."
            )


def check_added(command: str, parsed: Sequence[Override]) -> None:
    """Raises UsageError for a key added with + that is one letter off one that exists: a mistyped setting that would
    change nothing."""
    known = [key.path.split(".") for key in keys_of(command)]
    for override in parsed:
        parts = str(override.key_or_group).split(".")
        if parts in known or not (override.is_add() or override.is_force_add()):
            continue
        for depth, part in enumerate(parts):
            names = {
                path[depth] for path in known if path[:depth] == parts[:depth] and len(path) > depth
            }
            if part in names:
                continue
            for name in sorted(name for name in names if one_letter_off(part, name)):
                meant = ".".join([*parts[:depth], name, *parts[depth + 1 :]])
                raise UsageError(
                    f"there is no key {'.'.join(parts)}; did you mean {meant}? "
                    "Words of your own go into tags=[...] and note=...."
                )
            break


def check_search_path(request: Request, parsed: Sequence[Override]) -> None:
    """Raises UsageError for an entry of hydra.searchpath that would import a Python module.

    Hydra takes it from the command line, or from a primary configuration in a folder of the user's.
    """
    places: Any = None
    for folder in (request.config_path, request.config_dir):
        file = Path(
            (folder or "").removeprefix("file://"), f"{request.primary.removesuffix('.yaml')}.yaml"
        )
        if folder is not None and places is None and file.is_file():
            with contextlib.suppress(
                yaml.YAMLError, RecursionError, ValueError
            ):  # Hydra tells what is wrong with it
                places = OmegaConf.select(
                    OmegaConf.load(file), "hydra.searchpath", throw_on_missing=False
                )
    for override in parsed:
        if override.get_key_element().lstrip("+~") == "hydra.searchpath":
            places = override.value()
    for place in places or ():
        scheme, found, rest = str(place).partition("://")
        if not found or scheme == "file":
            check_expansion(Path(rest if found else str(place)))
        elif (scheme, rest) != ("pkg", "kanrun.conf"):
            raise UsageError(
                f"hydra.searchpath={place} is refused, since it would import a module; name a folder."
            )


def check_hydra(module: str, settings: DictConfig, parsed: Sequence[Override]) -> None:
    """Raises UsageError for what a configuration may not set of Hydra's, and for what of it could run code."""
    _check_settable(module, OmegaConf.to_container(settings, resolve=False))
    _check_launcher(settings.launcher)
    check_slurm(settings.launcher)
    typed = {override.key_or_group for override in parsed}
    _check_script(settings.launcher, typed)
    _check_folders(OmegaConf.to_container(settings.launcher, resolve=False), typed)
    for name in settings.job.env_set:
        if not str(name).startswith(VARIABLES):
            raise UsageError(
                f"hydra.job.env_set.{name} is refused; allowed are names with {', '.join(VARIABLES)}."
            )


def _check_settable(module: str, given: Any) -> None:
    """The one rule: outside `SETTABLE`, Hydra's settings are its own, and logging is kanrun's or Hydra's."""
    usual: Any = OmegaConf.to_container(OmegaConf.structured(hydra.conf.HydraConf))
    usual["job"]["name"], usual["sweep"]["subdir"] = module, "${hydra.job.num}"
    usual["sweeper"] = {"_target_": f"{_OWN}.basic_sweeper.BasicSweeper", "max_batch_size": None}
    for name in ("job_logging", "hydra_logging"):
        files = (
            file
            for one in (kanrun.conf, hydra.conf)
            for file in Path(one.__path__[0], "hydra", name).glob("*.yaml")
        )
        known = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
        usual[name] = given[name] if given[name] in known else known[0]
    own = dict(_leaves(usual))
    for path, value in _leaves(given):
        free = any(f"{path}.".startswith(f"{name}.") for name in (*SETTABLE, *_WRITTEN))
        if free or (path in own and own[path] == value):
            continue
        raise UsageError(
            f"hydra.{path}={value} is refused; of hydra, a configuration may set {', '.join(SETTABLE)}."
        )


def check_slurm(launcher: DictConfig) -> None:
    """Raises UsageError where jobs are to go to a Slurm that is not there."""
    if (
        LAUNCHERS.get(str(launcher.get("_target_"))) == "submitit_slurm"
        and shutil.which("srun") is None
    ):
        raise UsageError(
            "hydra/launcher=submitit_slurm needs Slurm, whose srun is not found here; start from a node of the "
            "cluster, or use hydra/launcher=submitit_local."
        )


def check_cluster(composed: DictConfig, parsed: Sequence[Override]) -> None:
    """Raises UsageError for a Dask scheduler that a file names: what it sends back is unpickled, which runs code."""
    executor = composed.get("executor")
    address = executor.get("address") if isinstance(executor, DictConfig) else None
    typed = {override.key_or_group for override in parsed if override.key_or_group != "executor"}
    typed |= {"executor.address" for override in parsed if isinstance(override.value(), dict)}
    if address is not None and "executor.address" not in typed:
        raise UsageError(
            f"executor.address={address} is refused in a file, since who answers there can run code here; "
            "give it on the command line."
        )


def address_of(executor: ExecutorConfig, given: str | None, folder: Path) -> str | None:
    """The address of the Dask scheduler for a run that goes on, which is the one given now and never the stored one.

    Raises UsageError if it is missing, or given for a run without a cluster.
    """
    if executor.kind == "dask" and given is None:
        raise UsageError(
            f"{folder} is to run on a Dask cluster (executor.address={executor.address}); name the scheduler again "
            "with --address, since who answers there can run code here, or go on with --executor local."
        )
    if executor.kind != "dask" and given is not None:
        raise UsageError(
            f"--address is for runs with executor=dask; {folder} has executor={executor.kind}."
        )
    return given


def _check_folders(launcher: Any, typed: set[str]) -> None:
    for path, key, value in _walk(launcher):
        inside = value is None or (_IN_SWEEP.fullmatch(str(value)) and ".." not in str(value))
        if key in FOLDER_KEYS and not inside and f"hydra.launcher.{key}" not in typed:
            raise UsageError(
                f"hydra.launcher.{path}={value} is refused: give such a folder on the command line, not in a file."
            )


def _check_script(launcher: DictConfig, typed: set[str]) -> None:
    for path, key, value in _walk(OmegaConf.to_container(launcher, resolve=True)):
        if key in SHELL_KEYS and value and f"hydra.launcher.{key}" not in typed:
            raise UsageError(
                f"hydra.launcher.{key} holds shell commands: give it on the command line, not in a file."
            )
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            raise UsageError(
                f"hydra.launcher.{path} has a line break, which a job's script must not get."
            )
        if key == "pre_dispatch" and not _PRE_DISPATCH.fullmatch(str(value)):
            raise UsageError(
                f"hydra.launcher.pre_dispatch={value} is refused, since joblib would evaluate it; give a whole number, "
                "all, or a multiple such as 2*n_jobs."
            )


def _check_launcher(node: Any) -> None:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    target = plain.get("_target_") if isinstance(plain, dict) else None
    if target not in LAUNCHERS:
        choices = ", ".join(LAUNCHERS.values())
        raise UsageError(
            f"hydra/launcher names {target}, which is refused; choose one of {choices}."
        )
    inner = [path for path, key, _ in _walk(plain) if key == "_target_" and path != "_target_"]
    if inner:
        raise UsageError(
            f"hydra.launcher.{inner[0]} is refused, since a configuration may not name code to run."
        )


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """All (path, key, value) of nested dicts and lists."""
    items: Any = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        where = f"{path}.{key}" if path else str(key)
        yield where, str(key), inner
        yield from _walk(inner, where)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """All (path, value) of nested dicts that are not dicts with something in them."""
    return (
        (path, inner)
        for path, _, inner in _walk(value)
        if not (isinstance(inner, dict | list) and inner)
    )


def check_expansion(folder: Path) -> None:
    """Raises UsageError for a configuration file in `folder` that stands for more than a million values, or whose
    defaults name a file outside the folder.

    Files that cannot be read are left to Hydra, which tells what is wrong with those that it needs.
    """
    for path in _files(folder):
        with contextlib.suppress(OSError, yaml.YAMLError, RecursionError, AttributeError):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "&" in text and "*" in text and _values(yaml.compose(text), {}) > _MOST_VALUES:
                raise UsageError(
                    f"{path} stands for more than {_MOST_VALUES} values by its aliases; write fewer."
                )
            if "defaults" in text and ".." in text:
                for _, key, value in _walk(yaml.safe_load(text).get("defaults")):
                    if ".." in f"{key}/{value}".split("/"):
                        raise UsageError(
                            f"{path} has {value} among its defaults, outside its folder; name a file in it."
                        )


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in sorted(names) if name.endswith((".yaml", ".yml")))


def _values(node: Any, known: dict[int, float]) -> float:
    """How many values a node is, those behind its aliases included; infinite if it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")
        inner = (
            node.value
            if isinstance(node, yaml.SequenceNode)
            else [part for pair in node.value for part in pair]
        )
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]
