"""Find the kernel with the largest evidence (restricted likelihood), by Laplace's approximation.

Let f be the latent function, whose covariance K includes a constant of nearly unlimited variance.
The evidence is

    log Z = log p(y | f) - f' K^-1 f / 2 - log |I + W^1/2 K W^1/2| / 2

at the most probable f, where W is minus the second derivative of log p. For Gaussian outputs, this
is the exact restricted likelihood. All outputs (or, for classes, all one-against-rest problems)
share the kernel. The logarithms of the hyperparameters, and the exponents of the outputs, have
independent normal priors.

Source: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning (2006), algorithms 3.1
and 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize
from scipy.spatial.distance import squareform

from kanrun.engine.tables.kernel import Kernel, RadialInputs
from kanrun.engine.tables.likelihoods import Likelihood

#: Prior variance of the constant that the latent function adds to the link of the mean output.
_LEVEL_VARIANCE = 100.0
#: Prior median of the sum of the smooth rates w of all inputs.
_SMOOTH_RATE = 1.0
#: Prior median of the sum of the rough rates m of all inputs.
_ROUGH_RATE = 0.5
#: Prior medians of the variances of lines, curves, smooth part and rough part.
_VARIANCES = (0.3, 0.3, 0.5, 0.3)
#: Prior median of the dispersion.
_DISPERSION = 0.3
#: Standard deviation of the logarithm of a rate.
_RATE_STD = 1.0
#: Standard deviation of the logarithm of a variance or dispersion.
_VARIANCE_STD = 3.0
#: Standard deviation of the exponent of the output about 1.
_POWER_STD = 0.7
#: Lower limit of the logarithms of rates and variances.
_LOWEST = -14.0
#: Upper limit of the logarithms of rates and variances.
_HIGHEST = 8.0
#: Limits of the logarithm of the dispersion.
_DISPERSIONS = (-23.0, 3.0)
#: Limits of the exponent of the output.
_EXPONENTS = (-1.0, 3.0)
#: Pairs (dispersion, variance of the smooth part) from which the search starts. There are two,
#: because the evidence may have a second maximum near zero noise.
_STARTS = ((0.3, 0.5), (1e-4, 10.0))
#: Number of rows with which the search begins; a step on 800 rows takes about 20 times as long.
_FIRST_ROWS = 200
#: Largest number of steps of each search.
_STEPS = 100
#: Relative change of the log evidence at which the search with the first rows ends.
_FIRST_TOLERANCE = 1e-5
#: Relative change of the log evidence at which the search with all rows ends.
_TOLERANCE = 1e-4
#: Number of previous steps from which L-BFGS approximates the curvature.
_MEMORY = 30
#: Largest number of Newton steps to the most probable latent values.
_NEWTON_STEPS = 30
#: Largest number of halvings of a Newton step that does not increase the posterior.
_HALVINGS = 10
#: Smallest divisor where values are divided by the curvature of a row.
_SMALLEST = 1e-12
#: Change of the log posterior below which Newton's method ends.
_NEWTON_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class EvidenceRows:
    """Rows from which the kernel is estimated.

    Attributes:
        radial: Inputs of the radial parts.
        lines: Values of the straight lines, shape (rows, lines); without lines, their variance in
            the kernel is 0.
        curves: Values of the curves, shape (rows, curves), scaled so that all have the same prior
            variance; without curves, their variance in the kernel is 0.
        outputs: Likelihood of each output, or of each class against the others.
        taking_part: Whether each input is used in the radial parts, shape (inputs,).
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
        """Return the log evidence of a kernel on the rows, without the prior of the kernel."""
        covariance = kernel.radial(self.radial, self.radial)
        covariance += kernel.lines * self.lines @ self.lines.T
        covariance += kernel.curves * self.curves @ self.curves.T + _LEVEL_VARIANCE
        modes = [_mode(covariance, each, np.zeros(len(covariance))) for each in self.outputs]
        return sum(mode.evidence if mode else -np.inf for mode in modes)

    def first(self, count: int) -> EvidenceRows:
        """Return the first `count` of the rows."""
        part = slice(count)
        outputs = [each.take(part) for each in self.outputs]
        return EvidenceRows(
            self.radial[part], self.lines[part], self.curves[part], outputs, self.taking_part
        )


