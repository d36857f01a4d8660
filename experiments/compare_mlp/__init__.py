"""KAN against MLP, with everything equal that can be: data, seeds, solver, starts, steps.

Reproduces the comparison of the KAN paper's section 3.1 (arXiv 2404.19756, Figure 3.1: error
against parameters on toy functions) and the lecture's counts of parameters. `comparison` says what
is compared:

- `matched`: for each KAN the MLPs of the same parameters or FLOPs; who wins, with an interval;
- `universal_approximation`: how wide one hidden layer must be for smaller and smaller errors;
- `kolmogorov_arnold`: the shape [n, 2n + 1, 1] on continuous functions of n variables;
- `no_activation`: an MLP without activations is one linear map;
- `implementation_tricks`: a KAN without its residual base, initial scales, grid update.

It differs from the paper in that MLPs get the same second-order solver as KANs, and that sizes are
counted equally: exact trainable parameters of the modules, every published convention next to them,
FLOPs as executed and as others count. A bootstrap interval decides who wins, or that it is a draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from kanrun.experiments.compare_mlp import studies
from kanrun.experiments.compare_mlp.cases import case_of, cases_of, kan_name, plan_of

from kanrun.config import CompareMLPConfig, KANConfig
from kanrun.engine.networks.counting import TOLERANCE
from kanrun.errors import UsageError
from kanrun.points import Array
from kanrun.runs import Claim
from kanrun.runs.records import Records
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.suite import claim_at_most, claim_near, exponent, median, value_range

#: Coverage of an interval. RESAMPLES leave some 500 beyond each end of the widest that is drawn,
#: that of 6 seeds.
LEVEL, RESAMPLES, BATCH = 0.95, 200_000, 10_000
#: Beyond an end there must be room for this many of the rarest resamples, one seed n times:
#: otherwise the end is that seed. Of normal samples, intervals of 6 seeds then cover 94%; those of
#: 5, which are refused, would cover 91%.
ROOM = 10
#: Tolerance of the exponents of growth, since the lecture's omit biases and scales: these are less
#: than this fraction at 16 nodes or 20 functions per edge.
GROWTH = 0.1
#: Bounds of the residual of an identity (products of six matrices in float64, 1e-16 each, with
#: room for their condition), and of a converged iteration.
EXACT, SOLVED = 1e-12, 1e-8
LINEAR = {
    "from_least_squares": ("is ordinary least squares", SOLVED),
    "from_product": ("is the product of its matrices", EXACT),
}
#: Model and column of each law of growth, its power, and what the column is.
LAWS = (
    ("mlp", "width", 2, "an MLP grow with N nodes a layer"),
    ("mlp", "depth", 1, "an MLP grow with L layers"),
    ("kan", "width", 2, "a KAN grow with N nodes a layer"),
    ("kan", "depth", 1, "a KAN grow with L layers"),
    ("kan", "functions", 1, "a KAN grow with G + k functions an edge"),
)


def cells(cfg: CompareMLPConfig) -> list[Cell]:
    """Return one cell per network, and one for the sizes whose parameters are counted.

    A cell of a KAN has a `grid`, one of an MLP its `activation`, and its widths or the KAN that it
    `matches`.
    """
    found = ({"case": case, **cell} for case in cases_of(cfg) for cell in _networks(cfg, case))
    counts = cfg.growth and cfg.comparison == "matched"
    return [*found, *([{"growth": dict(cfg.growth)}] if counts else [])]


def _networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    kans = [{"hidden": h, "grid": g} for h, g in itertools.product(case["shapes"], cfg.grids)]
    kinds = list(itertools.product(cfg.depths, cfg.activations))
    if cfg.comparison == "universal_approximation":
        pairs = itertools.product(cfg.activations, cfg.widths)
        return [{"activation": activation, "hidden": [width]} for activation, width in pairs]
    if cfg.comparison == "kolmogorov_arnold":
        return [{"grid": grid} for grid in cfg.grids]
    if cfg.comparison == "no_activation":
        return [{"activation": "identity", "hidden": cfg.widths * depth} for depth in cfg.depths]
    if cfg.comparison == "implementation_tricks":
        return [{**kan, "variant": variant} for kan in kans for variant in studies.VARIANTS]
    equal = [{"matches": kan, "depth": d, "activation": a} for kan in kans for d, a in kinds]
    given = [{"hidden": [w] * d, "activation": a} for w in cfg.widths for d, a in kinds]
    return [*kans, *(equal if cfg.match else []), *given]


def check(cfg: CompareMLPConfig) -> None:
    """Build everything that a run would build, without training.

    Raises UsageError for what cannot be trained, and for a KAN that is listed twice.
    """
    studies.refuse(cfg)
    names = set[str]()
    for cell in cells(cfg):
        if "case" not in cell:
            continue
        case = case_of(cfg, cell["case"], cfg.seed)
        model = studies.model_of(case, cell)
        plan_of(case, model)
        if isinstance(model, KANConfig):
            name = f"{kan_name(case, model)} {cell.get('variant', '')}"
            name = f"{case.name}: the KAN {name.strip()}"
            if name in names:
                raise UsageError(
                    f"{name} is listed twice; list each shape and grid of a case once."
                )
            names.add(name)


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Records:
    """Train one network: yield a row of the summary with its sizes, seconds and errors."""
    if "case" in cell:
        yield from studies.STUDIES[cfg.comparison](case_of(cfg, cell["case"], seed), cell, seed)
    elif seed == cfg.seed:
        yield from studies.growth_rows(**{**studies.GROWTH, **cell["growth"]})


def figures(tables: Tables) -> Figures:
    """Yield the figures of the comparison that was run."""
    from kanrun.experiments.compare_mlp.plots import FIGURES

    from kanrun.figures import figures_of

    yield from figures_of(tables, FIGURES[tables["summary"]["comparison"].iloc[0]])


def claims(tables: Tables) -> Claims:
    """Return the claims of the comparison that was run."""
    return CLAIMS[tables["summary"]["comparison"].iloc[0]](tables)


@dataclass(frozen=True)
class Verdict:
    """Ratio of the MLP's error over the KAN's (geometric mean) with its interval.

    With too few seeds for one, `low` and `high` are the range of the seeds.
    """

    ratio: float
    low: float
    high: float
    seeds: int
    enough: bool

    @property
    def above(self) -> bool:
        """True if the interval lies above 1."""
        return self.enough and self.low > 1

    @property
    def winner(self) -> str:
        """Winner, in words."""
        if np.isnan(self.ratio) or not self.enough:
            return "undecided" + ", an error is NaN" * bool(np.isnan(self.ratio))
        if self.above:
            return "KAN wins"
        return "MLP wins" if self.high < 1 else "a draw"

    @property
    def interval(self) -> str:
        """Interval in words."""
        ends, level = f"{self.low:.3g} .. {self.high:.3g}", f"{100 * LEVEL:g}%"
        if self.enough:
            return f"{level} interval {ends} over {self.seeds} seeds"
        return (
            f"{ends}, the range of {self.seeds} seed{'s' * (self.seeds > 1)}, too few for {level}"
        )


def judge(logs: Array) -> Verdict:
    """Return the verdict on log10(MLP's error / KAN's), shape (seeds, pairs).

    Whole seeds are drawn with replacement, since the pairs of one seed share their data. The
    bootstrap over n seeds underestimates the spread by sqrt((n - 1) / n) and ignores its own
    uncertainty; wider quantiles, Phi(-sqrt(n / (n - 1)) t) with t Student's, correct for both
    (expanded percentiles; Hesterberg, The American Statistician 69, 2015, section 5.3). A few seeds
    have no resamples that far out.
    """
    # Importing it takes half a second, which workers that only train would each pay.
    from scipy import stats

    each = logs.mean(1)
    seeds, ratio, low, high = len(each), float(10 ** each.mean()), each.min(), each.max()
    others = max(1, seeds - 1)
    student = stats.t.ppf((1 + LEVEL) / 2, others)
    tail = float(stats.norm.cdf(-student * (seeds / others) ** 0.5))
    enough = ROOM * float(seeds) ** -seeds <= tail
    if enough and np.isfinite(each).all():
        options: Any = {"n_resamples": RESAMPLES, "batch": BATCH, "method": "percentile"}
        options |= {"confidence_level": 1 - 2 * tail, "rng": np.random.default_rng(0)}
        low, high = stats.bootstrap((each,), np.mean, **options).confidence_interval
    return Verdict(ratio, float(10**low), float(10**high), seeds, enough)


def log_ratios(errors: pd.Series, others: pd.Series) -> Array:
    """Return log10(errors / others) by seed and pair, which index both; shape (seeds, pairs).

    Seeds that lack a pair are left out; NaN stays.
    """
    both, smallest = errors.index.intersection(others.index), np.finfo(float).tiny
    ratios: pd.Series = (errors[both] + smallest) / (others[both] + smallest)
    logs = ratios.map(np.log10)
    pairs = logs.groupby(level=0).transform("size")
    whole = logs[pairs == logs.index.get_level_values(1).nunique()]
    return np.asarray(whole.unstack(), dtype=np.float64)


def matched_logs(rows: pd.DataFrame) -> Array:
    """Return log10(MLP's error / KAN's) of all rows of one target, shape (seeds, KANs).

    Of the MLPs matched to a KAN, the one with the lowest validation error of each seed counts
    (training error if nothing is held out): test errors choose nothing.
    """
    keys, held_out = ["seed", "kan"], rows["validation_rmse"].notna().any()
    ranked = rows.sort_values("validation_rmse" if held_out else "train_rmse").dropna(subset="kan")
    mlps, kans = (
        ranked[ranked["model"] == model].drop_duplicates(keys).set_index(keys)["error"]
        for model in ("mlp", "kan")
    )
    return log_ratios(mlps, kans)


def matched_claims(tables: Tables) -> Claims:
    """Claim who wins at equal size, and the growth laws."""
    summary = tables["summary"]
    match = summary["match"].iloc[0]
    if isinstance(match, str):
        yield from verdict_claims(summary, match)
    if "growth" in tables:
        yield from growth_claims(tables["growth"])


def verdict_claims(summary: pd.DataFrame, match: str) -> Claims:
    """Claim, for each target, that at equal size the KAN's test error is below the MLPs'."""
    targets: Any = summary.groupby("target", sort=False)
    for target, rows in targets:
        logs = matched_logs(rows)
        if logs.size:
            verdict = judge(logs)
            spread = f"{verdict.interval}: {verdict.winner}"
            off = rows["off"].dropna() if "off" in rows else pd.Series(dtype=float)
            if off.abs().max() > TOLERANCE[match]:
                spread += f"; the MLPs are off by {off.min():+.0%} to {off.max():+.0%}"
            sentence = f"{target}: at equal {match} the KAN's test error is below the MLP's"
            bound = "MLP's over KAN's, interval above 1"
            yield Claim(sentence, verdict.ratio, bound, verdict.above, spread)


def growth_claims(growth: pd.DataFrame) -> Claims:
    """Claim O(N^2 L) parameters of MLPs and O(N^2 L (G + k)) of KANs, on larger sizes."""
    from kanrun.experiments.compare_mlp.plots import along

    wrong = (growth["parameters"] - growth["formula"]).abs()
    sentence = "Formulas of parameters against the modules: largest difference"
    yield claim_at_most(sentence, wrong, 0, of="modules")
    for model, name, law, what in LAWS:
        rows = along(growth[growth["model"] == model], name)
        values = sorted(rows[name].unique())
        if len(values) > 1:
            upper = rows[rows[name] >= values[-max(2, (len(values) + 1) // 2)]]
            measured = exponent(upper[name], upper["parameters"])
            yield claim_near(f"Parameters of {what} to the power", measured, law, GROWTH)


def width_claims(tables: Tables) -> Claims:
    """Claim that some width reaches each error.

    The best seed decides, since the theorem says that weights exist.
    """
    keys = ["target", "activation", "wanted"]
    best = tables["reached"].groupby([*keys, "width"], sort=False)["relative_error"].min()
    groups: Any = best.reset_index().groupby(keys, sort=False)
    for (target, activation, wanted), rows in groups:
        enough = rows.loc[rows["relative_error"] <= wanted, "width"]
        lowest = f"{rows['relative_error'].min():.2g} is the least reached"
        measured = float(enough.min()) if len(enough) else lowest
        sentence = f"{target}: hidden {activation} nodes for a relative RMSE of {wanted:g}"
        yield Claim(sentence, measured, f"at most {rows['width'].max()}", len(enough) > 0)


def theorem_claims(tables: Tables) -> Claims:
    """Claim that the relative test RMSE is within the bound of the case, if it has one."""
    summary = tables["summary"]
    several = summary["grid"].nunique() > 1
    groups: Any = summary[summary["bound"].notna()].groupby(["target", "grid"], sort=False)
    for (target, grid), rows in groups:
        shape = str(rows["shape"].iloc[0]).replace("-", ",")
        along = f" with G = {grid}" if several else ""
        sentence = f"[{shape}] fits {target}{along}: test RMSE over the target's standard deviation"
        errors = rows["relative_error"]
        bound = float(rows["bound"].iloc[0])
        yield claim_at_most(sentence, median(errors), bound, value_range(errors))


def linear_claims(tables: Tables) -> Claims:
    """Claim that an MLP without activations is one linear map, whatever the depth."""
    rows = tables["linear"]
    depths = f"with {rows['depth'].min()} to {rows['depth'].max()} hidden layers"
    for column, (what, bound) in LINEAR.items():
        sentence = f"An MLP without activations {depths} {what}"
        yield claim_at_most(sentence, rows[column], bound, of="networks")


def trick_claims(tables: Tables) -> Claims:
    """Claim that switching off a trick costs accuracy, on all targets together."""
    summary = tables["summary"]
    pair, log = summary["target"] + " " + summary["shape"], np.log10(summary["error"])
    groups = log.groupby([summary["variant"], summary["seed"], pair])
    # Grids of one pair count together.
    errors = 10 ** groups.agg(lambda each: each.mean(skipna=False))
    for variant in summary["variant"].unique():
        if variant == "all tricks" or "all tricks" not in errors:
            continue
        logs = log_ratios(errors[variant], errors["all tricks"])
        if logs.size:
            verdict = judge(logs)
            sentence = f"{variant}: test error over that with all tricks"
            bound = "interval above 1"
            yield Claim(sentence, verdict.ratio, bound, verdict.above, verdict.interval)


CLAIMS: dict[str, Callable[[Tables], Claims]] = {
    "matched": matched_claims,
    "universal_approximation": width_claims,
    "kolmogorov_arnold": theorem_claims,
    "no_activation": linear_claims,
    "implementation_tricks": trick_claims,
}
