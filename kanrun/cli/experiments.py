"""The commands that run an experiment: what they all share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kanrun.cli.completion import complete_override
from kanrun.cli.help import ExperimentCommand
from kanrun.config.former import rename_override
from kanrun.config.registry import ExperimentKind, with_group, with_table_model


class Shown(StrEnum):
    """What --cfg prints."""

    JOB = "job"
    HYDRA = "hydra"
    ALL = "all"


class Info(StrEnum):
    """What --info prints."""

    ALL = "all"
    CONFIG = "config"
    DEFAULTS = "defaults"
    TREE = "defaults-tree"
    PLUGINS = "plugins"
    SEARCHPATH = "searchpath"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Changes to the configuration: key=value, group=choice, +key=value, ~key.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
Multirun = Annotated[
    bool, typer.Option("--multirun", "-m", help="Run once for each of the comma-separated values.")
]
Outputs = Annotated[
    Path,
    typer.Option(
        "--outputs", metavar="DIR", envvar="KANRUN_OUTPUTS", help="Where run folders are made."
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no tables; warnings and errors only.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also how choices were made, such as the solver.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        show_default=False,
        help="Load a module of your own that declares models, targets, ...; may be repeated (or KANRUN_PLUGINS).",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with code 1 if a claim of the run does not hold.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Run also what this machine's memory does not seem to hold.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would run, how long and how large; write nothing."),
]
Cfg = Annotated[
    Shown | None, typer.Option("--cfg", "-c", help="Show the configuration and run nothing.")
]
Resolve = Annotated[
    bool, typer.Option("--resolve", help="With --cfg: show interpolations resolved.")
]
Package = Annotated[
    str | None,
    typer.Option("--package", "-p", metavar="KEY", help="With --cfg: show this part only."),
]
InfoOf = Annotated[
    Info | None,
    typer.Option("--info", "-i", help="Show how the configuration comes about (default: all)."),
]
ConfigDir = Annotated[
    str | None,
    typer.Option("--config-dir", "-cd", metavar="DIR", help="Add groups and choices of your own."),
]
ConfigName = Annotated[
    str | None,
    typer.Option("--config-name", "-cn", metavar="NAME", help="Use another primary configuration."),
]
ConfigPath = Annotated[
    str | None,
    typer.Option(
        "--config-path", "-cp", metavar="DIR", help="Use this folder instead of kanrun's."
    ),
]


def add_experiment(app: typer.Typer, experiment: ExperimentKind) -> None:
    """Adds the command of `experiment` to the app."""

    def command(  # noqa: PLR0913, PLR0917  (each is an option)
        overrides: Overrides = None,
        multirun: Multirun = False,
        outputs: Outputs = Path("outputs"),
        quiet: Quiet = False,
        verbose: Verbose = False,
        strict: Strict = False,
        force: Force = False,
        dry_run: DryRun = False,
        cfg: Cfg = None,
        resolve: Resolve = False,
        package: Package = None,
        info: InfoOf = None,
        config_dir: ConfigDir = None,
        config_name: ConfigName = None,
        config_path: ConfigPath = None,
        plugin: Plugins = None,
    ) -> None:
        from kanrun.launch import Request, launch
        from kanrun.launch.quoting import hydra_words

        renamed = [rename_override(with_group(experiment, word)) for word in overrides or ()]
        for _, warning in renamed:
            if warning is not None:
                print(f"kanrun: {warning}", file=sys.stderr)
        completed = experiment.completed([word for word, _ in renamed])
        located = with_run_folders(with_table_model(experiment, completed), outputs, multirun)
        words = hydra_words(located, experiment.name, multirun)
        request = Request(
            command=experiment.name,
            overrides=tuple(words),
            argv=("kanrun", *sys.argv[1:]),
            outputs=outputs,
            multirun=multirun,
            quiet=quiet,
            verbose=verbose,
            strict=strict,
            force=force,
            dry_run=dry_run,
            cfg=cfg,
            resolve=resolve,
            package=package,
            info=info,
            config_dir=config_dir,
            config_name=config_name,
            config_path=config_path,
        )
        raise typer.Exit(launch(request))

    command.__doc__ = experiment.summary
    command.__name__ = experiment.file
    app.command(experiment.name, cls=ExperimentCommand, context_settings={"obj": experiment})(
        command
    )


def with_info_value(words: Sequence[str]) -> list[str]:
    """Writes a bare `--info` as `--info all`, since Typer's options always take their value."""
    filled = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        bare = word in ("--info", "-i") and (
            not following or "=" in following or following[0] in "-+~"
        )
        filled += [word, Info.ALL] if bare else [word]
    return filled


def with_run_folders(words: Sequence[str], outputs: Path, multirun: bool) -> list[str]:
    """The overrides with `from_run=NAME` as the absolute path of that run's folder, so that a configuration tells for
    ever which run `latest` was. With -m, commas separate names. Raises UsageError for a run that is not there."""
    return [_located(word, outputs, multirun) for word in words]


def _located(word: str, outputs: Path, multirun: bool) -> str:
    from kanrun.runs import find_run

    key, equals, value = word.partition("=")
    text = value.strip()
    special = not text or text.lower() == "null" or text.startswith("choice(") or "${" in text
    if key.lstrip("+") != "from_run" or not equals or special:
        return word
    from kanrun.launch.quoting import split

    names = split(text) if multirun else [text]
    folders = [os.path.abspath(find_run(_bare(name), outputs, one=True).address) for name in names]
    return (
        f"{key}={','.join(_quoted(folder) if multirun else folder for folder in folders)}"
    )


def _bare(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name


def _quoted(folder: str) -> str:
    """Quoted where a comma would separate values; `kanrun.launch.quoting` does the rest."""
    return f"'{folder}'" if "," in folder and "'" not in folder else folder
