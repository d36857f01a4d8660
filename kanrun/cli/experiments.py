"""Commands that run an experiment with their help, and `kanrun keys`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from time import process_time
from typing import Any, Literal

import typer
from typer.core import TyperCommand

from kanrun.cli.options import (
    OUTPUTS,
    AsJson,
    Outputs,
    Overrides,
    Plugins,
    Quiet,
    Strict,
    command,
)
from kanrun.config import EXPERIMENTS
from kanrun.config.keys import groups_of, keys_of
from kanrun.config.registry import ExperimentKind
from kanrun.errors import UsageError, did_you_mean

app = typer.Typer(
    name="kanrun",
    help="Experiments with Kolmogorov-Arnold Networks; each run has a folder of its own.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
#: Maximum number of commands that `kanrun keys` names after a key.
MAX_PLACES = 3


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


def add_experiments() -> None:
    """Add the commands of experiments that are not there yet, such as those of plug-ins."""
    there = {each.name for each in app.registered_commands}
    for experiment in EXPERIMENTS.values():
        if experiment.name not in there:
            _add_experiment(experiment)
    app.registered_commands.sort(key=lambda each: each.name not in EXPERIMENTS)


def _add_experiment(experiment: ExperimentKind) -> None:
    @command(
        app,
        experiment.name,
        cls=ExperimentCommand,
        help=experiment.summary,
        context_settings={"obj": experiment},
    )
    def run_experiment(  # noqa: PLR0913  (each is an option)
        overrides: Overrides = None,
        *,
        multirun: bool = False,
        outputs: Outputs = OUTPUTS,
        quiet: Quiet = False,
        verbose: bool = False,
        strict: Strict = False,
        force: bool = False,
        dry_run: bool = False,
        cfg: Literal["job"] | None = None,
        resolve: bool = False,
        config_dir: str | None = None,
        config_name: str | None = None,
        config_path: str | None = None,
        plugin: Plugins = None,
    ) -> None:
        """Run an experiment.

        Args:
            multirun (-m): Run each combination of comma-separated values.
            verbose (-v): Also print how choices were made.
            force: Run even if the estimated memory exceeds that of this machine.
            dry_run: Print what would run, how long and how large; write nothing.
            cfg (-c): Print the configuration, run nothing.
            resolve: With --cfg: show interpolations resolved.
            config_dir (-cd DIR): Add custom groups and choices.
            config_name (-cn NAME): Use another primary configuration.
            config_path (-cp DIR): Use this folder instead of kanrun's.
        """
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
        from kanrun.study.running import run_study
        from kanrun.study.studies import RunOptions

        options = RunOptions(outputs, quiet, verbose, strict, force, dry_run, began)
        raise typer.Exit(run_study(study, options)[0])


@command(app, "keys")
def keys(prefix: str = "", *, command: str | None = None, as_json: AsJson = False) -> None:
    """Show the configuration keys: type, default, allowed values, and purpose.

    Args:
        prefix (PREFIX): Beginning of the keys, such as model or solver.smo.
        command (NAME): Experiment of the keys, such as fit.
    """
    known = keys_of(command)
    found = [key for key in known if key.path.startswith(prefix)]
    if not found:
        offer = did_you_mean(prefix, [key.path for key in known])
        raise UsageError(f"no key begins with {prefix!r}{offer or '.'}")
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=2))
        return
    for key in found:
        values = key.allowed or ", ".join(key.choices)
        default = f"default {key.default}" if key.default else ""
        facts = filter(None, (key.type, default, values if values != key.type else ""))
        where = "" if len(key.where) > MAX_PLACES else f" ({', '.join(key.where)})"
        lines = (f"{key.path}{where}", key.about, "; ".join(facts))
        print("\n    ".join(filter(None, lines)))
