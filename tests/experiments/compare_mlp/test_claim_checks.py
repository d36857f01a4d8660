"""Claims of compare-mlp: verdicts over seeds, choice of the opponent, and growth laws."""

import itertools

import numpy as np
import pandas as pd
import pytest
from kanrun.experiments.compare_mlp import (
    COMPARISONS,
    growth_claims,
    matched_logs,
    verdict_claims,
)
from kanrun.experiments.compare_mlp.cases import judge
from numpy.testing import assert_allclose
from scipy import stats


def test_a_trick_whose_trainings_all_failed_leaves_the_others_their_claims():
    seeds = pd.DataFrame({"target": "iris", "shape": "4-3", "test_rmse": 1.0, "seed": range(6)})
    with_all = seeds.assign(variant="all tricks", error=0.1)
    without = seeds.assign(variant="no tricks", error=0.2)
    tricks = COMPARISONS["implementation_tricks"]
    (claim,) = tricks.claims({"summary": pd.concat([with_all, without])})
    assert claim.sentence.startswith("no tricks")
    assert claim.measured == pytest.approx(2)  # ratio of `error`, which is the cross-entropy
    other_seeds = pd.concat([with_all, without.assign(seed=range(6, 12))])
    for incomparable in (without, other_seeds):
        assert list(tricks.claims({"summary": incomparable})) == []


@pytest.mark.parametrize("shift, winner", [(2.0, "KAN wins"), (0.0, "a draw"), (-2.0, "MLP wins")])
def test_the_interval_is_that_of_student_over_seeds(shift, winner):
    noise = np.random.default_rng(1).normal(size=(6, 3))
    logs = shift + noise - noise.mean()
    verdict = judge(logs)
    low, high = stats.t.interval(0.95, 5, logs.mean(), stats.sem(logs.mean(1)))
    assert verdict.winner == winner
    assert np.log10([verdict.ratio, verdict.low, verdict.high]) == pytest.approx([shift, low, high])


@pytest.mark.parametrize(
    "logs, said", [([1.0], "undecided"), ([1.0, np.nan], "undecided, an error is not finite")]
)
def test_one_seed_or_a_failed_training_decides_nothing(logs, said):
    verdict = judge(np.array(logs)[:, None])
    assert (verdict.winner, verdict.above) == (said, False)


def trained(**columns):
    """Return the rows of one KAN and two MLPs."""
    same = {"model": ["kan", "mlp", "mlp"], "target": "t", "seed": 0, "kan": "a"}
    return pd.DataFrame({**same, **columns})


def test_validation_and_not_test_errors_choose_the_opponent():
    one = trained(error=[1.0, 100.0, 0.1], validation_rmse=[1.0, 2.0, 3.0])
    rows = pd.concat([one.assign(seed=seed) for seed in range(6)])
    assert_allclose(matched_logs(rows), [[2.0]] * 6)
    (alone,) = verdict_claims(one, "parameters")
    assert not alone.holds  # one seed has no spread
    assert "undecided" in str(alone.spread)
    (claim,) = verdict_claims(rows, "parameters")
    assert claim.holds
    assert claim.measured == pytest.approx(100)


def test_training_errors_choose_the_opponent_without_validation_points():
    rows = trained(error=[1.0, 0.1, 100.0], train_rmse=[1.0, 3.0, 2.0], validation_rmse=np.nan)
    assert_allclose(matched_logs(rows), [[2.0]])
    diverged = rows.assign(validation_rmse=[1.0, 5.0, np.nan])  # NaN does not win
    assert_allclose(matched_logs(diverged), [[-1.0]])


def test_growth_claims_fail_for_a_wrong_law():
    sizes = itertools.product(("kan", "mlp"), (4, 8, 16), (2, 4, 8), (5, 10))
    growth = pd.DataFrame(sizes, columns=["model", "width", "depth", "functions"]).query(
        "model == 'kan' or functions == 5"
    )
    growth["formula"] = growth["width"] ** 3 * growth["depth"]
    growth["parameters"] = growth["formula"] * growth["functions"]
    holds = {claim.sentence: claim.holds for claim in growth_claims(growth)}
    assert not holds["Parameters of a KAN grow with N nodes a layer to the power"]
    assert holds["Parameters of a KAN grow with L layers to the power"]
    assert not holds["Formulas of parameters against the modules: largest difference"]


@pytest.mark.parametrize("off, said", [(0.05, False), (-0.7, True)])
def test_a_verdict_says_where_no_match_was_near(off, said):
    one = trained(error=[1e-3, 1e-2, 1e-2], off=[np.nan, off, off], validation_rmse=1.0)
    (claim,) = verdict_claims(pd.concat([one, one.assign(seed=1)]), "flops")
    assert ("off by -70% to -70%" in str(claim.spread)) is said