def fit_kernel(rows: EvidenceRows, *, powers: bool) -> tuple[Kernel, list[Likelihood]]:
    """Return the kernel with the largest evidence, and the likelihoods with their parameters.

    The search starts on the first rows, from the pairs in `_STARTS`. The best result is the start
    of the search on all rows, whose steps are scaled by the curvature of the evidence there.

    Args:
        rows: The rows.
        powers: Whether the exponents of Gaussian outputs are fitted; otherwise they stay 1.
    """
    problem = _Problem(rows.first(_FIRST_ROWS), powers)
    starts = _STARTS if problem.has_dispersion else _STARTS[:1]
    results = [
        problem.search(problem.start(*each), problem.std, _FIRST_TOLERANCE) for each in starts
    ]
    best = min(results, key=lambda result: result.surprise)
    if len(rows.lines) > _FIRST_ROWS:
        problem = _Problem(rows, powers)
        best = problem.search(best.parameters, best.units, _TOLERANCE)
    return problem.unpacked(best.parameters)


class _Result(NamedTuple):
    """Result of a search.

    Attributes:
        parameters: Vector of hyperparameters, see `_Problem`.
        surprise: Minus their log posterior.
        units: Approximate standard deviation of each parameter.
    """

    parameters: ndarray
    surprise: float
    units: ndarray


class _Problem:
    """Minus the log posterior of the hyperparameters, with its gradient.

    The vector of hyperparameters holds, in this order: log w and then log m of the inputs in the
    radial parts, the logarithms of the four variances, and for each output the logarithm of its
    dispersion (if that is unknown) and its exponent (if that is fitted).
    """

    def __init__(self, rows: EvidenceRows, powers: bool) -> None:
        self.rows = rows
        used = np.flatnonzero(rows.taking_part)
        self.used, count = used, len(rows.lines)
        self.squares, self.distances = _pairwise(rows.radial, used)
        self.by_lines, self.by_curves = (_Symmetric.of(each) for each in (rows.lines, rows.curves))
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
        """Return the lower and upper limit of each parameter, shape (parameters, 2)."""
        size = 2 * len(self.used) + 4
        own = [_DISPERSIONS] * self.has_dispersion + [_EXPONENTS] * self.has_power
        found = np.array([(_LOWEST, _HIGHEST)] * size + own * len(self.rows.outputs))
        empty = [not np.any(part) for part in (self.rows.lines, self.rows.curves)]
        empty += [not len(self.used)] * 2
        found[size - 4 : size][empty] = _LOWEST
        return found

    def start(self, dispersion: float, smooth: float) -> ndarray:
        """Return the prior means, with the dispersion and the smooth part's variance replaced."""
        found = self.middle.copy()
        found[2 * len(self.used) + 2] = np.log(smooth)
        if self.has_dispersion:
            found[2 * len(self.used) + 4 :: 1 + self.has_power] = np.log(dispersion)
        return found

    def unpacked(self, p: ndarray) -> tuple[Kernel, list[Likelihood]]:
        """Convert a vector of hyperparameters to the kernel and the likelihoods."""
        size = len(self.used)
        inputs = len(self.rows.taking_part)
        smooth_rates = np.zeros(inputs)
        rough_rates = np.zeros(inputs)
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

    def search(self, start: ndarray, units: ndarray, tolerance: float) -> _Result:
        """Minimise from `start` by L-BFGS-B; parameters are divided by `units` (parameters,)."""
        ends = self.bounds() / units[:, None]

        def scaled(p: ndarray) -> tuple[float, ndarray]:
            value, gradient = self.value_and_gradient(p * units)
            return value, gradient * units

        found: Any = optimize.minimize(
            scaled,
            np.clip(start / units, *ends.T),
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(*ends.T),
            options={"maxiter": _STEPS, "ftol": tolerance, "maxcor": _MEMORY},
        )
        variances = np.diag(found.hess_inv.todense())
        return _Result(found.x * units, float(found.fun), np.sqrt(variances) * units)

    def value_and_gradient(self, p: ndarray) -> tuple[float, ndarray]:
        kernel, likelihoods = self.unpacked(p)
        smooth = kernel.smooth * _decayed(kernel.smooth_rates[self.used], self.squares)
        rough = kernel.rough * _decayed(kernel.rough_rates[self.used], self.distances)
        lines = self.by_lines
        curves = self.by_curves
        covariance = squareform(
            smooth + rough + kernel.lines * lines.pairs + kernel.curves * curves.pairs, checks=False
        )
        np.fill_diagonal(
            covariance,
            kernel.radial_variance
            + kernel.lines * lines.diagonal
            + kernel.curves * curves.diagonal,
        )
        covariance += _LEVEL_VARIANCE
        value = 0.0
        own = list[float]()
        pairs = np.zeros_like(smooth)
        diagonal = np.zeros(len(covariance))
        for place, likelihood in enumerate(likelihoods):
            mode = _mode(covariance, likelihood, self.latent[place])
            if mode is None:
                return np.inf, np.zeros_like(p)
            slopes = _slopes(covariance, likelihood, mode)
            value += mode.evidence
            pairs += squareform(slopes.by_covariance, checks=False)
            diagonal += np.diag(slopes.by_covariance)
            self.latent[place] = mode.latent
            own += [slopes.by_dispersion] * self.has_dispersion
            own += [slopes.by_exponent] * self.has_power
        pairs *= 2
        by_smooth = pairs * smooth
        by_rough = pairs * rough
        trace = float(diagonal.sum())
        gradient = np.concatenate(
            [
                -kernel.smooth_rates[self.used] * (self.squares @ by_smooth),
                -kernel.rough_rates[self.used] * (self.distances @ by_rough),
                [
                    kernel.lines * (pairs @ lines.pairs + diagonal @ lines.diagonal),
                    kernel.curves * (pairs @ curves.pairs + diagonal @ curves.diagonal),
                    by_smooth.sum() + kernel.smooth * trace,
                    by_rough.sum() + kernel.rough * trace,
                ],
                own,
            ]
        )
        off = (p - self.middle) / self.std
        return float(off @ off) / 2 - value, off / self.std - gradient


