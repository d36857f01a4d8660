"""Which candidate of a table is taken, at both sides of each bound, by scripted losses."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.testing import assert_allclose

from kanrun.engine.tables import fit_table
from kanrun.engine.tables.cross_validation import (
    BLEND,
    LINEAR,
    MEAN,
    SPARSE,
    STACK,
    TRANSFORMED,
    CandidateSelection,
    Choice,
    assign_folds,
)
from kanrun.engine.tables.table_candidates import TableRows
from kanrun.engine.tables.table_fit import lowers_loss
from kanrun.engine.tables.variance_components import TablePolicy
from kanrun.points import Family, Points

#: Of mean 0 and standard deviation 1, so that the standard error of 100 rows is 0.1.
NOISE = np.tile([1.0, -1.0], 50)
POINTS = Points(np.zeros((100, 1)), NOISE[:, None])


@dataclass(frozen=True, eq=False)
class Scripted(CandidateSelection):
    script: dict = field(default_factory=dict)

    def losses(self, choice):
        if choice.name == BLEND:
            return np.full(100, (choice.amount - self.script[BLEND]) ** 2)
        return 1.0 + np.broadcast_to(self.script[choice.name], 100)


def selection(**script):
    script = {STACK: 0.0, MEAN: 9.0, **script}
    predictions = [dict.fromkeys(script, np.zeros((100, 1)))]
    return Scripted(POINTS, Family(), predictions, np.arange(100), 1.75, script)


@pytest.mark.parametrize(
    "script, chosen",
    [
        # The sparse fit must be better by a standard error.
        ({SPARSE: NOISE - 0.11}, SPARSE),
        ({SPARSE: NOISE - 0.09}, STACK),
        # A linear model may be worse by 0.3 %, and by half a standard error.
        ({LINEAR: NOISE + 0.0029}, LINEAR),
        ({LINEAR: NOISE + 0.0031}, STACK),
        ({LINEAR: NOISE / 100 + 0.00049}, LINEAR),
        ({LINEAR: NOISE / 100 + 0.00051}, STACK),
        # The mean stays unless one of both is better by its standard error.
        ({LINEAR: 1.0, MEAN: NOISE + 0.11}, STACK),
        ({LINEAR: 1.0, MEAN: NOISE + 0.09}, MEAN),
        ({LINEAR: 0.001 + NOISE, MEAN: 2 * NOISE + 0.11}, LINEAR),
        ({STACK: NOISE, LINEAR: 0.01, MEAN: 0.05}, LINEAR),
    ],
)
def test_another_candidate_is_taken_where_it_is_better_beyond_chance(script, chosen):
    assert selection(**script).select() == Choice(chosen)


@pytest.mark.parametrize(
    "weight, name", [(0.09, STACK), (0.11, BLEND), (0.89, BLEND), (0.91, TRANSFORMED)]
)
def test_a_stack_with_little_weight_leaves_the_blend(weight, name):
    found = selection(**{TRANSFORMED: 0.0, BLEND: weight}).select()
    assert found.name == name
    assert found.amount == pytest.approx(weight if name == BLEND else 1.0, abs=1e-4)


def test_large_errors_count_linearly():
    errors = np.resize([1.7, 3.0], 100)
    one = CandidateSelection(
        POINTS, Family(), [{STACK: POINTS.y + errors[:, None]}], np.arange(100), 1.75
    )
    assert_allclose(one.losses(Choice(STACK))[:2], [1.7**2, 2 * 1.75 * 3 - 1.75**2])


@pytest.mark.parametrize("rows, inputs, classes", [(10_000, 1, 0), (2000, 100, 0), (1000, 100, 2)])
def test_one_fold_of_a_large_table_is_left_out(rows, inputs, classes):
    for more, parts in ((0, 5), (1, 2)):
        count = rows + more
        points = Points(np.zeros((count, inputs)), np.zeros((count, 1)))
        number = assign_folds(points, 5, 0, Family(classes=classes) if classes else None)
        assert len(np.unique(number)) == parts


@pytest.mark.parametrize(
    "before, gain, fraction, falls",
    [
        # By 0.5 % of the loss, by 2 standard errors, and by 1e-4, or by a fraction of these.
        (1.0, 0.0051, 1.0, True),
        (1.0, 0.0049, 1.0, False),
        (1.0, 0.0026, 0.5, True),
        (1.0, 0.0024, 0.5, False),
        (1.0, 0.21 + NOISE, 1.0, True),
        (1.0, 0.19 + NOISE, 1.0, False),
        (1e-3, 1.01e-4, 1.0, True),
        (1e-3, 0.99e-4, 1.0, False),
    ],
)
def test_jumps_must_lower_the_loss(before, gain, fraction, falls):
    losses = np.full(100, before)
    assert lowers_loss(losses, losses - gain, TablePolicy().jump_gain, fraction) == falls


@pytest.mark.parametrize(
    "rows, inputs, found",
    [
        (30, 2, {"pairs", "neighbourhoods"}),
        (29, 2, {"pairs"}),
        (30, 1, set()),
        (300, 200, {"pairs", "neighbourhoods"}),
        (300, 201, {"pairs"}),
    ],
)
def test_candidates_suit_the_rows_and_inputs(rows, inputs, found):
    u = np.random.default_rng(0).normal(size=(rows, inputs))
    names = TableRows.of(u, np.ones(rows), TablePolicy()).candidates()
    assert set(names) == {"additive", "steps"} | found


def test_neighbourhoods_stand_beside_straight_lines_and_noise_is_its_mean():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 1)), rng.normal(size=(40, 1))
    kinds = TableRows.of(x, np.ones(40), TablePolicy()).form("neighbourhoods").kinds
    assert kinds.tolist() == [0]
    (part,) = fit_table(Points(x, y), None, TablePolicy(folds=0)).parts
    assert (part.name, part.weight, part.fit.weights) == (MEAN, 1.0, {MEAN: 1.0})
