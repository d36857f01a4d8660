"""Command line: commands and exit codes.

Commands import the heavy packages that they need, so that help and completion are fast.
"""

from __future__ import annotations

import contextlib
import keyword
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kanrun.cli.experiments import add_experiments, app
from kanrun.cli.options import Plugins, command
from kanrun.cli.run_actions import runs
from kanrun.config import EXPERIMENTS
from kanrun.config.plugins import add_plugins, named_in
from kanrun.config.registry import group_of
from kanrun.errors import KanrunError, UsageError

#: Files of the package that `init` writes; NAME and DISTRIBUTION stand for its names.
STARTER = Path(__file__).with_name("starter")
#: Maximum number of characters of a printed sentence.
_LONGEST = 2000


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kanrun {version('kanrun')}")
        raise typer.Exit


@app.callback()
def _kanrun(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Experiments with Kolmogorov-Arnold Networks; each run has a folder of its own."""


@command(app, "init")
def init(folder: Path, *, name: str | None = None) -> None:
    """Write a plug-in package: model, solver, target, experiment, configuration and test.

    Args:
        folder (DIR): A new or empty folder.
        name (NAME): Package name. Default: that of DIR.
    """
    given = folder.absolute().name if name is None else name
    module = re.sub(r"[^a-z0-9]+", "_", given.lower()).strip("_")
    if (
        not module.isidentifier()
        or keyword.iskeyword(module)
        or module in {"kanrun", *sys.stdlib_module_names}
    ):
        raise UsageError(
            f"{given!r} is not a valid name for a package. Give one with --name, such as my_kans."
        )
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and is not an empty folder; name a new one.")
        for source in sorted(path for path in STARTER.rglob("*.in") if path.is_file()):
            name_in_package = source.relative_to(STARTER).as_posix().removesuffix(".in")
            texts = (name_in_package, source.read_text(encoding="utf-8"))
            place, text = (
                one.replace("DISTRIBUTION", module.replace("_", "-")).replace("NAME", module)
                for one in texts
            )
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror or error}; name another folder."
        ) from error
    print(
        f"kanrun: {folder}/README.md describes it. Install it: pip install -e {folder}",
        file=sys.stderr,
    )
    print(folder)


app.add_typer(runs, name="runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0: done; 1: the run failed; 2: a wrong call or configuration; 130: interrupted; 143: terminated.
    Errors are one line on standard error; KANRUN_DEBUG=1 shows the traceback as well.
    """
    # Idle threads sleep: next to other work on the machine, spinning ones slow training down
    # tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        _load_plugins(words)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app(words, prog_name="kanrun", standalone_mode=False)
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
    """Return the sentence of an error of Typer's, with what to write instead."""
    # Newer versions of Typer convert by pydantic, which begins so.
    text = " ".join(error.format_message().split()).replace("Value error, ", "")
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", "")
    name, known = option.lstrip("-"), EXPERIMENTS.get(context.info_name) if context else None
    if hasattr(error, "possibilities"):  # there is no such option
        near = [one for one in error.possibilities or () if one != "--help"]
        text = error.message + (f"; did you mean {near[0]}" if near else "")
    if known and (name in known.settings.__dataclass_fields__ or group_of(known, name)):
        text = f"{error.message}. Settings are written key=value: {name}=VALUE"
    if text.endswith("?"):
        return text
    return f"{text.rstrip('.')} (see {context.command_path if context else 'kanrun'} --help)."


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning for the user as one line; warnings of libraries to developers are dropped."""
    if category is UserWarning:
        print(f"kanrun: {_printable(str(message))}", file=sys.stderr)


def _load_plugins(words: Sequence[str]) -> None:
    """Load plug-ins, which add commands and choices, before anything is parsed.

    While TAB is answered, the words of the command line are in the environment.
    """
    if "_KANRUN_COMPLETE" in os.environ:
        typed = (os.environ.get(name, "") for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"))
        with contextlib.suppress(KanrunError):
            add_plugins(named_in(" ".join(typed).split()))
    else:
        add_plugins(named_in(words))
    add_experiments()


def _say(sentence: str, code: int) -> int:
    if os.environ.get("KANRUN_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)
    print(f"kanrun: {_printable(sentence)}", file=sys.stderr)
    return code


def _printable(text: str) -> str:
    """Return text as one line of limited length, without characters that control a terminal."""
    line = " ".join(part.strip() for part in text.splitlines())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else " " for letter in line)
