"""How many known formulas `kanrun interpret` finds: `python benchmarks/formulas.py SUITE`.

The suites are studies of `kanrun interpret` in the folder study/interpret. Each formula that is
found is compared with the true function.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from _running import arguments, chosen, run, write_table
from kanrun.experiments.interpret.config import InterpretConfig
from kanrun.experiments.interpret.interpretation import Interpretation, interpretation
from kanrun.experiments.interpret.problem import InterpretationProblem, problems_of

from kanrun.engine.symbolic import SearchData
from kanrun.engine.symbolic.refit import ConstantsFitting, fit_constants, open_constants
from kanrun.engine.symbolic.simplification import size
from kanrun.launch import Source, compose
from kanrun.study import with_cell
from kanrun.targets.datasets import build_target


def in_form(formula: Any, data: SearchData, longest: float) -> bool:
    """Return whether a formula equals the true function once its constants are fitted.

    Args:
        formula: The formula.
        data: Points of the true function, without noise.
        longest: The largest number of operations of the formula. Setting any of its constants to 0
            must change it.
    """
    form, numbers = open_constants(formula.expression)
    if not numbers or sympy.count_ops(formula.expression) > longest:
        return False
    # Constants are divided by their values and y by its size; otherwise the fit would stop early if
    # constants differ much in size.
    units = {symbol: sympy.Float(float(c), 17) * symbol for symbol, c in numbers.items()}
    names = [each.name for each in numbers]
    scaled = form.xreplace(units) / data.y_std
    points = data.x, data.y / data.y_std
    fitting = ConstantsFitting(scaled, formula.names, names, points, np.ones(len(names)))
    constants = fit_constants(fitting)
    residual = fitting.linearised(constants)[0]
    if not np.sqrt(np.mean(residual**2)) < 1e-6:
        return False
    for place in range(len(constants)):
        without = np.where(np.arange(len(constants)) == place, 0.0, constants)
        change = fitting.linearised(without)[0] - residual
        if np.sqrt(np.mean(change**2)) < 1e-9:
            return False
    return True


def in_accepted_form(expression: sympy.Expr, accepted: list[sympy.Expr]) -> bool:
    """Return whether an expression has an accepted form, or is no longer than the shortest one.

    The numbers of each product are combined, and decimal and large numbers have four digits.
    """

    def skeleton(form: sympy.Expr) -> sympy.Expr:
        form = sympy.N(form, 17)
        numbers = form.atoms(sympy.Float, sympy.Integer)
        long = [each for each in numbers if each.is_Float or abs(each) >= 10**4]
        return form.xreplace({each: sympy.Float(f"{float(each):.4g}") for each in long})

    form = skeleton(expression)
    others = [skeleton(each) for each in accepted]
    return form in others or size(form) <= min(map(size, others))


def judged(result: Interpretation, problem: InterpretationProblem) -> dict[str, bool]:
    """Return whether a result is the true function, has its form, and is written as accepted."""
    formula = result.formula
    found = result.certificate
    target = build_target(problem.cfg.target)
    verdict = dict.fromkeys(("recovered", "same_form", "accepted_form"), False)
    if formula is None or found is None or formula.splines or target.expression is None:
        return verdict
    verdict["recovered"] = found.recovered == "yes"
    x = problem.scaling.invert(problem.held_out.fresh)
    with np.errstate(all="ignore"):
        y = target.function(x)[:, 0]
        longest = 1.5 * sympy.count_ops(target.expression) + 2
        verdict["same_form"] = verdict["recovered"] or bool(
            not found.r2 <= 0 and in_form(formula, SearchData(x, y, x, y), longest)
        )
    if result.outcome == "exact":
        accepted = [target.expression, *target.accepted]
        verdict["accepted_form"] = in_accepted_form(formula.expression, accepted)
    return verdict


def measured(task: tuple[InterpretConfig, dict[str, Any], int]) -> dict[str, Any]:
    """Search for the formula of an entry of a suite, and return its row."""
    cfg, entry, seed = task
    settings = {key: value for key, value in entry.items() if key != "in_view"}
    began = time.process_time()
    (problem,) = problems_of(with_cell(cfg, settings), seed)
    *_, result = interpretation(problem, seed)
    seconds = time.process_time() - began
    assert isinstance(result, Interpretation)
    row = {"target": problem.name, "in_view": entry.get("in_view", True), "seed": seed}
    row |= {"outcome": result.outcome, **judged(result, problem)}
    return row | {"cpu_seconds": seconds, "formula": str(result.formula)}


def composed(suite: str, settings: list[str]) -> InterpretConfig:
    """Return the configuration of a suite with settings as `kanrun interpret` takes them."""
    source = Source("interpret", config_dir=str(Path(__file__).parent))
    return compose(source, [f"study={suite}", *settings]).config(0)


def name_of(entry: dict[str, Any]) -> str:
    """Return the name of an entry of a suite for `--only`."""
    return str(entry["target"].get("id") or entry["target"]["formula"])


def main() -> None:
    """Run a suite, and print its rows and their counts."""
    parser = arguments(__doc__)
    parser.add_argument("suite")
    parser.add_argument("settings", nargs="*", help="settings of kanrun interpret: budget=15")
    options = parser.parse_intermixed_args()
    cfg = composed(options.suite, options.settings)
    names = chosen(map(name_of, cfg.suite), options.only)
    entries = [entry for entry in cfg.suite if name_of(entry) in names]
    seeds = range(cfg.seed, cfg.seed + cfg.n_seeds)
    tasks = [(cfg, entry, seed) for entry in entries for seed in seeds]
    table = write_table(options.suite, run(tasks, measured, options.n_jobs), options.out)
    for in_view, rows in table.groupby("in_view"):
        outcomes = ", ".join(f"{n} {name}" for name, n in rows["outcome"].value_counts().items())
        counts = rows[["recovered", "same_form", "accepted_form"]].sum()
        print(f"{'' if in_view else 'not '}in view of the rules: {len(rows)} searches, {outcomes}")
        print(", ".join(f"{name} {count}" for name, count in counts.items()))
        seconds = rows["cpu_seconds"]
        print(f"CPU seconds: median {seconds.median():.1f}, longest {seconds.max():.1f}")


if __name__ == "__main__":
    main()
