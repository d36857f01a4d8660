"""Neighbourhoods: the spline for exp(-s), precisions, and a network that equals the fit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from kanrun.engine.evidence import EvidencePolicy, fit_classes, fit_numbers, network_of
from kanrun.engine.evidence.members import NEIGHBOURHOODS, TableFit
from kanrun.engine.evidence.radial import RadialBasis, psi

POLICY = EvidencePolicy()
WITHOUT = EvidencePolicy(candidates=POLICY.candidates[:-1])
EXACT = EvidencePolicy(remainder=0.0, most_nodes=1000)


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.7, 1.7, (count, 4))


def triple(u: np.ndarray) -> np.ndarray:
    return (u[:, 0] * u[:, 1] * u[:, 2] + u[:, 3] ** 2)[:, None]


@cache
def fitted(policy: EvidencePolicy = POLICY) -> TableFit:
    u = rows(300, 0)
    return fit_numbers(
        u, triple(u) + 0.1 * np.random.default_rng(1).standard_normal((300, 1)), policy
    )


def test_the_bell_is_that_of_exp() -> None:
    s = np.linspace(0, 14, 5001)
    np.testing.assert_allclose(psi()(s), np.exp(-s), atol=5e-6)
    assert psi()(14.0) == pytest.approx(0, abs=1e-15)


def test_an_input_that_does_nothing_gets_no_precision() -> None:
    u = rows(200, 2)
    y = np.sin(2 * u[:, :1] * u[:, 1:2])
    radial = RadialBasis.of(u, y, np.ones(200), np.arange(200), POLICY)
    assert radial.precisions[2:].max() < 0.1 * radial.precisions[:2].min()
    assert np.abs(radial.values(u).mean(0)).max() < 2  # of functions with prior variance 1
    few = RadialBasis.of(
        u, y, np.ones(200), np.arange(200), replace(POLICY, most_work=200.0 * 5**2)
    )
    assert few.centres.shape == (5, 4)


def test_what_three_inputs_do_together_is_found() -> None:
    new = rows(400, 3)
    truth = triple(new)
    errors = [
        np.mean((fit.terms[0].values(fit.design.functions(new)) - truth[:, 0]) ** 2) / truth.var()
        for fit in (fitted(), fitted(WITHOUT))
    ]
    assert errors[0] < 0.02
    assert errors[1] > 0.2


def test_the_network_is_the_fit_also_beyond_the_rows() -> None:
    fit = fitted()
    network = network_of(fit.terms, fit.design, fit.functions(), fit.noise, EXACT)
    assert network.layer(1).uniform  # equal intervals are evaluated three times faster
    u = np.concatenate([fit.u, fit.u[:20] * 1.3])
    expected = fit.terms[0].values(fit.design.functions(u))
    with torch.no_grad():
        found = network(torch.as_tensor(u)).numpy()[:, 0]
    np.testing.assert_allclose(found[:300], expected[:300], atol=1e-8)
    beyond = fit.terms[0].values(fit.design.functions(1.25 * rows(400, 9)))
    assert np.abs(beyond).max() < 2.5 * np.abs(expected).max()  # as x0 x1 x2 itself


def test_the_effect_of_an_input_holds_what_neighbourhoods_add() -> None:
    fit = fitted()
    at = np.zeros((41, 4))
    at[:, 3] = np.linspace(-1.6, 1.6, 41)
    effect = fit.effect(3, at)[:, 0]
    truth = at[:, 3] ** 2 - (fit.u[:, 3] ** 2).mean()
    assert np.abs(effect - effect.mean() - truth + truth.mean()).max() < 0.25


def test_where_they_add_nothing_there_are_none() -> None:
    u = rows(300, 4)
    y = u[:, :1] + np.random.default_rng(5).standard_normal((300, 1))
    fit = fit_numbers(u, y, POLICY)
    assert fit.design.radial is None
    assert NEIGHBOURHOODS not in fit.variances
    assert NEIGHBOURHOODS not in fit.weights


def test_classes_that_lie_in_shells_are_told_apart() -> None:
    u = rows(300, 6)
    labels = (np.linalg.norm(u[:, :3], axis=1) + u[:, 0] * u[:, 1] * u[:, 2] > 1.7).astype(int)
    fit = fit_classes(u, labels, 2, POLICY)
    new = rows(400, 7)
    truth = np.linalg.norm(new[:, :3], axis=1) + new[:, 0] * new[:, 1] * new[:, 2] > 1.7
    network = network_of(fit.terms, fit.design, fit.functions(), 0.3, POLICY, split=True)
    with torch.no_grad():
        found = network(torch.as_tensor(new)).numpy().argmax(1)
    assert fit.design.radial is not None
    assert (found == truth).mean() > 0.88
