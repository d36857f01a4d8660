"""The commands that run an experiment with their help, and `kanrun keys`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from time import process_time
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from kanrun.cli.completion import complete_override
from kanrun.config.keys import groups_of, keys_of
from kanrun.config.registry import ExperimentKind
from kanrun.errors import UsageError, did_you_mean

#: Maximum number of commands that `kanrun keys` names after a key.
MAX_PLACES = 3


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        show_default=False,
        help="Load a module of custom models, targets, ...; may be repeated (or KANRUN_PLUGINS).",
    ),
]
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
    bool,
    typer.Option("--multirun", "-m", help="Run each combination of comma-separated values."),
]
#: Default folder of the run folders.
OUTPUTS = Path("outputs")
Outputs = Annotated[
    Path,
    typer.Option(
        "--outputs", metavar="DIR", envvar="KANRUN_OUTPUTS", help="Folder of the run folders."
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors only, no progress.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print how choices were made.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with code 1 if a claim of the run does not hold.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Run even if the estimated memory exceeds that of this machine."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would run, how long and how large; write nothing."),
]
Cfg = Annotated[
    Literal["job"] | None,
    typer.Option("--cfg", "-c", help="Print the configuration, run nothing."),
]
Resolve = Annotated[
    bool, typer.Option("--resolve", help="With --cfg: show interpolations resolved.")
]
ConfigDir = Annotated[
    str | None,
    typer.Option("--config-dir", "-cd", metavar="DIR", help="Add custom groups and choices."),
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


class ExperimentCommand(TyperCommand):
    """A command whose help ends with the configuration groups and with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the groups with their choices, and the examples."""
        name, examples = ctx.obj.name, ctx.obj.examples
        with formatter.section("Configuration groups (group=choice)"):
            formatter.write_dl([(group, ", ".join(choices)) for group, choices in groups_of(name)])
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        formatter.write_paragraph()
        formatter.write_text(f"All keys and their values: kanrun {name} --cfg job")


def add_experiment(app: typer.Typer, experiment: ExperimentKind) -> None:
    """Add the command of `experiment` to the app."""

    def command(  # noqa: PLR0913, PLR0917  (each is an option)
        overrides: Overrides = None,
        multirun: Multirun = False,
        outputs: Outputs = OUTPUTS,
        quiet: Quiet = False,
        verbose: Verbose = False,
        strict: Strict = False,
        force: Force = False,
        dry_run: DryRun = False,
        cfg: Cfg = None,
        resolve: Resolve = False,
        config_dir: ConfigDir = None,
        config_name: ConfigName = None,
        config_path: ConfigPath = None,
        plugin: Plugins = None,
    ) -> None:
        began = process_time()
        if cfg is not None and multirun:
            raise UsageError("--cfg and --multirun do not go together; give one of them.")
        if resolve and cfg is None:
            raise UsageError("--resolve is an option of --cfg; add --cfg job.")
        if "${" in str(outputs):
            raise UsageError(
                f"--outputs {outputs} has an interpolation, which is not replaced in the name of a "
                "folder. Write the folder itself."
            )
        from kanrun.launch.composing import Source, compose, shown_config

        source = Source(experiment.name, outputs, config_dir, config_name, config_path)
        argv = ("kanrun", *sys.argv[1:])
        study = compose(source, overrides or (), several=multirun, argv=argv)
        if cfg is not None:
            print(shown_config(study, resolve), end="")
            return
        from kanrun.study.running import RunOptions, run_study

        options = RunOptions(outputs, quiet, verbose, strict, force, dry_run, began)
        raise typer.Exit(run_study(study, options)[0])

    command.__doc__ = experiment.summary
    command.__name__ = experiment.file
    app.command(experiment.name, cls=ExperimentCommand, context_settings={"obj": experiment})(
        command
    )


def keys(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX", help="Beginning of the keys, such as model or solver.smo."
        ),
    ] = "",
    command: Annotated[
        str | None,
        typer.Option("--command", metavar="NAME", help="Experiment of the keys, such as fit."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show the configuration keys: type, default, allowed values, and purpose."""
    known = keys_of(command)
    found = [key for key in known if key.path.startswith(prefix)]
    if not found:
        offer = did_you_mean(prefix, [key.path for key in known])
        raise UsageError(f"no key begins with {prefix!r}{offer or '.'}")
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=2))
    else:
        for key in found:
            values = key.allowed or ", ".join(key.choices)
            default = f"default {key.default}" if key.default else ""
            facts = filter(None, (key.type, default, values if values != key.type else ""))
            where = "" if len(key.where) > MAX_PLACES else f" ({', '.join(key.where)})"
            lines = (f"{key.path}{where}", key.about, "; ".join(facts))
            print("\n    ".join(filter(None, lines)))
