"""Printed results of a study, at its end and by `kanrun runs`: tables, claims, failures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kanrun.runs.manifest import Claim

if TYPE_CHECKING:
    import pandas

# Which columns a narrow terminal shows first; in the table they stay in the order of summary.csv.
_FIRST = (
    "cell", "seed", "test_rmse", "test_accuracy", "test_cross_entropy", "rmse", "worst_forgetting", "quartiles",
    "learner", "target", "model", "variant", "part", "overlap", "schedule", "degree", "train_points", "noise",
    "penalised", "shape", "parameters", "intervals", "activation", "seconds", "flops", "inference_seconds",
    "validation_rmse", "train_rmse",
)  # fmt: skip
# The errors whose quartiles over seeds stand beside their median.
_ERRORS = ("test_rmse", "rmse")
_MOST_ROWS = 40
_UNBOUNDED = 100_000  # characters of a line in a file or pipe


def error_console() -> Console:
    """Return a console on standard error: as wide as the terminal, or 120 where there is none."""
    console = Console(stderr=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(stderr=True, width=120)
    return console


def output_console() -> Console:
    """Return a console on standard output: as wide as the terminal, or unbounded where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNBOUNDED)


def printable(text: str) -> str:
    """Return `text` with blanks for control characters: a folder from elsewhere may hold any text."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def print_line(console: Console, line: str | Text) -> None:
    """Print one line, which stays one line in files and pipes."""
    text = line if isinstance(line, Text) else Text(printable(line))
    console.print(text, soft_wrap=not console.is_terminal)


def print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print all rows; the last column alone is wrapped where the terminal is too narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        last = name == columns[-1]
        table.add_column(Text(name), no_wrap=not last, overflow="fold" if last else "ignore")
    for row in rows:
        table.add_row(*(Text(shown(value) or "-") for value in row))
    for column, values in zip(table.columns[:-1], zip(*rows, strict=True), strict=False):
        column.min_width = max(len(shown(value)) for value in values)
    console.print(table)


def print_summary(console: Console, summary: pandas.DataFrame) -> None:
    """Print `summary.csv` so that it fits the width.

    One row becomes names and values; the seeds of one cell a table with their median; several cells with
    several seeds a table of medians, one line per cell.
    """
    if summary.empty:
        return
    if len(summary) == 1:
        _print_pairs(console, summary)
        return
    title, rows = None, summary
    if "seed" in summary and summary["seed"].nunique() > 1:
        if "cell" in summary:
            title = f"medians over {summary['seed'].nunique()} seeds"
            rows = _with_quartiles(_merged(summary.drop(columns="seed"), "cell"), summary)
        elif len(summary) <= _MOST_ROWS:
            import pandas

            median = _merged(summary.assign(_one=0), "_one").assign(seed="median")[list(summary.columns)]
            rows = pandas.concat([summary.astype({"seed": object}), median], ignore_index=True)
    _print_rows(console, rows, title)


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print CLAIMS: each sentence with what was measured, the bound, the spread, and whether it holds."""
    if not claims:
        return
    console.print(Text("CLAIMS", style="bold"))
    for claim in claims:
        mark, style = ("holds", "green") if claim.holds else ("DOES NOT HOLD", "bold red")
        spread = f" ({claim.spread})" if claim.spread else ""
        detail = f"measured {shown(claim.measured) or 'not a number'}{spread}, bound {claim.bound}"
        print_line(console, Text.assemble((mark, style), printable(f"  {claim.sentence}: {detail}")))


def print_failures(console: Console, failures: Sequence[Mapping[str, Any]]) -> None:
    """Print which trainings failed and why."""
    if not failures:
        return
    console.print(Text(f"{len(failures)} failed", style="bold red"))
    for failure in failures[:_MOST_ROWS]:
        print_line(console, f"  cell {failure['cell']}, seed {failure['seed']}: {failure['reason']}")
    if len(failures) > _MOST_ROWS:
        console.print(Text(f"  and {len(failures) - _MOST_ROWS} more, all in run.json"))


def shown(value: Any) -> str:
    """Return a value as people read it: a few digits of a number, nothing for a missing one."""
    if value is None or value != value:  # noqa: PLR0124  (missing values differ from themselves)
        return ""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return printable(str(value))
    number = float(value)
    if number.is_integer() and abs(number) < 1e9:
        return str(int(number))
    if abs(number - 1) < 1e-3:  # such as r2, where the distance from 1 is what counts
        return f"{number:.10g}"
    return f"{number:.2e}" if abs(number) < 1e-2 or abs(number) >= 1e5 else f"{number:.4g}"


def _print_pairs(console: Console, summary: pandas.DataFrame) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in summary.iloc[0].items():
        if shown(value):
            table.add_row(Text(printable(str(name))), Text(shown(value)))
    console.print(table)


def _print_rows(console: Console, frame: pandas.DataFrame, title: str | None) -> None:
    rows = frame.head(_MOST_ROWS)
    names = _fitting(rows, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for name in names:
        number = name == "seed" or rows[name].dtype.kind in "fiu"
        table.add_column(
            Text(printable(name)), justify="right" if number else "left", overflow="ellipsis", no_wrap=True
        )
    for row in rows[names].itertuples(index=False):
        table.add_row(*(Text(shown(value)) for value in row))
    console.print(table)
    more = {"rows": len(frame) - len(rows), "columns": len(frame.columns) - len(names)}
    left_out = " and ".join(f"{number} more {what}" for what, number in more.items() if number)
    if left_out:
        console.print(Text(f"{left_out} in summary.csv", style="dim"))


def _merged(frame: pandas.DataFrame, group: str) -> pandas.DataFrame:
    """Return one row per group: medians of numbers, text where all rows agree on it."""
    numbers = set(frame.select_dtypes("number"))
    grouped = frame.groupby(group, sort=False)
    rules = {name: "median" if name in numbers else _agreed for name in frame.columns if name not in {group, "seed"}}
    merged: pandas.DataFrame = grouped.agg(rules).reset_index()
    return merged.drop(columns="_one", errors="ignore")


def _with_quartiles(rows: pandas.DataFrame, summary: pandas.DataFrame) -> pandas.DataFrame:
    """Return the medians with the quartiles over seeds after the error."""
    error = next((name for name in _ERRORS if name in rows), None)
    if error is None:
        return rows
    values = summary.groupby("cell", sort=False)[error]
    low, high = (values.quantile(share).reindex(rows["cell"]) for share in (0.25, 0.75))
    words = [f"{shown(a)} .. {shown(b)}" if shown(a) else "" for a, b in zip(low, high, strict=True)]
    rows.insert(list(rows.columns).index(error) + 1, "quartiles", words)
    return rows


def _agreed(values: pandas.Series[Any]) -> Any:
    return values.iloc[0] if values.nunique(dropna=False) == 1 else None


def _fitting(rows: pandas.DataFrame, width: int) -> list[str]:
    """Return the columns that fit into `width` characters, in their order, those in which rows differ first."""
    there = [name for name in rows.columns if rows[name].map(shown).any()] or list(rows.columns)
    alike = {name: name not in _ERRORS and rows[name].map(shown).nunique() == 1 for name in there}
    wanted = sorted(there, key=lambda name: (alike[name], _FIRST.index(name) if name in _FIRST else len(_FIRST)))
    chosen: list[Any] = []
    used = 0
    for name in wanted:
        needs = max([len(str(name)), *(len(shown(value)) for value in rows[name])]) + 2
        if used + needs <= width or not chosen:
            chosen.append(name)
            used += needs
    return [str(name) for name in rows.columns if name in chosen]
