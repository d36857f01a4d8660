"""`kanrun runs`: repeat, resume, label, redraw and remove runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kanrun.cli.completion import complete_override
from kanrun.cli.experiments import Outputs, Quiet, Strict
from kanrun.cli.runs import RunName, RunNames, app
from kanrun.errors import UsageError

__all__ = ["app"]

Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Also where another host started it, on which it must have ended."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="ADDRESS", help="The Dask scheduler's, of a run with executor=dask."
    ),
]
Elsewhere = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="KIND", help="serial, local or dask, in place of the run's own."
    ),
]


@app.command("rerun")
def rerun_run(
    run: RunName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDES", help="Further changes.", autocompletion=complete_override
        ),
    ] = None,
    outputs: Outputs = Path("outputs"),
    quiet: Quiet = False,
    strict: Strict = False,
    executor: Elsewhere = None,
    address: Address = None,
) -> None:
    """Run a run, or a point of it, again; without further overrides its numbers are compared.

    Exits with 1 if numbers differ that the same version on the same machine should reproduce.
    """
    from kanrun.launch.composing import compose_again
    from kanrun.runs import find_run
    from kanrun.study.running import RunOptions, rerun, run_study

    options = RunOptions(outputs, quiet, strict=strict, executor=executor, address=address)
    found = find_run(run, outputs)
    if not overrides:
        raise typer.Exit(rerun(found, options))
    raise typer.Exit(run_study(compose_again(found, overrides, outputs), options)[0])


@app.command("resume")
def resume_interrupted(
    run: RunName,
    outputs: Outputs = Path("outputs"),
    quiet: Quiet = False,
    strict: Strict = False,
    force: Force = False,
    executor: Elsewhere = None,
    address: Address = None,
) -> None:
    """Continue a run that was interrupted or failed; what it had finished is not run again."""
    from kanrun.runs import find_run
    from kanrun.study.running import RunOptions, resume_run

    options = RunOptions(
        outputs, quiet, strict=strict, force=force, executor=executor, address=address
    )
    raise typer.Exit(resume_run(find_run(run, outputs), options))


@app.command("tag")
def tag_run(
    run: RunName,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG...", help="Words without blanks.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take these tags away; without tags, all.")
    ] = False,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Give a run tags, by which it is found and listed; without tags, print those it has."""
    from kanrun.runs import find_run
    from kanrun.runs.records import RunLabels, check_tags

    check_tags(tags or ())
    found = find_run(run, outputs)
    before = found.labels.tags
    if remove:
        if missing := [tag for tag in tags or () if tag not in before]:
            there = ", ".join(before) or "none"
            raise UsageError(f"{found.name} does not have the tag {missing[0]}; it has {there}.")
        after = tuple(tag for tag in before if tags and tag not in tags)
    else:
        after = tuple(dict.fromkeys((*before, *(tags or ()))))
    if after != before:
        RunLabels(after, found.labels.note).store(found.path)
    print(f"{found.name}: {', '.join(after) or 'no tags'}")


@app.command("note")
def note_run(
    run: RunName,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A sentence; an empty one removes it.")
    ] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write a sentence about a run, which replaces the last one; without TEXT, print it."""
    from kanrun.runs import find_run
    from kanrun.runs.records import RunLabels

    found = find_run(run, outputs)
    if text is not None:
        RunLabels(found.labels.tags, " ".join(text.split())).store(found.path)
    print(f"{found.name}: {found.labels.note or 'no note'}")


@app.command("remove")
def remove_runs(
    runs: RunNames,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Delete the folders of runs, after asking; nothing outside OUTPUTS, and no running run."""
    from kanrun.runs import find_run
    from kanrun.runs.locations import remove_run

    found = list({run.address: run for run in (find_run(word, outputs) for word in runs)}.values())
    for run in found:
        remove_run(run, outputs, check_only=True)
    if not yes:
        names = ", ".join(run.name for run in found)
        files = sum(path.is_file() for run in found for path in run.path.rglob("*"))
        print(
            f"Delete {names} with all {files} files? [y/N]: ", end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline()
        if not (sys.stdin.isatty() and answer):  # nobody pressed Enter on a terminal
            print(file=sys.stderr)
        if answer.strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was deleted.")
    for run in found:
        remove_run(run, outputs)
        print(f"deleted {run.path}")


@app.command("figures")
def redraw_figures(
    run: RunName,
    formats: Annotated[
        list[str],
        typer.Option("--format", metavar="FORMAT", help="png, svg or pdf; repeat for several."),
    ] = ["png"],  # noqa: B006  (Typer reads the default; nothing changes it)
    point: Annotated[
        int | None, typer.Option("--point", metavar="N", help="One point of a run of several.")
    ] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Draw the figures of a run, or of a point of it, again from its recorded tables."""
    from kanrun.runs import find_run
    from kanrun.study.comparison import redraw

    for path in redraw(find_run(run if point is None else f"{run}/{point}", outputs), formats):
        print(path)
