"""Fitting by evidence: posteriors against their definition, and known terms in data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import softmax

from kanrun.engine.tables import TablePolicy, to_kan
from kanrun.engine.tables.gaussian_process import inverse_of
from kanrun.engine.tables.stacking import fit_likelihood, fit_numbers
from kanrun.engine.tables.table_candidates import MainPosterior
from kanrun.engine.tables.variance_components import FunctionProblem, estimate
from kanrun.points import Family

POLICY = TablePolicy(candidates=("linear", "additive", "steps", "pairs"))
EXACT = replace(POLICY, omitted=0.0, max_nodes=1000)


def data(count=250, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(count, 4))
    y = np.sin(2 * u[:, 0]) + u[:, 1] * u[:, 2] + 0.5 * u[:, 3]
    return u, (y + noise * rng.normal(size=count))[:, None]


def surprise(kernels, variances, noise, y):
    """Return minus twice the restricted log likelihood by the covariance of the rows."""
    inverse = np.linalg.inv(np.tensordot(variances, kernels, 1) + noise * np.eye(len(y)))
    sums = inverse.sum(0)
    projection = inverse - np.outer(sums, sums) / sums.sum()
    return -np.linalg.slogdet(inverse)[1] + np.log(sums.sum()) + y @ projection @ y


def test_predictions_of_rows_left_out_are_those_of_a_fit_without_them():
    rng = np.random.default_rng(2)
    h, y = rng.normal(size=(40, 5)), rng.normal(size=40)
    noise, kinds, variances = rng.uniform(0.5, 2, 40), np.zeros(5, dtype=int), np.array([0.7])
    problem = FunctionProblem.of(h, kinds, 1, 1 / noise, y)
    posterior = problem.posterior(variances, 0.6)
    left_out = problem.left_out(posterior, problem.fitted(posterior), 0.6)
    others = np.delete(np.arange(40), 7)
    rest = FunctionProblem.of(h[others], kinds, 1, 1 / noise[others], y[others])
    without = rest.posterior(variances, 0.6)
    expected = without.offset + h[7] @ without.coefficients
    assert left_out[7] == pytest.approx(expected, abs=1e-10)


def test_effects_and_pairs_are_found():
    u, y = data()
    fit = fit_numbers(u, y, POLICY)
    assert fit.noise == pytest.approx(0.1, rel=0.5)
    assert fit.weights["pairs"] > 0.8
    new, truth = data(400, 0.0, 5)
    predicted = fit.raw(fit.design.functions(new))[:, 0]
    inside = (np.abs(new) < 2).all(1)
    assert np.sqrt(np.mean((predicted - truth[:, 0])[inside] ** 2)) < 0.15


def test_pure_noise_is_left_alone():
    rng = np.random.default_rng(6)
    u, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 1))
    fit = fit_numbers(u, y, POLICY)
    assert fit.effective < 12
    assert np.std(fit.raw(fit.functions()[:])) < 0.4


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_network_is_the_weighted_sum_of_the_candidates(outputs):
    u, y = data()
    y = np.concatenate([y, -3 * y + u[:, :1]], 1)[:, :outputs]
    fit = fit_numbers(u, y, POLICY)
    network = to_kan(fit, EXACT)
    found = network(torch.as_tensor(u)).detach().numpy()
    expected = fit.raw(fit.functions()[:])
    assert_allclose(
        found,
        expected,
        atol=1e-12 * float(network.edge_layers[0].coefficients.detach().abs().max()),
    )
    assert network.shape[0] == 4
    assert network.shape[-1] == outputs
    assert sum(fit.weights.values()) == pytest.approx(1)


def test_outputs_of_other_sizes_get_the_same_fit_in_their_units():
    u, y = data(120)
    outputs = np.concatenate([y, 1e3 - 1e4 * y], 1)
    fit = fit_numbers(u, outputs, replace(POLICY, candidates=("additive",)))
    assert_allclose(fit.left_out[:, 1], 1e3 - 1e4 * fit.left_out[:, 0], rtol=1e-5)
    assert fit.noise[1] == pytest.approx(1e4 * fit.noise[0], rel=1e-4)


def test_functions_that_are_not_held_give_the_same_fit(monkeypatch):
    u, y = data()
    held = fit_numbers(u, y, POLICY)
    monkeypatch.setattr("kanrun.engine.tables.reduced_basis._MAX_STORED", 0)
    made = fit_numbers(u, y, POLICY)
    assert_allclose(made.left_out, held.left_out, rtol=1e-9, atol=1e-12)
    assert_allclose(
        to_kan(made, POLICY)(torch.as_tensor(u)).detach(),
        to_kan(held, POLICY)(torch.as_tensor(u)).detach(),
        atol=1e-9,
    )


def test_chosen_pairs_are_nearly_as_good_as_all():
    u, y = data(600)
    policies = (replace(POLICY, max_functions=1000), replace(POLICY, max_functions=300))
    every, chosen = (fit_numbers(u, y, policy) for policy in policies)
    left = [np.sqrt(np.mean((fit.left_out - y) ** 2)) for fit in (every, chosen)]
    assert left[1] < 1.2 * left[0]


@pytest.mark.parametrize("classes, max_functions", [(2, 600), (3, 150)])
def test_classes_get_their_probabilities(classes, max_functions):
    rng = np.random.default_rng(7)
    u = rng.normal(size=(500, 3))
    logits = np.stack([np.zeros(500), 2 * np.sin(2 * u[:, 0]), u[:, 1] ** 2 - 1], 1)[:, :classes]
    truth = softmax(logits, 1)
    labels = np.array([rng.choice(classes, p=p) for p in truth])
    policy = replace(POLICY, max_functions=max_functions)
    fit = fit_likelihood(u, labels[:, None].astype(float), Family(classes=classes), policy)
    network = to_kan(fit, policy, noise=0.1, split=classes == 2)
    found = network(torch.as_tensor(u)).softmax(-1).detach().numpy()
    assert np.abs(found - truth).mean() < 0.09
    assert sum(fit.weights.values()) == pytest.approx(1)
    assert min(fit.weights.values()) >= 0


def test_the_bands_cover_the_effect():
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(10):
        u = rng.uniform(-1, 1, size=(200, 2))
        y = np.sin(3 * u[:, 0]) + 0.3 * rng.normal(size=200)
        fit = fit_numbers(u, y[:, None], POLICY)
        at = np.linspace(-0.9, 0.9, 30)
        mine = fit.design.basis.column == 0
        h = fit.design.functions(np.stack([at, np.zeros(30)], 1))[:, mine]
        covariance = fit.unit**2 * fit.main.covariance[np.ix_(mine, mine)]
        width = np.sqrt(((h @ covariance) * h).sum(1))
        truth = np.sin(3 * at) - np.sin(3 * u[:, 0]).mean()
        covered.append(np.abs(h @ fit.terms.main[0, mine] - truth) < 1.96 * width)
    assert np.mean(covered) > 0.85


def test_bayes_factors_are_differences_of_the_evidence():
    rng = np.random.default_rng(12)
    h, kinds = rng.normal(size=(60, 8)), np.array([0, 1, 1, 2, 0, 1, 1, 2])
    y = h[:, 1] + 0.2 * h[:, 6] + rng.normal(size=60)
    variances, noise = np.array([0.3, 0.5, 0.0]), 0.8

    def problem(kept):
        return FunctionProblem.of(h[:, kept], kinds[kept], 3, np.ones(60), y)

    every, others = problem(np.arange(8)), problem(np.arange(4, 8))
    found = every.posterior(variances, noise)
    prior, covariance = variances[kinds], np.zeros((8, 8))
    covariance[np.ix_(found.kept, found.kept)] = inverse_of(found.factor)
    main = MainPosterior(found.coefficients, covariance, prior)
    evidence, without = (-one.surprise(variances, noise) / 2 for one in (every, others))
    assert main.log_bayes_factor(np.arange(4)) == pytest.approx(evidence - without, rel=1e-9)
    # The trace of the matrix that maps outputs to fitted values.
    x = h[:, found.kept] - h[:, found.kept].mean(0)
    trace = np.trace(x @ covariance[np.ix_(found.kept, found.kept)] @ x.T) / noise
    assert main.degrees_of_freedom(np.arange(8)) == pytest.approx(trace, rel=1e-9)


def test_variances_maximise_the_restricted_likelihood():
    rng = np.random.default_rng(9)
    h, kinds = rng.normal(size=(200, 12)), np.repeat([0, 1], 6)
    y = h @ np.where(kinds == 0, 0.5, 0.1) * rng.choice([-1, 1]) + rng.normal(size=200)
    policy = replace(POLICY, tolerance=1e-9, max_steps=200)
    problem = FunctionProblem.of(h, kinds, 2, np.ones(200), y)
    variances, noise = estimate(problem, policy)
    kernels = np.stack([h[:, kinds == k] @ h[:, kinds == k].T for k in (0, 1)])
    best = surprise(kernels, variances, noise, y)
    assert problem.surprise(variances, noise) - best == pytest.approx(
        problem.surprise(2 * variances, noise) - surprise(kernels, 2 * variances, noise, y)
    )
    for change in (0.99, 1.01):
        assert surprise(kernels, variances * [change, 1], noise, y) > best
        assert surprise(kernels, variances * [1, change], noise, y) > best
        assert surprise(kernels, variances, noise * change, y) > best


def test_without_variances_the_noise_is_that_of_the_outputs(capfd):
    h, y = np.random.default_rng(3).normal(size=(2, 50))
    problem = FunctionProblem.of(h[:, None], np.zeros(1, dtype=int), 1, np.ones(50), y)
    first, information = problem.slope(np.zeros(1), float(y.var(ddof=1)))
    assert first == pytest.approx([0], abs=1e-9)
    assert information.shape == (1, 1)
    assert capfd.readouterr().err == ""  # LAPACK reports an empty matrix there


def test_an_output_that_the_inputs_determine_is_found_beside_the_top_of_a_noisy_one():
    """One month of the mean of all months: the likelihood has a lower maximum at much noise."""
    months = np.random.default_rng(12).normal(size=(80, 12))
    months += months.mean(1, keepdims=True) + np.random.default_rng(13).normal(size=(80, 1))
    h, y = np.column_stack([months[:, 1:], months.mean(1)]), months[:, 0]
    h = (h - h.mean(0)) / h.std(0)

    def noise(policy):
        problem = FunctionProblem.of(h, np.zeros(12, dtype=int), 1, np.ones(80), y)
        return estimate(problem, policy)[1]

    assert noise(POLICY) < 1e-8 * y.var()
    assert noise(replace(POLICY, noise_fractions=(0.5,))) > 0.1 * y.var()


def test_classes_that_inputs_tell_together_alone_are_found():
    """The sum of an input and a label hides both from each input by itself."""
    rng = np.random.default_rng(14)
    labels = np.arange(100) % 2
    x = 20 * rng.normal(size=100)
    u = np.column_stack([x, x + labels + 0.05 * rng.normal(size=100)])
    u = (u - u.mean(0)) / u.std(0)

    def right(policy):
        logits = fit_likelihood(
            u, labels[:, None].astype(float), Family(classes=2), policy
        ).left_out[:, 0]
        return float(np.mean((logits > 0) == labels))

    assert right(replace(POLICY, logit_variances=(1.0,))) < 0.7
    assert right(POLICY) > 0.98


def test_many_classes_share_the_variances_of_the_most_frequent():
    u = np.random.default_rng(15).uniform(-1, 1, (240, 2))
    labels = np.floor(6 * (u[:, 0] + 1) - 1e-9).astype(int)
    fit = fit_likelihood(
        u,
        labels[:, None].astype(float),
        Family(classes=12),
        replace(POLICY, candidates=("additive",), variance_classes=4),
    )
    assert (fit.left_out.argmax(1) == labels).mean() > 0.85
