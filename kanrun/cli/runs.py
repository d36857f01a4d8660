"""`kanrun runs`: list, show and continue runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kanrun.cli.experiments import Outputs, Quiet, Strict
from kanrun.errors import KanrunError

if TYPE_CHECKING:
    from kanrun.runs import Run

app = typer.Typer(help="List, show and continue runs.", rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run: latest, fit/v0003, or its folder.")]
RunOrSweep = Annotated[str, typer.Argument(metavar="RUN", help="A run or sweep: latest, fit/v0003, or its folder.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also where another host started it, on which it must have ended.")
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="The Dask scheduler's, of a run with executor=dask.")
]
Elsewhere = Annotated[
    str | None, typer.Option("--executor", metavar="KIND", help="Go on in serial, local or dask, whatever the run had.")
]


@app.command("list")
def list_runs(outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """List the runs, oldest first: name, status, when, how long, and its median test error."""
    from kanrun.runs import find_runs

    entries = [_entry(run) for run in find_runs(outputs)]
    if as_json:
        print(json.dumps(entries, indent=2))
    elif entries:
        from kanrun.study import report

        columns = ("name", "status", "started", "seconds", "test_rmse", "overrides")
        rows = [[_words(entry[column]) for column in columns] for entry in entries]
        report.print_table(report.output_console(), columns, rows)
    else:
        print(f"kanrun: no runs in {outputs} yet", file=sys.stderr)


@app.command("show")
def show_run(run: RunName = "latest", outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """Show one run: what was asked, how it ended, its summary, claims and files."""
    from kanrun.runs import find_run

    found = find_run(run, outputs)
    if as_json:
        print(json.dumps({"folder": str(found.path), **found.manifest.to_dict()}, indent=2, default=str))
        return
    from kanrun.study import report

    manifest, console = found.manifest, report.output_console()
    lines = [f"{found.path}: {found.status}" + (f" ({manifest.reason})" if manifest.reason else "")]
    for name in ("started", "seconds", "seeds", "device", "precision", "threads", "overrides"):
        lines.append(f"  {name}: {report.shown(_words(getattr(manifest, name))) or 'none'}")
    lines += [f"  note: {note}" for note in manifest.notes]
    for line in lines:
        report.print_line(console, line)
    if "summary" in found.tables:
        report.print_summary(console, found.table("summary"))
    report.print_claims(console, manifest.claims)
    for path in found.figures:
        report.print_line(console, f"  {path}")


@app.command("resume")
def resume_run(
    run: RunOrSweep,
    outputs: Outputs = Path("outputs"),
    quiet: Quiet = False,
    strict: Strict = False,
    force: Force = False,
    executor: Elsewhere = None,
    address: Address = None,
) -> None:
    """Continue a run or a sweep that was interrupted; what it had finished is not run again."""
    from kanrun.launch import GoingOn, resume, resume_sweep
    from kanrun.runs import find_run

    how = GoingOn(quiet=quiet, strict=strict, force=force, executor=executor, address=address)
    found = find_run(run, outputs)
    raise typer.Exit(resume_sweep(found.path, how) if found.is_sweep else resume(found.path, how))


def _entry(run: Run) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": run.name, "folder": str(run.path), "status": run.status}
    entry |= dict.fromkeys(("started", "seconds", "test_rmse", "overrides"))
    try:
        manifest = run.manifest
    except KanrunError:
        return entry
    started = manifest.started.isoformat(timespec="milliseconds") if manifest.started else None
    entry |= {"started": started, "seconds": manifest.seconds, "overrides": list(manifest.overrides)}
    entry["test_rmse"] = manifest.metrics.get("test_rmse")
    return entry


def _words(value: Any) -> Any:
    """A list as its words."""
    return " ".join(str(item) for item in value) if isinstance(value, list | tuple) else value
