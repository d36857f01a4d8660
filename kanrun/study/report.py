"""Print, compare and redraw the results of runs, at the end of a run and for `kanrun runs`."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kanrun.config import EXPERIMENTS, MODELS
from kanrun.config.registry import Plain
from kanrun.errors import KanrunError, UsageError, printable
from kanrun.runs import Run
from kanrun.runs.files import MARKS, file_name, flattened, frame_of, write_atomic, write_figure
from kanrun.runs.finding import ABOUT_A_RUN, RESULTS
from kanrun.runs.records import Claim
from kanrun.study import drawings
from kanrun.study.progress import shown

Columns = Mapping[str, Sequence[Any]]
#: Columns that measure how accurate a trained model is. `outcome` reports the first of these
#: columns that the summary has.
_REACHED = (*RESULTS, "test_deviance", "cv_cross_entropy", "validation_rmse", "train_rmse")
#: Largest number of rows of a table, or of failures, that are printed.
_MOST_ROWS = 40


def output_console() -> Console:
    """Return a console on standard output: as wide as the terminal, or unbounded without one."""
    unbounded = 100_000  # width of standard output, in characters, if it is a file or a pipe
    console = Console()
    if not console.is_terminal:
        console.width = unbounded
    return console


def print_line(console: Console, line: str | Text) -> None:
    """Print one line, which is wrapped only on a terminal."""
    text = line if isinstance(line, Text) else Text(printable(line))
    console.print(text, soft_wrap=not console.is_terminal)


def print_table(
    console: Console,
    columns: Columns,
    *,
    first: Sequence[str] = (),
    title: str | None = None,
) -> list[str]:
    """Print the columns of a table that fit the width of the console, and name the others.

    Args:
        console: Console to print to.
        columns: Values by column name, all of one length.
        first: Names of columns with priority. The first of them is always printed, if necessary
            truncated.
        title: Title above the table.

    Returns:
        The names of the columns that were not printed.
    """
    cells = {name: [shown(value) or "-" for value in values] for name, values in columns.items()}
    chosen = set[str]()
    room = console.width + 2
    for name in dict.fromkeys([*(name for name in first if name in columns), *columns]):
        needs = max([len(printable(name)), *map(len, cells[name])]) + 2
        if needs <= room or not chosen:
            chosen.add(name)
            room -= needs
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for name in filter(chosen.__contains__, columns):
        side: Any = "right" if _is_numeric(columns[name]) else "left"
        table.add_column(Text(printable(name)), justify=side, overflow="ellipsis", no_wrap=True)
    for row in zip(*(cells[name] for name in columns if name in chosen), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    return [name for name in columns if name not in chosen]


def _is_numeric(values: Sequence[Any]) -> bool:
    kinds = {type(value) for value in values if value is not None}
    return bool(kinds) and all(kind is not bool and hasattr(kind, "__float__") for kind in kinds)


def print_results(console: Console, run: Run) -> None:
    """Print the points or the summary of a run, its claims, and its failed training runs."""
    manifest = run.manifest
    with contextlib.suppress(KanrunError):  # tables may be damaged
        if run.has_points:
            print_points(console, run)
        elif columns := run.columns("summary"):
            print_summary(console, columns)
    print_claims(console, manifest.claims)
    if manifest.trainings > 1:
        print_failures(console, manifest.failures)


def print_summary(console: Console, summary: Columns) -> None:
    """Print the columns of `summary.csv` that fit the width of the console.

    A single row is printed as pairs of names and values, with seed and cell last. Several seeds of
    one cell become a table with an additional row for their median. Several cells with several
    seeds become a table of medians over seeds, one row per cell.
    """
    rows = len(next(iter(summary.values()), ()))
    if rows <= 1:
        pairs = Table(show_header=False, box=None, pad_edge=False)
        pairs.add_column(style="bold", no_wrap=True)
        pairs.add_column(overflow="fold")
        for name in sorted(summary, key=MARKS.__contains__):
            if value := "".join(map(shown, summary[name])):
                pairs.add_row(Text(printable(name)), Text(value))
        console.print(pairs)
        return
    table: dict[str, Sequence[Any]] = {n: v for n, v in summary.items() if any(map(shown, v))}
    title = None
    seeds = len(set(summary.get("seed", ())))
    if seeds > 1 and "cell" in summary:
        title = f"medians over {seeds} seeds"
        frame = frame_of(table).groupby("cell", sort=False).agg(_agreed).reset_index()
        table = {str(name): values.tolist() for name, values in frame.drop(columns="seed").items()}
    elif seeds > 1:
        table = {name: [*values, _agreed(values)] for name, values in table.items()}
        table["seed"] = [*map(str, summary["seed"]), "median"]
    # Columns in which rows differ have priority.
    alike = {name for name, values in table.items() if len({*map(shown, values)}) == 1}
    order = sorted(("cell", "seed", *_REACHED, *table), key=alike.__contains__)
    cut = {name: values[-_MOST_ROWS:] for name, values in table.items()}
    left_out = print_table(console, cut, first=order, title=title)
    if left_out or len(table) < len(summary) or rows > _MOST_ROWS:
        console.print(Text("more rows or columns in summary.csv", style="dim"))


def outcome(summary: Columns) -> str:
    """Describe the result of training one model in a few words.

    An example is "KAN [2,1,1] with 50 intervals: test RMSE 6.4e-7". Return "" if the summary has
    several rows, no error, or no known model.
    """
    row = {name: column[0] for name, column in summary.items() if shown(column[0])}
    error = next((name for name in _REACHED if name in row), None)
    if error is None or len(summary[error]) > 1 or row.get("model") not in MODELS:
        return ""
    kind = MODELS[row["model"]]
    shape = "" if kind.closed_form else f" [{row['shape'].replace('-', ',')}]"
    size = "intervals" if "intervals" in row else "parameters"
    name = error.replace("cv", "cross-validated").replace("_", " ").replace("rmse", "RMSE")
    reached = shown(row[error]).replace("e-0", "e-")
    return f"{kind.label or row['model']}{shape} with {shown(row[size])} {size}: {name} {reached}"


def medians(summary: Columns) -> dict[str, float | None]:
    """Return the median of each column of numbers in a summary, ignoring missing values."""
    numbers = {name: values for name, values in summary.items() if _is_numeric(values)}
    return {name: _agreed(values) for name, values in numbers.items() if name not in MARKS}


def _agreed(column: Iterable[Any]) -> Any:
    """Return one value for several seeds: the median of numbers, ignoring missing values.

    Other values are returned if they are all equal; otherwise the result is None.
    """
    values = list(column)
    if _is_numeric(values):
        numbers = [float(value) for value in values if shown(value)]
        return statistics.median(numbers) if numbers else None
    return values[0] if all(value == values[0] for value in values) else None


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print each claim with its measured value, bound and spread, and whether it holds."""
    if claims:
        console.print(Text("CLAIMS", style="bold"))
    for claim in claims:
        mark, style = ("holds", "green") if claim.holds else ("DOES NOT HOLD", "bold red")
        spread = f" ({claim.spread})" if claim.spread else ""
        measured = f"measured {shown(claim.measured) or 'not a number'}{spread}"
        detail = printable(f"  {claim.sentence}: {measured}, bound: {claim.bound}")
        print_line(console, Text.assemble((mark, style), detail))


