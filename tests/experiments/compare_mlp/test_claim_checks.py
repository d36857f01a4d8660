"""Claims of compare-mlp: verdicts over seeds, opponents by validation errors, laws of growth."""

import numpy as np
import pandas as pd
import pytest
from kanrun.experiments.compare_mlp.implementation_tricks import claims as trick_claims
from kanrun.experiments.compare_mlp.matched import (
    growth_claims,
    growth_rows,
    matched_logs,
    verdict_claims,
)
from kanrun.experiments.compare_mlp.verdict import judge
from numpy.testing import assert_allclose
from scipy import stats


def tricks_table(**errors):
    """Six seeds of each variant with these errors."""
    rows = [
        {"variant": name.replace("_", " "), "seed": seed, "error": error}
        for name, error in errors.items()
        for seed in range(6)
    ]
    return pd.DataFrame(rows).assign(target="iris", shape="4-3", test_rmse=1.0)


def test_a_trick_whose_trainings_all_failed_leaves_the_others_their_claims():
    (claim,) = trick_claims({"summary": tricks_table(all_tricks=0.1, no_tricks=0.2)})
    assert claim.sentence.startswith("no tricks")
    assert claim.measured == pytest.approx(2)  # of `error`, cross-entropy for classes
    assert list(trick_claims({"summary": tricks_table(no_tricks=0.2)})) == []
    apart = tricks_table(all_tricks=0.1, no_tricks=0.2)
    apart.loc[apart["variant"] == "no tricks", "seed"] += 6
    assert list(trick_claims({"summary": apart})) == []


@pytest.mark.parametrize("shift, winner", [(2.0, "KAN wins"), (0.0, "a draw"), (-2.0, "MLP wins")])
def test_a_draw_is_called_a_draw(shift, winner):
    noise = np.random.default_rng(1).normal(size=(6, 3))
    verdict = judge(shift + noise - noise.mean())
    assert verdict.winner == winner
    assert verdict.ratio == pytest.approx(10**shift)
    assert verdict.low <= verdict.ratio <= verdict.high
    assert judge(shift + noise - noise.mean()) == verdict  # no chance of the moment


def test_the_interval_of_many_seeds_is_that_of_student():
    logs = stats.norm.ppf((np.arange(12) + 0.5) / 12)
    half = stats.t.ppf(0.975, 11) * logs.std(ddof=1) / 12**0.5
    verdict = judge(logs[:, None])
    assert np.log10([verdict.low, verdict.high]) == pytest.approx([-half, half], rel=0.02)
    assert judge(np.zeros((6, 1))).winner == "a draw"


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_of_a_few_seeds_that_agree_none_wins(seeds):
    each = np.linspace(1.0, 1.1, seeds)
    verdict = judge(each[:, None])
    assert (verdict.winner, verdict.above) == ("undecided", False)
    assert (np.log10(verdict.low), np.log10(verdict.high)) == pytest.approx(
        (each.min(), each.max())
    )
    assert f"the range of {seeds} seed" in verdict.interval
    assert "too few for 95%" in verdict.interval


def test_validation_and_not_test_errors_choose_the_opponent():
    one = pd.DataFrame({"model": ["kan", "mlp", "mlp"], "error": [1.0, 100.0, 0.1]})
    one = one.assign(target="t", seed=0, kan="a", validation_rmse=[1.0, 2.0, 3.0])
    rows = pd.concat([one.assign(seed=seed) for seed in range(6)])
    assert_allclose(matched_logs(rows), [[2.0]] * 6)
    (alone,) = verdict_claims(one, "parameters")
    assert not alone.holds  # one seed has no spread to judge by
    assert "undecided" in str(alone.spread)
    (claim,) = verdict_claims(rows, "parameters")
    assert claim.holds
    assert claim.measured == pytest.approx(100)


def test_without_validation_points_training_errors_choose_the_opponent():
    one = pd.DataFrame(
        [
            {"model": "kan", "train_rmse": 1.0, "error": 1.0},
            {"model": "mlp", "train_rmse": 3.0, "error": 0.1},
            {"model": "mlp", "train_rmse": 2.0, "error": 100.0},
        ]
    )
    rows = one.assign(seed=0, kan="a", validation_rmse=np.nan)
    assert_allclose(matched_logs(rows), [[2.0]])
    diverged = rows.assign(
        validation_rmse=[1.0, 5.0, np.nan]
    )  # held out: what is no number does not win
    assert_allclose(matched_logs(diverged), [[-1.0]])


@pytest.mark.parametrize("widths, said", [([16, 8], True), ([16], False)])
def test_growth_is_claimed_where_there_are_two_values(widths, said):
    rows = [row.values for row in growth_rows(widths, depths=[2], intervals=[5])]
    _, *laws = growth_claims(pd.DataFrame(rows))
    assert ["N nodes" in claim.sentence for claim in laws] == [True, True] * said
    assert all(claim.holds for claim in laws)


def test_growth_claims_see_a_wrong_law():
    rows = [
        {
            "model": model,
            "width": w,
            "depth": d,
            "functions": g,
            "parameters": w**3 * d * (g or 1),
            "formula": w**3 * d,
        }
        for model in ("kan", "mlp")
        for w in (4, 8, 16)
        for d in (2, 4, 8)
        for g in ((5, 10) if model == "kan" else (None,))
    ]
    claims = {claim.sentence: claim for claim in growth_claims(pd.DataFrame(rows))}
    assert not claims["Parameters of a KAN grow with N nodes a layer to the power"].holds
    assert claims["Parameters of a KAN grow with L layers to the power"].holds
    assert not claims["Formulas of parameters against the modules: largest difference"].holds


@pytest.mark.parametrize("off, said", [(0.05, False), (-0.7, True)])
def test_a_verdict_says_where_no_match_was_near(off, said):
    pairs = [
        {"model": "kan", "error": 1e-3, "off": None},
        {"model": "mlp", "error": 1e-2, "off": off},
    ]
    rows = [
        {"target": "product", "kan": "k", "seed": seed, "validation_rmse": 1.0, **one}
        for seed in (0, 1)
        for one in pairs
    ]
    (claim,) = verdict_claims(pd.DataFrame(rows).astype({"off": float}), "flops")
    assert ("off by -70% to -70%" in str(claim.spread)) is said
