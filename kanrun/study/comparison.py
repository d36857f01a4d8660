"""Comparison of runs and of the points of a run, and figures drawn again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kanrun.config import EXPERIMENTS
from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Run
from kanrun.runs.artifacts import write_figure
from kanrun.runs.files import file_name, write_atomic
from kanrun.runs.index import ABOUT_A_RUN, RESULTS, flattened
from kanrun.runs.reader import ERRORS
from kanrun.study import report
from kanrun.study.experiment import chosen_figures

_SEEDS = ("seed", "n_seeds")
#: Rows of the table of points.
_MOST_ROWS = 40
_ORIGIN = ("command", "git", "versions", "host", "device", "precision", "threads")
Side = dict[str, list[Any]]  # by name, one value a run; None where a run has none


def differences(runs: Sequence[Run]) -> tuple[Side, Side, Side]:
    """Return the settings, results and origins of runs, by name with one value a run.

    Settings and origins (command, commit, versions, machine) are those that differ, also those that
    a run does not have. Results are medians over seeds; those that every run has come first. Raises
    UsageError for fewer than two runs.
    """
    if len(runs) < 2:
        raise UsageError(f"two runs or more are compared, not {len(runs)}.")
    settings = _differing(_side(runs, lambda run: flattened(run.config)))
    results = _side(runs, lambda run: run.manifest.metrics)
    origins = _side(
        runs, lambda run: flattened({each: getattr(run.manifest, each) for each in _ORIGIN})
    )
    return (
        {
            name: list(map(_words, values))
            for name, values in settings.items()
            if name not in ABOUT_A_RUN
        },
        dict(sorted(results.items(), key=lambda pair: pair[1].count(None))),
        _differing(origins),
    )


def as_columns(runs: Sequence[Run], side: Side, title: str = "") -> Side:
    """Return `side` as a table: names in a column called `title`, and one column per run."""
    return {title: list(side)} | {
        run.name: [values[at] for values in side.values()] for at, run in enumerate(runs)
    }


def _side(runs: Sequence[Run], read: Callable[[Run], Mapping[str, Any]]) -> Side:
    """Return what `read` says of each run, by name; nothing if its record cannot be read."""
    each: list[Mapping[str, Any]] = [{} for _ in runs]
    for at, run in enumerate(runs):
        with contextlib.suppress(KanrunError):
            each[at] = read(run)
    names = dict.fromkeys(name for one in each for name in one)
    return {name: [one.get(name) for one in each] for name in names}


def _differing(side: Side) -> Side:
    return {
        name: values for name, values in side.items() if any(value != values[0] for value in values)
    }


def draw_comparison(runs: Sequence[Run], stem: Path) -> list[Path]:
    """Draw learning curves and edge functions of several runs over each other into one file.

    Raises UsageError for a run whose tables cannot be read.
    """
    from kanrun.figures import overlaid

    drawn: tuple[str, ...] = ("metrics", "edges")
    tables = {
        run.name: {name: run.table(name) for name in drawn if name in run.tables} for run in runs
    }
    if not any(tables.values()):
        return []
    kind = stem.suffix.removeprefix(".") if stem.suffix in {".png", ".svg", ".pdf"} else "png"
    stem = stem.with_suffix("") if stem.suffix == f".{kind}" else stem
    return write_figure(stem, overlaid(tables), [kind])


def redraw(
    run: Run,
    formats: Sequence[str] = ("png",),
    names: Sequence[str] = (),
    effects: Sequence[str] = (),
) -> list[Path]:
    """Draw figures of a run, or of one point, again from its tables, and return their files.

    These are the figures with `names`, also those that are drawn on request only, or the usual
    ones. Of a run of several points it is the figure over the swept keys. With `effects`, it is
    the partial dependence of these columns by the model of the first seed, with its numbers as CSV.
    Raises UsageError for a run that is running, or an unknown command, format, name or column.
    """
    run.check_ended(force=True)
    if run.has_points and not effects:
        return draw_points(run, formats)
    experiment = EXPERIMENTS.find(run.manifest.command, "command").build()
    tables, place, written = run.frames, run.figures_folder, list[Path]()
    if "summary" not in tables:
        raise UsageError(f"{run.name} has no results to draw: none of its trainings finished.")
    if effects:
        from kanrun.study.model_summary import effect_figure
        from kanrun.study.saved import LoadedRun

        model = LoadedRun(run).model()
        for name, table in {name: model.effect(name) for name in effects}.items():
            stem = place / file_name(f"effect_{name}")
            written += write_figure(stem, effect_figure(model, table), formats)
            written.append(stem.parent / f"{stem.name}.csv")
            write_atomic(written[-1], table.to_csv(index=False).encode())
        return written
    for name, draw in chosen_figures(experiment, tables, names):
        written += write_figure(place / file_name(name), draw(), formats)
    return written


def _words(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def print_points(console: Console, run: Run) -> None:
    """Print the points of a run with the swept settings, their results, and which is the best."""
    points, best = run.points, run.best
    # Of many points, those with the lowest errors in the order of their numbers.
    errors = [math.inf if point.error is None else point.error for point in points]
    ranked = sorted(range(len(points)), key=lambda at: (errors[at], at))
    shown = [points[at] for at in sorted(ranked[:_MOST_ROWS])]
    marked = best if best.error is not None else None
    columns: dict[str, list[Any]] = {
        "point": [f"{at.name.rpartition('/')[2]}{' *' * (at is marked)}" for at in shown],
        "status": [point.status for point in shown],
    }
    for name in _swept(run):
        columns[name] = [_words(_swept(point).get(name)) for point in shown]
    metrics = [point.manifest.metrics for point in shown]
    for name in (*RESULTS, "validation_rmse", "parameters", "seconds"):
        if name not in columns and any(each.get(name) is not None for each in metrics):
            columns[name] = [each.get(name) for each in metrics]
    _, left_out = report.print_table(console, columns, first=("point", *RESULTS, *columns))
    claims = [claim for result in run.journal.results.values() for claim in result.claims]
    held, where = sum(claim.holds for claim in claims), run.path / "summary.csv"
    for line, needed in (
        (
            f"the best {len(shown)} of {len(points)} points; all in {where}",
            len(shown) < len(points),
        ),
        (f"more columns in {where}: {', '.join(left_out)}", left_out),
        (f"*: the best point, {best.name}", marked),
        (f"{held} of {len(claims)} claims hold; see one point for its own", claims),
    ):
        if needed:
            report.print_line(console, f"  {line}")


def _swept(run: Run) -> Mapping[str, Any]:
    """Return the swept values of a point, or of the first point of a run."""
    point = run.points[0].point
    return point.values if point else {}


def draw_points(run: Run, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Draw the result over the swept keys into `figures/points`, and return the files.

    Nothing is drawn without a result that more than one row has.
    """
    if "summary" not in run.tables:
        return []
    table = run.table("summary")
    result = next(
        (name for name in (*RESULTS, *ERRORS) if name in table and table[name].notna().sum() > 1),
        None,
    )
    if result is None:
        return []
    from kanrun.figures import over_settings

    values = [_swept(point) for point in run.points]
    for name in values[0]:
        table[name] = [str(_words(values[int(number)][name])) for number in table["point"]]
    table = table.dropna(subset=[result])
    keys = [key for key in values[0] if key not in _SEEDS and table[key].nunique() > 1]
    stem = run.path / "figures" / "points"
    return write_figure(stem, over_settings(table, keys, result), formats)
