"""Run the tasks of a benchmark in parallel, and write the table of its rows.

Scripts are started from the top folder as `python benchmarks/NAME.py`, so they import this module
as `from _running import arguments, run, write_table`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

Task = TypeVar("Task")
Result = TypeVar("Result")


def arguments(description: str, seeds: int = 1) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks: n_jobs, seeds, only and out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--n-jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seeds", type=int, default=seeds, help="repetitions of each problem")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these problems")
    parser.add_argument("--out", type=Path, help="folder of the table")
    return parser


def chosen(names: Iterable[str], only: Iterable[str]) -> list[str]:
    """Return the names that `only` selects, or all; end with one sentence if one is unknown."""
    known, wanted = list(names), list(only)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"--only: there is no {unknown[0]!r}; known are {', '.join(known)}", file=sys.stderr)
        raise SystemExit(2)
    return [name for name in known if not wanted or name in wanted]


def run(tasks: Iterable[Task], function: Callable[[Task], Result], n_jobs: int = 1) -> list[Result]:
    """Return the function's result for each task, in the order of the tasks.

    With several processes, the function must be defined at the top level of its module.
    """
    listed = list(tasks)
    if n_jobs == 1:
        return [function(task) for task in listed]
    with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(function, task) for task in listed]
        for done, _ in enumerate(as_completed(futures), 1):
            print(f"{done} of {len(futures)}", file=sys.stderr)
        return [future.result() for future in futures]


def write_table(name: str, rows: Iterable[dict[str, Any]], out: Path | None = None) -> pd.DataFrame:
    """Print the rows as a table, and write them as CSV below outputs/benchmarks/`name`."""
    table = pd.DataFrame(list(rows))
    folder = out or Path("outputs", "benchmarks", name)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "table.csv", index=False)
    print(table.to_string(index=False))
    return table