def print_failures(console: Console, failures: Sequence[Plain]) -> None:
    """Print which training runs failed and why."""
    if failures:
        console.print(Text(f"{len(failures)} failed", style="bold red"))
    for failure in failures[:_MOST_ROWS]:
        name = ", ".join(f"{key} {failure[key]}" for key in MARKS if key in failure)
        print_line(console, f"  {name}: {failure['reason']}")
    if len(failures) > _MOST_ROWS:
        console.print(Text(f"  and {len(failures) - _MOST_ROWS} more, all in run.json"))


Side = dict[str, list[Any]]  # for each name, one value per run; None if the run has no such value


def differences(runs: Sequence[Run]) -> tuple[Side, Side]:
    """Compare runs: return their settings and results, each as name -> values per run.

    Only settings that differ between runs are returned, including those that some runs lack.
    Results are medians over seeds; results that every run has come first. A run whose record cannot
    be read has the value None everywhere. Raises UsageError if there are fewer than two runs.
    """
    if len(runs) < 2:
        raise UsageError(f"two runs or more are compared, not {len(runs)}.")
    settings: Side = {}
    results: Side = {}
    for number, run in enumerate(runs):
        with contextlib.suppress(KanrunError):
            for side, values in (
                (settings, flattened(run.config)),
                (results, run.manifest.metrics),
            ):
                for name, value in values.items():
                    side.setdefault(name, [None] * len(runs))[number] = value
    differing = {
        name: column
        for name, column in settings.items()
        if name not in ABOUT_A_RUN and any(value != column[0] for value in column)
    }
    return differing, dict(sorted(results.items(), key=lambda pair: pair[1].count(None)))


