"""The kernel with the largest evidence (restricted likelihood), by Laplace's approximation.

With a latent function f of covariance K and a level of nearly unlimited variance,

    log Z = log p(y | f) - f' K^-1 f / 2 - log |I + W^1/2 K W^1/2| / 2

at the most probable f, where W is minus the second derivative of log p. For Gaussian outputs this
is the restricted likelihood itself. Several outputs, and each class against the others, share the
kernel. The logarithms of all hyperparameters have independent normal priors.

Source: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning (2006), algorithms 3.1
and 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize
from scipy.spatial.distance import squareform

from kanrun.engine.tables.kernel import Kernel, RadialInputs
from kanrun.engine.tables.likelihoods import Likelihood

#: Variance of the level in the latent function, about the link of the mean output.
_LEVEL_VARIANCE = 100.0
#: Prior mean of the sum of all w, and of all m: independent of the number of inputs.
_SMOOTH_RATE = 1.0
_ROUGH_RATE = 0.5
#: Prior means of the four variances.
_VARIANCES = (0.3, 0.3, 0.5, 0.3)
#: Prior mean of the dispersion.
_DISPERSION = 0.3
#: Standard deviation of the logarithm of a rate.
_RATE_STD = 1.0
#: Standard deviation of the logarithm of a variance or dispersion.
_VARIANCE_STD = 3.0
#: Standard deviation of the exponent of the output about 1.
_POWER_STD = 0.7
#: Limits of the logarithms of rates and variances.
_LOWEST = -14.0
_HIGHEST = 4.0
#: Limits of the logarithm of the dispersion.
_DISPERSIONS = (-26.0, 3.0)
#: Limits of the exponent of the output.
_EXPONENTS = (-1.0, 3.0)
#: Dispersions from which the search begins: the evidence may have a second maximum near zero noise.
_STARTS = (0.3, 0.01)
#: Steps from each start, of which the better one continues.
_START_STEPS = 12
#: Steps at most.
_STEPS = 60
#: Relative change of the evidence at which the search ends: 0.005 for evidences near 500.
_TOLERANCE = 1e-5
#: Newton steps for the most probable latent values.
_NEWTON_STEPS = 30
#: Halvings of a step of Newton's method that does not increase the posterior.
_HALVINGS = 10
#: Curvature below which a row counts as without information.
_SMALLEST = 1e-12
#: Change of the log posterior at which Newton's method ends.
_NEWTON_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class EvidenceRows:
    """Rows from which the kernel is found; parts without columns have no variance.

    Attributes:
        radial: Inputs of the radial parts.
        lines: Values of the straight lines, shape (rows, lines).
        curves: Values of the curves, scaled to one prior variance, shape (rows, curves).
        outputs: Likelihood of each output, or of each class against the others.
        taking_part: Whether each input takes part in the radial parts, shape (inputs,).
    """

    radial: RadialInputs
    lines: ndarray
    curves: ndarray
    outputs: Sequence[Likelihood]
    taking_part: ndarray

    @property
    def inputs(self) -> int:
        return len(self.taking_part)

    def log_evidence(self, kernel: Kernel) -> float:
        """Return the logarithm of the evidence for these hyperparameters, without their prior."""
        covariance = kernel.radial(self.radial, self.radial)
        covariance += kernel.lines * self.lines @ self.lines.T
        covariance += kernel.curves * self.curves @ self.curves.T + _LEVEL_VARIANCE
        found = [_laplace(covariance, each, np.zeros(len(covariance))) for each in self.outputs]
        return sum(each.value if each else -np.inf for each in found)


def fit_kernel(rows: EvidenceRows, *, powers: bool) -> tuple[Kernel, list[Likelihood]]:
    """Return the kernel with the largest evidence, and the likelihoods with their parameters.

    Without `powers` the outputs are not transformed.
    """
    problem = _Problem(rows, powers)
    ends = problem.bounds()

    def search(start: ndarray, steps: int) -> Any:
        return optimize.minimize(
            problem.value_and_gradient,
            np.clip(start, *ends.T),
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(*ends.T),
            options={"maxiter": steps, "ftol": _TOLERANCE},
        )

    starts = _STARTS if problem.has_dispersion and len(problem.used) else _STARTS[:1]
    begun = [search(problem.start(dispersion), _START_STEPS) for dispersion in starts]
    best = min(begun, key=lambda result: float(result.fun))
    return problem.unpacked(search(best.x, _STEPS).x)


class _Problem:
    """Minus the log posterior of the hyperparameters, with its gradient.

    Their vector holds log w and log m of the inputs that take part, the logarithms of the four
    variances, and for each output the logarithm of its dispersion and its exponent, where it has
    them.
    """

    def __init__(self, rows: EvidenceRows, powers: bool) -> None:
        self.rows = rows
        used = np.flatnonzero(rows.taking_part)
        self.used, count = used, len(rows.lines)
        self.squares, self.distances = _pairwise(rows.radial, used)
        self.by_lines = rows.lines @ rows.lines.T
        self.by_curves = rows.curves @ rows.curves.T
        first = rows.outputs[0]
        self.has_dispersion = not first.family.has_known_dispersion
        self.has_power = powers and first.is_gaussian
        self.latent = [np.full(count, 0.0) for _ in rows.outputs]
        size = len(used)
        own = [np.log(_DISPERSION)] * self.has_dispersion + [1.0] * self.has_power
        own_std = [_VARIANCE_STD] * self.has_dispersion + [_POWER_STD] * self.has_power
        middle = [
            *np.full(size, np.log(_SMOOTH_RATE / max(size, 1))),
            *np.full(size, np.log(_ROUGH_RATE / max(size, 1))),
            *np.log(_VARIANCES),
        ]
        std = [*np.full(2 * size, _RATE_STD), *np.full(4, _VARIANCE_STD)]
        self.middle = np.array(middle + own * len(rows.outputs))
        self.std = np.array(std + own_std * len(rows.outputs))

    def bounds(self) -> ndarray:
        """Return the limits (parameters, 2)."""
        size = 2 * len(self.used) + 4
        own = [_DISPERSIONS] * self.has_dispersion + [_EXPONENTS] * self.has_power
        found = np.array([(_LOWEST, _HIGHEST)] * size + own * len(self.rows.outputs))
        empty = [not np.any(part) for part in (self.by_lines, self.by_curves)]
        empty += [not len(self.used)] * 2
        found[size - 4 : size][empty] = _LOWEST
        return found

    def start(self, dispersion: float) -> ndarray:
        """Return the prior means, with this dispersion."""
        found = self.middle.copy()
        if self.has_dispersion:
            found[2 * len(self.used) + 4 :: 1 + self.has_power] = np.log(dispersion)
        return found

    def unpacked(self, p: ndarray) -> tuple[Kernel, list[Likelihood]]:
        """Return the kernel and the likelihoods of a vector of hyperparameters."""
        size, inputs = len(self.used), len(self.rows.taking_part)
        smooth_rates, rough_rates = np.zeros(inputs), np.zeros(inputs)
        smooth_rates[self.used] = np.exp(p[:size])
        rough_rates[self.used] = np.exp(p[size : 2 * size])
        variances = np.exp(p[2 * size : 2 * size + 4])
        variances[p[2 * size : 2 * size + 4] <= _LOWEST] = 0.0
        own = p[2 * size + 4 :].reshape(len(self.rows.outputs), -1)
        likelihoods = []
        for output, parameters in zip(self.rows.outputs, own, strict=True):
            values = iter(parameters.tolist())
            dispersion = float(np.exp(next(values))) if self.has_dispersion else 1.0
            exponent = next(values) if self.has_power else 1.0
            likelihoods.append(output.with_parameters(dispersion, exponent))
        return Kernel(smooth_rates, rough_rates, *variances.tolist()), likelihoods

    def value_and_gradient(self, p: ndarray) -> tuple[float, ndarray]:
        kernel, likelihoods = self.unpacked(p)
        smooth = kernel.smooth * _decayed(kernel.smooth_rates[self.used], self.squares)
        rough = kernel.rough * _decayed(kernel.rough_rates[self.used], self.distances)
        covariance = squareform(smooth + rough, checks=False)
        covariance += kernel.lines * self.by_lines + kernel.curves * self.by_curves
        covariance[np.diag_indices(len(covariance))] += kernel.radial_variance
        covariance += _LEVEL_VARIANCE
        value, slope = 0.0, np.zeros_like(covariance)
        own = list[float]()
        for place, likelihood in enumerate(likelihoods):
            found = _laplace(covariance, likelihood, self.latent[place])
            if found is None:
                return np.inf, np.zeros_like(p)
            value += found.value
            slope += found.slope
            self.latent[place] = found.latent
            own += [found.by_dispersion] * self.has_dispersion
            own += [found.by_exponent] * self.has_power
        between = squareform(slope, checks=False) * 2
        trace = float(np.trace(slope))
        by_smooth, by_rough = between * smooth, between * rough
        gradient = np.concatenate(
            [
                -kernel.smooth_rates[self.used] * (self.squares @ by_smooth),
                -kernel.rough_rates[self.used] * (self.distances @ by_rough),
                [
                    kernel.lines * np.vdot(slope, self.by_lines),
                    kernel.curves * np.vdot(slope, self.by_curves),
                    by_smooth.sum() + kernel.smooth * trace,
                    by_rough.sum() + kernel.rough * trace,
                ],
                own,
            ]
        )
        off = (p - self.middle) / self.std
        return float(off @ off) / 2 - value, off / self.std - gradient


def _pairwise(radial: RadialInputs, used: ndarray) -> tuple[ndarray, ndarray]:
    """Return half the squared differences of u and the distances of t for all pairs of rows.

    The shape is (inputs, pairs). Single precision halves the time of each step.
    """
    first, second = np.triu_indices(len(radial), 1)
    squares, distances = np.empty((2, len(used), len(first)))
    for place, j in enumerate(used):
        squares[place] = (radial.u[first, j] - radial.u[second, j]) ** 2 / 2
        distances[place] = np.abs(radial.t[first, j] - radial.t[second, j])
    return squares, distances


def _decayed(rates: ndarray, distances: ndarray) -> ndarray:
    if not len(rates):
        return np.ones(distances.shape[1])
    return np.asarray(np.exp(-(rates @ distances)))


@dataclass(frozen=True, eq=False)
class _Laplace:
    """Evidence of one output, and its derivatives.

    `slope` (rows, rows) is the derivative with respect to the covariance.
    """

    value: float
    slope: ndarray
    latent: ndarray
    by_dispersion: float
    by_exponent: float


def _laplace(covariance: ndarray, likelihood: Likelihood, start: ndarray) -> _Laplace | None:
    """Return the evidence; None if the covariance is not positive definite.

    `start` holds latent values about the likelihood's own level, from which Newton's method begins.
    """
    level, f = likelihood.start(), start
    a, best = np.zeros(len(start)), -np.inf
    for _ in range(_NEWTON_STEPS):
        terms = likelihood.terms(level + f)
        factor = _factor(covariance, terms.curvature)
        if factor is None:
            return None
        root, right = np.sqrt(terms.curvature), terms.curvature * f + terms.score
        solved = linalg.cho_solve((factor, True), root * (covariance @ right), check_finite=False)
        target, moved, value = right - root * solved, f, -np.inf
        for _ in range(_HALVINGS):
            moved = covariance @ target
            value = float(likelihood.terms(level + moved).value.sum() - target @ moved / 2)
            if value >= best - _NEWTON_TOLERANCE:
                break
            target = (target + a) / 2
        change, a, f, best = value - best, target, moved, value
        if likelihood.is_gaussian:
            return _derivatives(covariance, likelihood, _Mode(level + f, a, best, factor))
        if change < _NEWTON_TOLERANCE:
            break
    factor = _factor(covariance, likelihood.terms(level + f).curvature)
    if factor is None:
        return None
    found = _derivatives(covariance, likelihood, _Mode(level + f, a, best, factor))
    return replace(found, latent=f)


def _factor(covariance: ndarray, curvature: ndarray) -> ndarray | None:
    """Return the lower Cholesky factor of I + W^1/2 K W^1/2; None if there is none."""
    root = np.sqrt(curvature)
    inner = root[:, None] * covariance * root
    inner[np.diag_indices(len(inner))] += 1
    try:
        return np.asarray(linalg.cholesky(inner, lower=True, overwrite_a=True, check_finite=False))
    except linalg.LinAlgError:
        return None


@dataclass(frozen=True, eq=False)
class _Mode:
    """Most probable latent values f = level + K a, their log posterior, and the factor there."""

    f: ndarray
    a: ndarray
    value: float
    factor: ndarray


def _derivatives(covariance: ndarray, likelihood: Likelihood, mode: _Mode) -> _Laplace:
    """Return the evidence and its derivatives at the most probable latent values."""
    terms, a = likelihood.terms(mode.f), mode.a
    value = mode.value - float(np.log(np.diag(mode.factor)).sum())
    inverse, _ = linalg.lapack.dpotri(mode.factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    # Variance of each latent value given the rows, times its curvature.
    known = 1 - np.diag(inverse)
    root = np.sqrt(terms.curvature)
    weighted = root[:, None] * inverse * root  # (K + W^-1)^-1
    slope = (np.outer(a, a) - weighted) / 2
    penalty = likelihood.weights * (np.log(likelihood.dispersion) + 1) / 2
    by_dispersion = float((known / 2 - terms.value - penalty).sum())
    if likelihood.is_gaussian:
        by_exponent = float(likelihood.by_exponent(mode.f).sum())
        return _Laplace(value, slope, mode.f, by_dispersion, by_exponent)
    by_latent = known / np.maximum(terms.curvature, _SMALLEST) * terms.third / 2
    moved = by_latent - weighted @ (covariance @ by_latent)
    slope += (np.outer(moved, a) + np.outer(a, moved)) / 2
    by_dispersion -= float(moved @ (covariance @ terms.score))
    return _Laplace(value, slope, mode.f, by_dispersion, 0.0)