class _Symmetric(NamedTuple):
    """A symmetric matrix, stored as its diagonal and the entries above it, row by row."""

    pairs: ndarray
    diagonal: ndarray

    @staticmethod
    def of(columns: ndarray) -> _Symmetric:
        """Return the Gram matrix of rows (rows, columns)."""
        return _Symmetric(squareform(columns @ columns.T, checks=False), (columns**2).sum(1))


def _pairwise(radial: RadialInputs, used: ndarray) -> tuple[ndarray, ndarray]:
    """Return (u_j - u_k)^2 / 2 and |t_j - t_k| for all pairs of rows j < k.

    Both have the shape (inputs used, pairs).
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
    exponents = rates @ distances
    np.negative(exponents, out=exponents)
    return np.asarray(np.exp(exponents, out=exponents))


@dataclass(frozen=True, eq=False)
class _Mode:
    """Most probable latent values of one output, and the evidence there.

    Attributes:
        latent: Latent values minus the level `Likelihood.start()` (not for Gaussian outputs), shape
            (rows,).
        scores: K^-1 times these values, shape (rows,).
        root: W^1/2, shape (rows,).
        factor: Lower Cholesky factor of I + W^1/2 K W^1/2.
        evidence: Logarithm of the evidence.
    """

    latent: ndarray
    scores: ndarray
    root: ndarray
    factor: ndarray
    evidence: float

    def solved(self, right: ndarray) -> ndarray:
        """Return (K + W^-1)^-1 r for the right-hand side r (rows,)."""
        inner = linalg.cho_solve((self.factor, True), self.root * right, check_finite=False)
        return np.asarray(self.root * inner)


def _mode(covariance: ndarray, likelihood: Likelihood, start: ndarray) -> _Mode | None:
    """Return the most probable latent values; None if the covariance is not positive definite.

    Newton's method begins at the latent values `start` (rows,).
    """
    if likelihood.is_gaussian:
        return _gaussian_mode(covariance, likelihood)
    level = likelihood.start()
    f = start
    a = np.zeros(len(start))
    best = -np.inf
    for _ in range(_NEWTON_STEPS):
        terms = likelihood.terms(level + f)
        factor = _factor(covariance, root := np.sqrt(terms.curvature))
        if factor is None:
            return None
        right = terms.curvature * f + terms.score
        solved = linalg.cho_solve((factor, True), root * (covariance @ right), check_finite=False)
        target = right - root * solved
        moved = f
        value = -np.inf
        for _ in range(_HALVINGS):
            moved = covariance @ target
            value = float(likelihood.terms(level + moved).value.sum() - target @ moved / 2)
            if value >= best - _NEWTON_TOLERANCE:
                break
            target = (target + a) / 2
        change = value - best
        a = target
        f = moved
        best = value
        if change < _NEWTON_TOLERANCE:
            break
    root = np.sqrt(likelihood.terms(level + f).curvature)
    factor = _factor(covariance, root)
    return None if factor is None else _Mode(f, a, root, factor, best - _half_log(factor))


def _gaussian_mode(covariance: ndarray, likelihood: Likelihood) -> _Mode | None:
    """Return the mode for Gaussian outputs in closed form, which avoids cancellation."""
    y = likelihood.power.apply(likelihood.y)
    weights = likelihood.weights
    root = np.sqrt(weights / likelihood.dispersion)
    factor = _factor(covariance, root)
    if factor is None:
        return None
    a = root * linalg.cho_solve((factor, True), root * y, check_finite=False)
    value = -float(y @ a + weights.sum() * np.log(likelihood.dispersion)) / 2
    return _Mode(y - a / root**2, a, root, factor, value - _half_log(factor))


def _half_log(factor: ndarray) -> float:
    return float(np.log(np.diag(factor)).sum())


def _factor(covariance: ndarray, root: ndarray) -> ndarray | None:
    """Return the lower Cholesky factor of I + W^1/2 K W^1/2; None if factorisation fails."""
    inner = root[:, None] * covariance
    inner *= root
    inner[np.diag_indices(len(inner))] += 1
    # LAPACK expects column-major order, which the transpose of this symmetric matrix has.
    factor, failure = linalg.lapack.dpotrf(inner.T, lower=1, clean=0, overwrite_a=1)
    return None if failure else factor


class _Slopes(NamedTuple):
    """Derivatives of the log evidence of one output.

    Attributes:
        by_covariance: With respect to the covariance, shape (rows, rows); only valid on and above
            the diagonal.
        by_dispersion: With respect to the logarithm of the dispersion.
        by_exponent: With respect to the exponent of the output.
    """

    by_covariance: ndarray
    by_dispersion: float
    by_exponent: float


def _slopes(covariance: ndarray, likelihood: Likelihood, mode: _Mode) -> _Slopes:
    """Return the derivatives of the evidence at the most probable latent values."""
    a = mode.scores
    root = mode.root
    weights = likelihood.weights
    inverse = linalg.lapack.dpotri(mode.factor, lower=1)[0].T
    # Variance of each latent value given the rows, times its curvature.
    known = 1 - np.diag(inverse)
    inverse *= root[:, None]
    inverse *= -root
    inverse += a[:, None] * a
    inverse /= 2
    if likelihood.is_gaussian:
        errors = a / root  # over their standard deviations
        by_dispersion = float((known + errors**2 - weights).sum()) / 2
        return _Slopes(inverse, by_dispersion, -float(a @ likelihood.by_exponent()))
    terms = likelihood.terms(likelihood.start() + mode.latent)
    by_latent = known / np.maximum(terms.curvature, _SMALLEST) * terms.third / 2
    moved = by_latent - mode.solved(covariance @ by_latent)
    inverse += (np.outer(moved, a) + np.outer(a, moved)) / 2
    penalty = weights * (np.log(likelihood.dispersion) + 1) / 2
    by_dispersion = float((known / 2 - terms.value - penalty).sum())
    return _Slopes(inverse, by_dispersion - float(moved @ (covariance @ terms.score)), 0.0)
