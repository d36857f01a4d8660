"""Neighbourhoods: the spline for exp(-s), precisions, and a network that equals the fit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from kanrun.engine.tables import TablePolicy, to_kan
from kanrun.engine.tables.bands import column_effect
from kanrun.engine.tables.gaussian_process import (
    GaussianProcess,
    Kernel,
    KernelPrior,
    RadialBasis,
    fit_kernel,
)
from kanrun.engine.tables.stacking import fit_numbers
from kanrun.engine.tables.table_candidates import NEIGHBOURHOODS, TableRows
from kanrun.engine.tables.to_kan import blend, table_outputs

POLICY = TablePolicy()
WITHOUT = TablePolicy(candidates=POLICY.candidates[:-2])
NONE = 1e-300  # variance of what a kernel does not have
EXACT = TablePolicy(omitted=0.0, max_nodes=1000)


def rows(count, seed):
    return np.random.default_rng(seed).uniform(-1.7, 1.7, (count, 4))


def triple(u):
    return (u[:, 0] * u[:, 1] * u[:, 2] + u[:, 3] ** 2)[:, None]


@cache
def fitted(policy=POLICY):
    u = rows(300, 0)
    return fit_numbers(
        u, triple(u) + 0.1 * np.random.default_rng(1).standard_normal((300, 1)), policy
    )


def test_an_input_that_does_nothing_gets_no_precision():
    u = rows(200, 2)
    y = np.sin(2 * u[:, :1] * u[:, 1:2])
    table = TableRows.of(u, np.ones(200), POLICY)
    radial = table.with_neighbourhoods(y).design.radial
    precisions = radial.kernel.precisions
    assert precisions[2:].max() < 0.1 * precisions[:2].min()
    assert np.abs(radial.values(u).mean(0)).max() < 2  # of functions with prior variance 1
    for limit in ({"max_work": 200.0 * 5**2}, {"max_numbers": 200.0 * 5}):
        few = replace(table, policy=replace(POLICY, **limit))
        assert few.with_neighbourhoods(y).design.radial.centres.shape == (5, 4)


def test_centres_leave_no_row_more_variance_than_allowed():
    u = rows(120, 4)
    kernel = Kernel(np.array([0.3, 0.05, 0.01, 0.0]), NONE, 1.0, 1.0)
    basis = RadialBasis.of(u, np.arange(120), kernel, 0.01, 100)
    to_centres = kernel(u, basis.centres) - 1.0
    of_centres = kernel(basis.centres, basis.centres) - 1.0
    known = (to_centres * np.linalg.solve(of_centres, to_centres.T).T).sum(1)
    assert 10 < len(basis.centres) < 100
    assert 1e-4 < (1.0 - known).max() < 0.01 + 1e-9


def test_the_exact_process_has_the_right_mean():
    """As in the search for formulas: no lines, and little noise."""
    u = rows(150, 3)
    y = np.sin(u[:, :1]) * u[:, 1:2] + np.exp(u[:, 2:3] / 2)
    middle, std = y.mean(), y.std()
    prior = KernelPrior((1 / 9, 1e-6, 1e2), (NONE,) * 3, (30.0, 1e-2, 1e6), (1e-6, 1e-12, 1.0))
    evaluations = []
    kernel = fit_kernel(
        u[:100], (y[:100] - middle) / std, prior, on_evaluation=lambda: evaluations.append(None)
    )
    assert evaluations
    assert kernel.linear == pytest.approx(NONE)
    process = GaussianProcess.of(kernel, u, (y - middle) / std)
    new = 0.8 * rows(50, 4)
    truth = np.sin(new[:, :1]) * new[:, 1:2] + np.exp(new[:, 2:3] / 2)
    assert_allclose(middle + std * process.mean(new), truth, atol=0.02)


def test_gradients_are_those_of_the_mean():
    u = rows(40, 5)
    process = GaussianProcess.of(Kernel(np.full(4, 0.3), 0.5, 2.0, 0.01), u, triple(u))
    at, step = rows(5, 6), 1e-6
    for j in range(4):
        moved = step * np.eye(4)[j]
        difference = (process.mean(at + moved) - process.mean(at - moved))[:, 0] / (2 * step)
        assert_allclose(process.gradient(at)[:, j], difference, rtol=1e-4, atol=1e-6)


def test_what_three_inputs_do_together_is_found():
    new = rows(400, 3)
    truth = triple(new)
    errors = [
        np.mean((fit.raw(fit.design.functions(new))[:, 0] - truth[:, 0]) ** 2) / truth.var()
        for fit in (fitted(), fitted(WITHOUT))
    ]
    assert errors[0] < 0.02
    assert errors[1] > 0.2


def test_the_network_is_the_fit_also_beyond_the_rows():
    fit = fitted()
    network = to_kan(fit, EXACT)
    assert network.edge_layers[1].uniform  # equal intervals are evaluated three times faster
    u = np.concatenate([fit.u, fit.u[:20] * 1.3])
    expected = fit.raw(fit.design.functions(u))[:, 0]
    found = network(torch.as_tensor(u)).detach().numpy()[:, 0]
    assert_allclose(found[:300], expected[:300], atol=1e-8)
    beyond = fit.raw(fit.design.functions(1.25 * rows(400, 9)))[:, 0]
    assert np.abs(beyond).max() < 2.5 * np.abs(expected).max()  # as x0 x1 x2 itself


def test_outputs_by_matrices_are_those_of_the_network():
    fit = fitted()
    u = np.concatenate([fit.u, 1.3 * fit.u])
    one = to_kan(fit, EXACT)
    two = blend([one, to_kan(fit, POLICY)], [(np.linspace(-9, 9, 5), np.linspace(-1, 1, 5))] * 2)
    for network in (one, two, to_kan(fitted(WITHOUT), EXACT)):
        expected = network(torch.as_tensor(u)).detach().numpy()
        assert_allclose(table_outputs(network, u), expected, atol=1e-9)


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_nodes_are_omitted_within_a_tenth_of_the_noise(noise):
    fit = fitted(WITHOUT)
    x = torch.as_tensor(fit.u)
    fewer = to_kan(fit, replace(POLICY, omitted=0.1), noise=noise)
    every = to_kan(fit, EXACT, noise=noise)
    assert fewer.shape[1] < every.shape[1]
    assert 0.01 * noise < float((fewer(x) - every(x)).detach().std()) < 0.1 * noise


def test_the_effect_of_an_input_holds_what_neighbourhoods_add():
    fit = fitted()
    at = np.zeros((41, 4))
    at[:, 3] = np.linspace(-1.6, 1.6, 41)
    effect = column_effect(fit, [3], at, fit.design.basis.values(at))[:, 0]
    truth = at[:, 3] ** 2 - (fit.u[:, 3] ** 2).mean()
    assert np.abs(effect - effect.mean() - truth + truth.mean()).max() < 0.25


def test_where_they_add_nothing_there_are_none():
    u = rows(300, 4)
    y = u[:, :1] + np.random.default_rng(5).standard_normal((300, 1))
    fit = fit_numbers(u, y, POLICY)
    assert fit.design.radial is None
    assert NEIGHBOURHOODS not in fit.weights
