"""Printed results of a run, at its end and by `kanrun runs`: tables, claims, failures."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kanrun.runs.records import Claim
from kanrun.runs.tables import MARKS

Columns = Mapping[str, Sequence[Any]]
#: Columns that a narrow terminal shows first; in the table they keep their order.
_FIRST = (
    "cell",
    "seed",
    "test_rmse",
    "relative_error",
    "test_accuracy",
    "test_cross_entropy",
    "rmse",
    "worst_forgetting",
    "quartiles",
    "learner",
    "target",
    "model",
    "activation",
    "shape",
    "parameters",
    "seconds",
)
#: Errors whose quartiles over seeds are shown next to their median.
_QUARTILES = ("test_rmse", "rmse")
_MOST_ROWS = 40
#: Characters of a line in a file or pipe, and on standard error without a terminal.
_UNBOUNDED, _WIDTH = 100_000, 120
#: Numbers are shown as whole below the first, with few digits below the second or from the third,
#: and with many nearer to 1 than the last (such as r2, where the distance from 1 is what counts).
_WHOLE, _SMALL, _LARGE, _NEAR_ONE = 1e9, 1e-2, 1e5, 1e-3


def error_console() -> Console:
    """Return a console on standard error: as wide as the terminal, or 120 without one."""
    console = Console(stderr=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(stderr=True, width=_WIDTH)
    return console


def output_console() -> Console:
    """Return a console on standard output: as wide as the terminal, or unbounded without one."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNBOUNDED)