def as_columns(runs: Sequence[Run], side: Side, title: str = "") -> Side:
    """Return `side` as a table: a column `title` with the names, and one column per run."""
    values = zip(*side.values(), strict=True)
    return {title: list(side)} | {
        run.name: list(column) for run, column in zip(runs, values, strict=True)
    }


def redraw(
    run: Run,
    formats: Sequence[str],
    names: Sequence[str],
    effects: Sequence[str],
) -> list[Path]:
    """Draw figures of a run, or of one of its points, again from the recorded tables.

    Args:
        run: A run or a point of a run. For a run of several points, the result is drawn over the
            swept settings.
        formats: File formats of the figures.
        names: Names of the figures to draw, which may include figures that are drawn only on
            request; if empty, the default figures.
        effects: Names of input columns. If given, draw instead the partial dependence of the first
            seed's model on each of them, and write its values as CSV.

    Returns:
        The paths of the files.

    Raises:
        UsageError: If the run is still running, if the command, a format, a name or a column is
            unknown, or if `names` is combined with `effects` or with a run of several points.
    """
    run.check_ended(force=True)
    if names and (effects or run.has_points):
        raise UsageError(
            f"--figure {names[0]} is of one run or point, without --effect. Leave out --effect, or "
            "choose a point with --point."
        )
    experiment = EXPERIMENTS.find(run.manifest.command, "command").build()
    if "summary" not in run.tables:
        raise UsageError(f"{run.name} has no results to draw: none of its trainings finished.")
    if effects:
        return _draw_effects(run, formats, effects)
    written = list[Path]()
    for name, draw in drawings(run, experiment, names):
        written += write_figure(run.figures_folder / file_name(name), draw(), formats)
    return written


def _draw_effects(run: Run, formats: Sequence[str], names: Sequence[str]) -> list[Path]:
    """Draw the effects of input columns, write their values as CSV, and return the paths."""
    from kanrun.model.model import LoadedRun, effect_figure

    written = list[Path]()
    model = LoadedRun(run).model()
    for name, table in {name: model.effect(name) for name in names}.items():
        stem = run.figures_folder / file_name(f"effect_{name}")
        written += write_figure(stem, effect_figure(model, table), formats)
        written.append(stem.with_name(f"{stem.name}.csv"))
        write_atomic(written[-1], table.to_csv(index=False).encode())
    return written


def points_table(run: Run) -> dict[str, list[Any]]:
    """Return the name, status, swept settings and results of each point of a run, by column."""
    rows = list[dict[str, Any]]()
    for point in run.points:
        rows.append({"point": point.name, "status": point.status, **_swept(point)})
        with contextlib.suppress(KanrunError):
            rows[-1] |= point.manifest.metrics
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain(*rows))}


def print_points(console: Console, run: Run) -> None:
    """Print the points of a run: swept settings, results, and which point is best.

    If there are more than 40 points, only those with the lowest errors are printed, in the order of
    their numbers.
    """
    errors = [math.inf if point.error is None else point.error for point in run.points]
    best = run.points.index(run.best) if min(errors) < math.inf else -1
    some = sorted(sorted(range(len(errors)), key=errors.__getitem__)[:_MOST_ROWS])
    columns = {n: [values[row] for row in some] for n, values in points_table(run).items()}
    columns["point"] = [f"{row}{' *' * (row == best)}" for row in some]
    first = ("point", *RESULTS, "status", *_swept(run.points[0]))
    left_out = print_table(console, columns, first=first)
    claims = [claim for result in run.journal.results.values() for claim in result.claims]
    held = sum(claim.holds for claim in claims)
    where = run.path / "summary.csv"
    for line, needed in (
        (f"the best {len(some)} of {len(errors)} points; all in {where}", len(some) < len(errors)),
        (f"more columns in {where}: {', '.join(left_out)}", left_out),
        (f"*: the best point, {run.points[best].name}", best >= 0),
        (f"{held} of {len(claims)} claims hold; see one point for its own", claims),
    ):
        if needed:
            print_line(console, f"  {line}")


def _swept(run: Run) -> Plain:
    """Return the swept values of a point."""
    return run.point.values if run.point else {}
