"""Nodes of jumps: their cells, their network, and where they are taken."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from kanrun.engine.tables import TablePolicy, fit_table, to_kan
from kanrun.engine.tables.bands import column_effect
from kanrun.engine.tables.effects import pair_maps, pair_table
from kanrun.engine.tables.jumps import BoostingPolicy, _cuts, boost, squares
from kanrun.engine.tables.stacking import fit_numbers
from kanrun.engine.tables.table_candidates import JUMPS, OTHER_JUMPS
from kanrun.engine.tables.table_fit import affordable
from kanrun.engine.tables.to_kan import blend, table_outputs
from kanrun.model.checkpoints import pack, unpack
from kanrun.points import Family, Points

POLICY = TablePolicy(jump_rows=400, omitted=0.0)


def data(rows=400, seed=0, smooth=0.0):
    u = np.random.default_rng(seed).uniform(-1, 1, (rows, 3))
    jump = 2.0 * ((u[:, 0] > 0) & (u[:, 1] > 0.3) & (u[:, 2] < 0.5))
    return u, (jump + smooth * np.sin(3 * u[:, 0]))[:, None]


def test_cells_hold_the_values_of_all_combinations():
    u = np.array(list(product((-1.0, -0.5, 0.5, 1.0), repeat=3)))
    y = 2.0 * ((u[:, 0] > 0) & (u[:, 1] > 0) & (u[:, 2] < 0))
    policy = BoostingPolicy(depth=3, rate=1.0, shrinkage=1e-9, fraction=1.0)
    nodes = boost(u, squares(y, np.ones(len(u))), 0.0, policy, count=1)
    assert sorted(nodes.inputs[0]) == [0, 1, 2]
    assert_allclose(nodes(u), y, atol=1e-6)
    assert_allclose(nodes.cuts, 0, atol=1e-12)
    assert_allclose(nodes.rooms, 1)
    middle = nodes.partial_dependence(u, [0], np.array([[-0.5], [0.5]]))
    assert_allclose(middle, [0, 0.5], atol=1e-6)
    both = nodes.partial_dependence(u, [0, 1], np.array([[0.5, 0.5], [0.5, -0.5]]))
    assert_allclose(both, [1, 0], atol=1e-6)
    assert nodes.degrees_of_freedom(10**9) == pytest.approx(8, abs=1e-6)
    assert nodes.degrees_of_freedom(8) == pytest.approx(8 * (1 - np.exp(-1)), abs=1e-6)


def test_weights_count_as_repeated_rows():
    u, y = data(200)
    y = y[:, 0] + np.random.default_rng(1).standard_normal(200)
    double = np.where(u[:, 0] > 0, 2.0, 1.0)
    policy = BoostingPolicy(fraction=1.0, max_cuts=300)
    again = np.repeat(np.arange(200), double.astype(int))
    ones = boost(u[again], squares(y[again], np.ones(len(again))), 0.0, policy, count=5)
    twice = boost(u, squares(y, double), 0.0, policy, count=5)
    assert_allclose(twice(u), ones(u), atol=1e-12)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_the_network_of_jumps_is_the_fit(smooth):
    u, y = data(smooth=smooth)
    fit = fit_numbers(u, y, POLICY)
    assert fit.weights[JUMPS] + fit.weights[OTHER_JUMPS] > 0.5
    new, truth = data(1000, 2, smooth)
    found = fit.raw(fit.design.functions(new))
    assert np.mean((found - truth) ** 2) < 0.05 * truth.var()
    network = to_kan(fit, POLICY)
    assert network.edge_layers[1].uniform
    both = blend([to_kan(fit.times(0.5), POLICY), network], MAPS)
    steps, layer = network.stored_layers[0], network.edge_layers[0]
    at_steps = np.repeat(u[:50], 2, 0)
    place, width = (one[steps.sources == 0][0].item() for one in (steps.places, steps.widths))
    at_steps[:, 0] = place + np.linspace(-2, 2, 100) * width
    x = torch.as_tensor(np.concatenate([u, at_steps, 3 * u[:20]]))
    with torch.no_grad():
        values = network(x).numpy()
        assert_allclose(values[:400], fit.raw(fit.design.functions(u)), atol=1e-6)
        assert_allclose(network.plain()(x), values, atol=1e-9)
        assert_allclose(both(x[:400]), 1.5 * values[:400] / 9, atol=1e-9)
        pruned = network.prune(torch.as_tensor(u), 1e-9)(x[:400])
    assert_allclose(pruned, values[:400], atol=1e-6)
    for one in (network, both):
        assert_allclose(table_outputs(one, x.numpy()), one(x).detach(), atol=1e-9)
        stored = unpack(one.describe(), pack(one))
        assert_allclose(stored(x).detach(), one(x).detach(), atol=1e-12)
    assert sum(one.size for one in pack(network).values()) < layer.coefficients.numel()
    at = np.array([[-0.5, 0, 0], [0.5, 0, 0]])
    effect = column_effect(fit, [0], at, fit.design.basis.values(at))
    expected = 2 * 0.35 * 0.75 + 2 * smooth * np.sin(1.5)
    assert effect[1] - effect[0] == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("family", [Family(classes=2), Family("poisson")])
def test_jumps_of_links_are_in_network_pairs_and_degrees_of_freedom(family):
    rng = np.random.default_rng(0)
    u, jump = data(1200)
    mean = family.mean(3 * jump - 3)
    y = (rng.random(mean.shape) < mean) * 1.0 if family.classes else rng.poisson(4 * mean) * 1.0
    policy = replace(POLICY, family=family.name, folds=0, alternatives=False)
    model = fit_table(Points(u, y), family.classes, policy)
    fit = model.fit
    assert fit.weights[JUMPS] + fit.weights[OTHER_JUMPS] > 0.3
    smooth = fit_table(
        Points(u, y), family.classes, replace(policy, candidates=policy.candidates[:-1])
    )
    found, before = (one.predict(u)[:, -1:] for one in (model, smooth))
    scale = 1 if family.classes else 4
    assert np.mean((found / scale - mean) ** 2) < 0.7 * np.mean((before / scale - mean) ** 2)
    assert_allclose(model.parts[0].predict(u), model.predict(u), rtol=1e-2, atol=1e-3)
    assert fit.effective > replace(fit, design=replace(fit.design, jumps=())).effective + 1
    names = ["a", "b", "c"]
    pairs = pair_table(model, names)
    assert {frozenset(pair) for pair in pairs[["input_1", "input_2"]].to_numpy()[:3]} >= {
        frozenset("ab")
    }
    maps = pair_maps(model, Points(u, y), pairs[:1], names, ["no", "yes"][: family.classes or 1])
    assert np.ptp(maps["value"]) > 0.2 * np.ptp(mean * scale)


MAPS = [(np.linspace(-9, 9, 5), np.linspace(-1, 1, 5))] * 2


@pytest.mark.parametrize("rows, found", [(399, False), (400, True)])
def test_jumps_are_searched_for_in_enough_rows(rows, found):
    fit = fit_numbers(*data(rows), POLICY)
    assert (JUMPS in fit.weights) is found


@pytest.mark.parametrize("coefficients, cuts", [(4 * 3 * 1000 * 20, 20), (0, 15), (10**9, 255)])
def test_a_large_network_affords_fewer_cuts(coefficients, cuts):
    fit = fit_numbers(*data(100), replace(POLICY, candidates=("additive",)))
    policy = replace(POLICY, max_coefficients=coefficients)
    assert affordable(fit, policy).max_cuts == cuts


@pytest.mark.parametrize("case", ["smooth", "noise", "shapes"])
def test_where_nothing_jumps_there_are_none(case):
    u, y = data()
    policy = replace(POLICY, shapes=((0, "increasing"),) if case == "shapes" else ())
    if case == "smooth":
        y = np.sin(3 * u[:, :1]) + u[:, 1:2] * u[:, 2:]
    if case == "noise":
        y = np.random.default_rng(4).standard_normal(y.shape)
    fit = fit_numbers(u, y, policy)
    assert not fit.design.jumps
    assert JUMPS not in fit.weights


def test_cuts_lie_between_all_values_or_at_quantiles_of_the_rows():
    column = np.repeat(np.arange(6.0), (95, 1, 1, 1, 1, 1))[:, None]
    for most, found in ((5, [0.5, 1.5, 2.5, 3.5, 4.5]), (4, [0.5] + [np.inf] * 3)):
        assert_allclose(_cuts(column, most)[0][0], found)
