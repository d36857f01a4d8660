"""The command line: registration of commands, error messages and exit codes.

Large packages are imported only by the commands that need them, so help and completion are fast.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from time import process_time
from typing import Annotated, Any, Literal

import typer

from kanrun.cli import runs  # noqa: F401  # it adds its commands
from kanrun.cli.commands import (
    OUTPUTS,
    AsJson,
    Command,
    Outputs,
    Overrides,
    Quiet,
    Strict,
    kanrun_commands,
)
from kanrun.config import EXPERIMENTS, groups_of, keys_of, settings_of
from kanrun.config.registry import ExperimentKind, group_of
from kanrun.errors import KanrunError, UsageError, did_you_mean, printable, tell

#: Largest number of characters of a printed message.
_LONGEST = 2000
#: Largest number of commands that `kanrun keys` lists for a key.
MAX_PLACES = 3


class ExperimentCommand(Command):
    """A command whose help ends with the configuration groups and with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the groups with their choices, and the examples."""
        name = ctx.obj.name
        examples = ctx.obj.examples
        if groups := [(group, ", ".join(choices)) for group, choices in groups_of(name)]:
            with formatter.section("Configuration groups (group=choice)"):
                formatter.write_dl(groups)
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        formatter.write_paragraph()
        formatter.write_text(f"All keys and their values: kanrun {name} --cfg job")


def add_experiments() -> None:
    """Add the commands of experiments that have not been added yet, such as those of plug-ins."""
    there = {command.name for command in kanrun_commands.registered_commands}
    for experiment in EXPERIMENTS.values():
        if experiment.name not in there:
            _add_experiment(experiment)
    kanrun_commands.registered_commands.sort(key=lambda command: command.name not in EXPERIMENTS)


def _add_experiment(experiment: ExperimentKind) -> None:
    @kanrun_commands.command(
        experiment.name,
        cls=ExperimentCommand,
        help=experiment.summary,
        context_settings={"obj": experiment},
    )
    def run_experiment(  # noqa: PLR0913  (each is an option)
        overrides: Overrides = None,
        *,
        multirun: Annotated[
            bool,
            typer.Option(
                "--multirun", "-m", help="Run each combination of comma-separated values."
            ),
        ] = False,
        outputs: Outputs = OUTPUTS,
        quiet: Quiet = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help="Also print how choices were made.")
        ] = False,
        strict: Strict = False,
        force: Annotated[
            bool,
            typer.Option(
                "--force", help="Run even if the estimated memory exceeds that of this machine."
            ),
        ] = False,
        dry_run: Annotated[
            bool,
            typer.Option(
                "--dry-run", help="Print what would run and how large it is; write nothing."
            ),
        ] = False,
        cfg: Annotated[
            Literal["job"] | None,
            typer.Option("--cfg", "-c", help="Print the configuration, run nothing."),
        ] = None,
        resolve: Annotated[
            bool, typer.Option("--resolve", help="With --cfg: show interpolations resolved.")
        ] = False,
        config_dir: Annotated[
            str | None,
            typer.Option(
                "--config-dir", "-cd", metavar="DIR", help="Add custom groups and choices."
            ),
        ] = None,
        config_name: Annotated[
            str | None,
            typer.Option(
                "--config-name", "-cn", metavar="NAME", help="Use another primary configuration."
            ),
        ] = None,
    ) -> None:
        """Run an experiment."""
        began = process_time()
        if cfg is not None and multirun:
            raise UsageError("--cfg and --multirun cannot be combined; use only one of them.")
        if resolve and cfg is None:
            raise UsageError("--resolve is an option of --cfg; add --cfg job.")
        if "${" in str(outputs):
            raise UsageError(
                f"--outputs {outputs} has an interpolation, which is not replaced in the name of a "
                "folder. Write the folder itself."
            )
        from kanrun.launch import Source, compose, shown_config

        source = Source(experiment.name, outputs, config_dir, config_name)
        argv = ("kanrun", *sys.argv[1:])
        study = compose(source, overrides or (), several=multirun, argv=argv)
        if cfg is not None:
            print(shown_config(study, resolve), end="")
            return
        from kanrun.study.running import run_study
        from kanrun.study.studies import RunOptions

        options = RunOptions(outputs, quiet, verbose, strict, force, dry_run, began)
        raise typer.Exit(run_study(study, options)[0])


@kanrun_commands.command("keys", cls=Command)
def keys(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX", help="Beginning of the keys, such as model or solver.smo."
        ),
    ] = "",
    *,
    command: Annotated[
        str | None, typer.Option(metavar="NAME", help="Experiment of the keys, such as fit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings: rule, default, purpose."""
    known = keys_of(command)
    selected = [key for key in known if key.path.startswith(prefix)]
    if not selected:
        offer = did_you_mean(prefix, [key.path for key in known])
        raise UsageError(f"no key begins with {prefix!r}{offer or '.'}")
    if as_json:
        print(json.dumps([asdict(key) for key in selected], indent=2))
        return
    for key in selected:
        default = f"default {key.default}" if key.default else ""
        choices = ", ".join(key.choices) if key.rule == "group" else ""
        facts = filter(None, (key.rule, choices, default))
        where = "" if len(key.where) > MAX_PLACES else f" ({', '.join(key.where)})"
        lines = (f"{key.path}{where}", key.about, "; ".join(facts))
        print("\n    ".join(filter(None, lines)))


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kanrun {version('kanrun')}")
        raise typer.Exit


@kanrun_commands.callback()
def _kanrun(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Experiments with Kolmogorov-Arnold Networks; each run has a folder of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0: done; 1: the run failed; 2: a wrong call or configuration; 130: interrupted; 143: terminated.
    Errors are one line on standard error; KANRUN_DEBUG=1 shows the traceback as well.
    """
    # Let idle threads sleep, because spinning threads slow training down tenfold if other programs
    # use the processor.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    typed = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        add_experiments()
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = kanrun_commands(typed, prog_name="kanrun", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except KanrunError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt as error:
        return getattr(error, "exit_code", 130)
    except Exception as error:
        # Typer's own errors (an unknown option, a wrong choice) have a sentence and an exit code.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _say(_advice(error), int(error.exit_code))
        return _say(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)


def _advice(error: Any) -> str:
    """Return the message of one of Typer's errors, with advice on what to write instead."""
    # Newer versions of Typer convert values by pydantic, whose messages begin like this.
    text = " ".join(error.format_message().split()).replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", "")
    name = option.lstrip("-")
    known = EXPERIMENTS.get(context.info_name) if context else None
    if hasattr(error, "possibilities"):  # the option does not exist
        near = [there for there in error.possibilities or () if there != "--help"]
        text = error.message + (f"; did you mean {near[0]}?" if near else "")
    if known and (name in settings_of(known.settings) or group_of(known, name)):
        text = f"{error.message}. Settings are written key=value: {name}=VALUE"
    if text.endswith("?"):
        return text
    return f"{text.rstrip('.')} (see {context.command_path if context else 'kanrun'} --help)."


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning for users as one line; drop warnings of libraries for developers."""
    if category is UserWarning:
        tell(_one_line(str(message)))


def _say(sentence: str, code: int) -> int:
    if os.environ.get("KANRUN_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)
    tell(_one_line(sentence))
    return code


def _one_line(text: str) -> str:
    """Return text as one line of limited length, without characters that control a terminal."""
    line = " ".join(part.strip() for part in text.splitlines())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    return printable(line)
