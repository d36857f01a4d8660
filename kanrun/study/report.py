"""What a study prints on standard error at its end: the summary, the claims, the failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kanrun.runs.manifest import Claim

if TYPE_CHECKING:
    import pandas

_FIRST = ("cell", "seed", "target", "model", "shape", "intervals", "test_rmse", "validation_rmse", "train_rmse")
_MOST_ROWS = 40


def print_summary(console: Console, summary: pandas.DataFrame) -> None:
    """Print the rows of `summary.csv`: one row as name and value, several as a table that fits the width."""
    if summary.empty:
        return
    if len(summary) == 1:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in summary.iloc[0].items():
            if shown(value):
                table.add_row(Text(str(name)), Text(shown(value)))
        console.print(table)
        return
    rows = summary.head(_MOST_ROWS)
    names = _fitting(rows, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        number = rows[name].dtype.kind in "fiu"
        table.add_column(Text(name), justify="right" if number else "left", overflow="ellipsis", no_wrap=True)
    for row in rows[names].itertuples(index=False):
        table.add_row(*(Text(shown(value)) for value in row))
    console.print(table)
    left_out = [f"{len(summary) - len(rows)} more rows"] if len(summary) > len(rows) else []
    left_out += [f"{len(summary.columns) - len(names)} more columns"] if len(names) < len(summary.columns) else []
    if left_out:
        console.print(Text(f"{' and '.join(left_out)} in summary.csv", style="dim"))


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print CLAIMS: each sentence with what was measured, the bound, the spread, and whether it holds."""
    if not claims:
        return
    console.print(Text("CLAIMS", style="bold"))
    for claim in claims:
        mark, style = ("holds", "green") if claim.holds else ("DOES NOT HOLD", "bold red")
        spread = f" ({claim.spread})" if claim.spread else ""
        detail = f"measured {shown(claim.measured)}{spread}, bound {claim.bound}"
        console.print(Text.assemble((mark, style), f"  {claim.sentence}: {detail}"))


def print_failures(console: Console, failures: Sequence[Mapping[str, Any]]) -> None:
    """Print which tasks failed and why."""
    if not failures:
        return
    console.print(Text(f"{len(failures)} failed", style="bold red"))
    for failure in failures[:_MOST_ROWS]:
        console.print(Text(f"  cell {failure['cell']}, seed {failure['seed']}: {failure['reason']}"))
    if len(failures) > _MOST_ROWS:
        console.print(Text(f"  and {len(failures) - _MOST_ROWS} more, all in run.json"))


def shown(value: Any) -> str:
    """Return a value as people read it: three digits of small and large numbers, nothing for a missing one."""
    if value is None or value != value:  # noqa: PLR0124  (missing values differ from themselves)
        return ""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return str(value)
    number = float(value)
    if number.is_integer() and abs(number) < 1e9:
        return str(int(number))
    return f"{number:.2e}" if abs(number) < 1e-2 or abs(number) >= 1e5 else f"{number:.4g}"


def _fitting(rows: pandas.DataFrame, width: int) -> list[str]:
    """Return the columns that fit into `width` characters, the telling ones first chosen, in their order."""
    wanted = sorted(rows.columns, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    chosen: list[Any] = []
    used = 0
    for name in wanted:
        needs = max([len(str(name)), *(len(shown(value)) for value in rows[name])]) + 2
        if used + needs <= width or not chosen:
            chosen.append(name)
            used += needs
    return [str(name) for name in rows.columns if name in chosen]
