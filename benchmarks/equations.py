"""Solve the equations of a list in equations/, and compare true errors with estimates and bounds.

An entry has an equation (the name of one in conf/equation, or its settings), other settings of
`kanrun solve`, and bounds that the medians over the seeds must reach. The known solution of an
entry with `width`, a generated problem with a narrow feature, does not enter the verdict, so that
wrong certificates show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _running import arguments, chosen, run, write_table
from kanrun.experiments.solve.config import EquationConfig, NetworkConfig, SolveConfig
from kanrun.experiments.solve.solution import SolvedEquation, error_ratios, solved, verdict
from omegaconf import OmegaConf

from kanrun.config.rules import typed
from kanrun.engine.equations.system import low_discrepancy
from kanrun.errors import KanrunError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse_expression, variable

FOLDER = Path(__file__).parent
#: Columns of `SolvedEquation.summary` in the table.
COLUMNS = "network", "verdict", "reference", "estimate", "grid_change", "l2", "mse", "seconds"


def read(path: Path) -> Any:
    """Return the content of a YAML file, in which 1e-6 is a number."""
    return OmegaConf.to_container(OmegaConf.load(path))


def solve(task: tuple[dict[str, Any], int]) -> dict[str, Any]:
    """Return the row of an entry and a seed."""
    entry, seed = task
    given = entry["equation"]
    if isinstance(given, str):
        given = read(FOLDER.parent / "conf/equation" / f"{given}.yaml")
    given = {**given, "intervals": entry.get("intervals")}
    cfg = SolveConfig(
        seed=seed,
        equation=typed(EquationConfig, given, "equation."),
        network=typed(NetworkConfig, entry.get("network", {}), "network."),
        tolerance=entry.get("tolerance", 1e-6),
    )
    row = {"name": entry["name"], "seed": seed}
    try:
        found = solved(cfg)
    except KanrunError as error:
        return {**row, "verdict": f"failed: {error}"}
    summary = found.summary()
    if "width" in entry:
        summary["verdict"] = verdict(found.solution, found.problem.system, None)[0]
        summary["l2"] = error_near_features(found, entry)
        summary["reference"] = "exact"
    row |= {column: summary[column] for column in COLUMNS}
    for name, value in found.problem.truth.items():
        row[name] = summary[name]
        row[f"{name}_off"] = abs(summary[name] - value) / summary[f"{name}_error"]
    return row


def error_near_features(found: SolvedEquation, entry: dict[str, Any]) -> float:
    """Return the relative L2 error from points in the box and, more densely, at the features."""
    system = found.problem.system
    box = system.box.numpy()
    names = system.vocabulary.variables
    constants = entry["equation"]["constants"]
    if "time" in entry:
        points, truth = tabulated(entry["time"], constants, box[0, 1])
        return float(np.linalg.norm(found(points) - truth) / np.linalg.norm(truth))
    count, more, reach = 10_000, 2_000, 10.0
    parts = [low_discrepancy(system.box, count, found.seed).numpy()]
    places = []
    for text in entry.get("near", ()):
        formula = parse_expression(text, [*names, *constants])
        formula = formula.subs({variable(name): value for name, value in constants.items()})
        number = next(i for i, name in enumerate(names) if formula.has(variable(name)))
        slope = float(formula.diff(variable(names[number])))
        place = to_numpy(formula, names)
        points = low_discrepancy(system.box, more, found.seed).numpy()
        points[:, number] += (np.linspace(-reach, reach, more) - place(points)) / slope
        parts.append(points)
        places.append((place, more * abs(slope) * np.ptp(box[number]) / (2 * reach)))
    points = np.concatenate(parts)
    points = points[((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=1)]
    # A point counts inversely to the density of the points, so that means are means over the box.
    density = np.full(len(points), float(count))
    for place, added in places:
        density += added * (np.abs(place(points)) <= reach)
    truth = found.problem.comparison.values(points)
    squares = [np.sum(each**2, axis=1) for each in (found(points) - truth, truth)]
    return float(np.sqrt(np.sum(squares[0] / density) / np.sum(squares[1] / density)))


def tabulated(time: str, constants: dict[str, float], end: float) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate u(t), which grows from 0 to 1, by bisection from the formula of its inverse t(u)."""
    formula = parse_expression(time, ["u", *constants])
    values = {variable(name): value for name, value in constants.items()}
    inverse = to_numpy(formula.subs(values), ["u"])
    first = inverse([[0.0]])
    times = np.linspace(0, end, 401)
    low, high = np.zeros_like(times), np.ones_like(times)
    for _ in range(60):
        middle = (low + high) / 2
        early = inverse(middle[:, None]) - first < times
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return times[:, None], ((low + high) / 2)[:, None]


def judge(rows: pd.DataFrame, entries: list[dict[str, Any]]) -> None:
    """Print how many are solved, how right the estimates are, and which bounds are missed."""
    print(f"\nsolved: {(rows['verdict'] == 'solved').sum()} of {len(rows)}")
    # Rounding of a coordinate shifts a feature by a part of its width, which adds an error.
    rounding = {e["name"]: np.finfo(float).eps / (e.get("width") or 1) for e in entries}
    estimates = rows[["estimate", "grid_change"]].add(rows["name"].map(rounding), axis=0)
    ratios = error_ratios(rows.assign(**estimates))
    wrong = rows.loc[ratios.index[ratios > 10], "name"].tolist()
    unseen = [e["name"] for e in entries if (e.get("width") or 1) < e.get("seen_width", 0)]
    print(f"true error over the estimate of those that are solved, at most: {ratios.max():.3g}")
    print(f"wrongly called solved (above 10): {', '.join(wrong) or 'none'}")
    if unseen:
        print(f"narrower than a solver looks for: {', '.join(unseen)}")
    for entry in entries:
        of_entry = rows[rows["name"] == entry["name"]]
        for column, bound in entry.get("bounds", {}).items():
            median = of_entry[column].median()
            held = "holds" if median <= bound else "MISSED"
            print(f"{entry['name']}: median {column} {median:.3g}, at most {bound:g}: {held}")
    for column in rows.filter(regex="_off$"):
        share = (rows[column].dropna() <= 2).mean()
        print(f"{column.removesuffix('_off')} is within 2 standard errors: {share:.0%} of seeds")


def main() -> None:
    """Run one list."""
    parser = arguments(__doc__, seeds=1)
    lists = sorted(path.stem for path in (FOLDER / "equations").glob("*.yaml"))
    parser.add_argument("list", choices=lists)
    given = parser.parse_args()
    entries = read(FOLDER / "equations" / f"{given.list}.yaml")
    wanted = chosen((each["name"] for each in entries), given.only)
    entries = [each for each in entries if each["name"] in wanted]
    tasks = [(entry, seed) for entry in entries for seed in range(given.seeds)]
    rows = run(tasks, solve, given.n_jobs)
    judge(write_table(given.list, rows, given.out), entries)


if __name__ == "__main__":
    main()
