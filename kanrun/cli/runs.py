"""`kanrun runs`: list, show and continue runs."""

from __future__ import annotations

import json
import math
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
Force = Annotated[
    bool, typer.Option("--force", help="Also where another host started it, on which it must have ended.")
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="The Dask scheduler's, of a run with executor=dask.")
]


@app.command("list")
def list_runs(outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """List the runs, oldest first: name, status, when, how long, and its median test error."""
    from kanrun.runs import find_runs

    entries = [_entry(run) for run in find_runs(outputs)]
    if as_json:
        print(json.dumps(entries, indent=2))
    elif entries:
        columns = ("name", "status", "started", "seconds", "test_rmse", "overrides")
        _print_table(columns, [[_cell(entry[column]) for column in columns] for entry in entries])
    else:
        print(f"kanrun: no runs in {outputs} yet", file=sys.stderr)


@app.command("show")
def show_run(run: RunName = "latest", outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """Show one run: what was asked, how it ended, its summary, claims and files."""
    from kanrun.runs import resolve_run

    found = resolve_run(run, outputs)
    if as_json:
        print(json.dumps({"folder": str(found.path), **found.manifest.to_dict()}, indent=2, default=str))
        return
    manifest = found.manifest
    _print(f"{found.path}: {found.status}" + (f" ({manifest.reason})" if manifest.reason else ""))
    for name in ("started", "seconds", "seeds", "device", "precision", "threads"):
        _print(f"  {name}: {_cell(getattr(manifest, name))}")
    _print(f"  overrides: {' '.join(manifest.overrides) or 'none'}")
    if "summary" in found.tables:
        summary = found.table("summary")
        print()
        _print_table(list(summary.columns), [[_cell(value) for value in row] for row in summary.to_numpy().tolist()])
    for claim in manifest.claims:
        _print(f"  {'holds' if claim.holds else 'FAILS'}: {claim.sentence} ({_cell(claim.measured)}; {claim.bound})")
    for note in manifest.notes:
        _print(f"  note: {note}")
    for path in found.figures:
        _print(f"  {path}")


@app.command("resume")
def resume_run(
    run: RunName,
    outputs: Outputs = Path("outputs"),
    quiet: Quiet = False,
    strict: Strict = False,
    force: Force = False,
    address: Address = None,
) -> None:
    """Continue a run that was interrupted; what it had finished is not run again."""
    from kanrun.launch import resume
    from kanrun.runs import resolve_run

    found = resolve_run(run, outputs)
    raise typer.Exit(resume(found.path, quiet=quiet, strict=strict, force=force, address=address))


def _entry(run: Run) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": run.name, "folder": str(run.path), "status": run.status}
    entry |= dict.fromkeys(("started", "seconds", "test_rmse", "overrides"))
    try:
        manifest = run.manifest
    except KanrunError:
        return entry
    entry |= {"started": manifest.started, "seconds": manifest.seconds, "overrides": list(manifest.overrides)}
    entry["test_rmse"] = manifest.metrics.get("test_rmse")
    return entry


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value) or "-"
    return str(value)


def _print_table(columns: list[str] | tuple[str, ...], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [list(columns), *rows]) for i in range(len(columns))]
    for row in [list(columns), *rows]:
        _print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print(line: str) -> None:
    """One line, with blanks for what would steer a terminal: a folder that someone sends may hold anything."""
    print("".join(letter if letter.isprintable() else " " for letter in line))