def printable(text: str) -> str:
    """Return `text` with blanks for control characters, which a stored text may have."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def shown(value: Any) -> str:
    """Return a value as people read it: a few digits of a number, "" for a missing one."""
    if value is None or value != value:  # noqa: PLR0124  (missing values differ from themselves)
        return ""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return printable(str(value))
    number = float(value)
    if number.is_integer() and abs(number) < _WHOLE:
        return str(int(number))
    if abs(number - 1) < _NEAR_ONE:
        return f"{number:.10g}"
    return f"{number:.4g}" if _SMALL <= abs(number) < _LARGE else f"{number:.2e}"


def print_line(console: Console, line: str | Text) -> None:
    """Print one line, which stays one line in files and pipes."""
    text = line if isinstance(line, Text) else Text(printable(line))
    console.print(text, soft_wrap=not console.is_terminal)


def print_pairs(console: Console, pairs: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if shown(value):
            table.add_row(Text(printable(str(name))), Text(shown(value)))
    console.print(table)


def print_table(
    console: Console,
    columns: Columns,
    *,
    first: Sequence[str] = (),
    title: str | None = None,
    most: int | None = None,
) -> tuple[int, list[str]]:
    """Print the columns that fit the console; return the number of rows and the columns left out.

    Columns of `first` have priority; the first of them is always there, cut if need be.
    """
    rows = len(next(iter(columns.values()), ()))
    kept = rows if most is None else min(rows, most)
    cells = {name: [shown(value) or "-" for value in each[:kept]] for name, each in columns.items()}
    chosen, used = set[str](), -2
    for name in sorted(columns, key=lambda name: _rank(name, first)):
        needs = max([len(printable(name)), *map(len, cells[name])]) + 2
        if used + needs <= console.width or not chosen:
            chosen.add(name)
            used += needs
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    names = [name for name in columns if name in chosen]
    for name in names:
        side: Any = "right" if _is_numeric(columns[name]) else "left"
        table.add_column(Text(printable(name)), justify=side, overflow="ellipsis", no_wrap=True)
    for number in range(kept):
        table.add_row(*(Text(cells[name][number]) for name in names))
    console.print(table)
    return rows - kept, [name for name in columns if name not in chosen]


def _rank(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _is_numeric(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if value is not None]
    return bool(numbers) and all(
        hasattr(value, "__float__") and not isinstance(value, bool) for value in numbers
    )


def print_summary(console: Console, summary: Columns) -> None:
    """Print the columns of `summary.csv` so that they fit the width.

    One row becomes names and values; the seeds of one cell a table with their median; several cells
    with several seeds a table of medians, one line per cell.
    """
    rows = len(next(iter(summary.values()), ()))
    if rows <= 1:
        print_pairs(console, {name: each[0] for name, each in summary.items() if rows})
        return
    table, title = dict(summary), None
    seeds = len(set(summary.get("seed", ())))
    if seeds > 1 and "cell" in summary:
        table, title = _medians_of_cells(summary), f"medians over {seeds} seeds"
    elif seeds > 1 and rows <= _MOST_ROWS:
        table = {name: [*values, _agreed(values)] for name, values in summary.items()}
        table["seed"] = [*map(str, summary["seed"]), "median"]
    there = {name: each for name, each in table.items() if any(map(shown, each))} or table
    # Columns in which rows differ have priority.
    alike = {
        name: name not in _QUARTILES and len({*map(shown, there[name])}) == 1 for name in there
    }
    order = sorted(there, key=lambda name: (alike[name], _rank(name, _FIRST)))
    more, left_out = print_table(console, there, first=order, title=title, most=_MOST_ROWS)
    missing = {"rows": more, "columns": len(left_out) + len(table) - len(there)}
    if said := " and ".join(f"{number} more {what}" for what, number in missing.items() if number):
        console.print(Text(f"{said} in summary.csv", style="dim"))


def _medians_of_cells(summary: Columns) -> dict[str, Sequence[Any]]:
    """Return one row per cell: medians, quartiles of the error, and text if all agree."""
    groups: dict[Any, list[int]] = {}
    for row, cell in enumerate(summary["cell"]):
        groups.setdefault(cell, []).append(row)
    error = next((name for name in _QUARTILES if name in summary), None)
    merged: dict[str, Sequence[Any]] = {"cell": list(groups)}
    for name, values in summary.items():
        grouped = [[values[row] for row in rows] for rows in groups.values()]
        if name not in {"cell", "seed"}:
            merged[name] = list(map(_agreed, grouped))
        if name == error:
            merged["quartiles"] = list(map(_range, grouped))
    return merged


def _agreed(values: Sequence[Any]) -> Any:
    """Return the median of numbers without missing ones; of other values the common one."""
    if _is_numeric(values):
        numbers = [float(value) for value in values if shown(value)]
        return statistics.median(numbers) if numbers else None
    return values[0] if all(value == values[0] for value in values) else None


def _range(values: Sequence[Any]) -> str:
    """Return the quartiles of numbers."""
    numbers = [float(value) for value in values if shown(value)]
    if len(numbers) > 1:
        numbers = statistics.quantiles(numbers, n=4, method="inclusive")
    return f"{shown(numbers[0])} .. {shown(numbers[-1])}" if numbers else ""


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print each claim with measured value, bound, spread, and whether it holds."""
    if claims:
        console.print(Text("CLAIMS", style="bold"))
    for claim in claims:
        mark, style = ("holds", "green") if claim.holds else ("DOES NOT HOLD", "bold red")
        spread = f" ({claim.spread})" if claim.spread else ""
        measured = f"measured {shown(claim.measured) or 'not a number'}{spread}"
        detail = printable(f"  {claim.sentence}: {measured}, bound: {claim.bound}")
        print_line(console, Text.assemble((mark, style), detail))


def print_failures(console: Console, failures: Sequence[Mapping[str, Any]]) -> None:
    """Print which trainings failed and why."""
    if failures:
        console.print(Text(f"{len(failures)} failed", style="bold red"))
    for failure in failures[:_MOST_ROWS]:
        print_line(console, f"  {training_of(failure)}: {failure['reason']}")
    if len(failures) > _MOST_ROWS:
        console.print(Text(f"  and {len(failures) - _MOST_ROWS} more, all in run.json"))


def training_of(failure: Mapping[str, Any]) -> str:
    """Return the training that failed, such as "point 3, cell 0, seed 1"."""
    return ", ".join(f"{key} {failure[key]}" for key in MARKS if key in failure)
