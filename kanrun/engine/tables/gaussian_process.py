"""Gaussian processes with linear and squared exponential kernels, exact or by centres.

The kernel of rows x and z is 1 + l x'z / inputs + r exp(-s) with s(x, z) = sum_j w_j (x_j - z_j)^2
/ 2: a constant, straight lines of variance l, and functions of variance r with a precision w_j for
each input. The logarithms of all hyperparameters have independent normal priors; their posterior is
maximised on a sample of rows.

A `GaussianProcess` holds all rows. A `RadialBasis` holds the rows that pivoted Cholesky chooses as
centres, so that a network can represent it: the edges of the inputs are parabolas, and behind them
one cubic spline stands for exp(-s).

Sources: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning (2006), 5.4.1 and
8.3; H. Harbrecht, M. Peters, R. Schneider, Applied Numerical Mathematics 62 (2012) 428-440 (pivoted
Cholesky).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import linalg, optimize
from scipy.interpolate import BSpline, PPoly

from kanrun.engine.splines import extend
from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs
from kanrun.errors import KanrunError

DEGREE = 3  # of the spline for exp(-s)
INTERVALS = 96  # of this spline, whose error is then at most 1e-6; equal ones are evaluated fastest
_SUPPORT = 14.0  # s at which the spline ends, at zero
_SAMPLES = 20  # points of exp(-s) in each interval to which the spline is fitted
_BLOCK = 1 << 15  # numbers of which psi is evaluated at once
_CHOLESKY_TOLERANCE = 1e-6  # of a kernel's diagonal: below it pivoted Cholesky is rounding
_JITTERS = tuple(1e-10 * 100.0**power for power in range(5))  # relative, until Cholesky succeeds

#: (initial value, lower limit, upper limit) of a hyperparameter, for outputs of variance 1.
Range = tuple[float, float, float]


@dataclass(frozen=True)
class KernelPrior:
    """Ranges of the hyperparameters, and the standard deviations of their normal priors.

    The priors are those of the logarithms, about the initial values; an infinite standard deviation
    is a flat prior.
    """

    precision: Range
    linear: Range
    radial: Range
    noise: Range
    precision_std: float = np.inf
    variance_std: float = np.inf


@dataclass(frozen=True, eq=False)
class Kernel:
    """Precisions (inputs,) and the variances of lines, of the radial part and of the noise."""

    precisions: ndarray
    linear: float
    radial: float
    noise: float

    def __call__(self, x: RowInputs, z: Float[ndarray, "others inputs"]) -> ndarray:
        """Return the covariances (rows, others) of rows x and z, without noise."""
        lines = self.linear / x.shape[1] * (x @ z.T)
        distances = np.maximum(_distances(x, z, self.precisions), 0.0)
        return np.asarray(1.0 + lines + self.radial * np.exp(-distances))


def fit_kernel(
    x: RowInputs,
    y: RowOutputs,
    prior: KernelPrior,
    *,
    row_noise: PerRow | float = 1.0,
    max_steps: int = 40,
    rtol: float = 1e-4,
    on_evaluation: Callable[[], object] = lambda: None,
) -> Kernel:
    """Return the hyperparameters with the largest posterior, common to all outputs, by L-BFGS.

    Outputs are standardised. `row_noise` is relative to the variance of the noise; an input that is
    constant gets precision 0. L-BFGS begins at the initial values of the prior, and calls
    `on_evaluation` at each point.
    """
    inputs = x.shape[1]
    every = [*[prior.precision] * inputs, prior.linear, prior.radial, prior.noise]
    ranges, widths = np.log(np.array(every)), np.full(len(every), prior.variance_std)
    widths[:inputs] = prior.precision_std
    likelihood = _likelihood(x, y, np.broadcast_to(row_noise, len(x)))

    def negative_log_posterior(p: ndarray) -> tuple[float, ndarray]:
        on_evaluation()
        value, gradient = likelihood(p)
        off = (p - ranges[:, 0]) / widths
        outputs = y.shape[1]
        return value + outputs * float(off @ off) / 2, gradient + outputs * off / widths

    found = optimize.minimize(
        negative_log_posterior,
        ranges[:, 0],
        jac=True,
        method="L-BFGS-B",
        bounds=ranges[:, 1:],
        options={"maxiter": max_steps, "ftol": rtol},
    )
    *w, linear, radial, noise = np.exp(found.x).tolist()
    return Kernel(np.where(np.ptp(x, axis=0) > 0, w, 0.0), linear, radial, noise)


def _likelihood(
    x: ndarray, y: ndarray, noise: ndarray
) -> Callable[[ndarray], tuple[float, ndarray]]:
    """Return minus the log likelihood of y as a function of the hyperparameters' logarithms."""
    (rows, outputs), inputs = y.shape, x.shape[1]
    squares = x.T[:, :, None] - x.T[:, None]
    squares *= squares / 2
    lines = x @ x.T / inputs

    def value_and_gradient(p: ndarray) -> tuple[float, ndarray]:
        w, (linear, radial, rest) = np.split(np.exp(p), [inputs])
        near = radial * np.exp(-np.tensordot(w, squares, 1))
        covariance = linear * lines + near + np.ones((rows, rows))
        covariance[np.diag_indices(rows)] += rest * noise
        factor = linalg.cholesky(covariance, lower=True, check_finite=False)
        inverse = inverse_of(factor)
        weights = inverse @ y
        slope = (outputs * inverse - weights @ weights.T) / 2
        nearer = slope * near
        by_precision = -w * np.tensordot(squares, nearer, ((1, 2), (0, 1)))
        by_variances = linear * np.vdot(slope, lines), nearer.sum(), rest * (np.diag(slope) @ noise)
        size = outputs * float(np.log(np.diag(factor)).sum())
        return float(np.vdot(y, weights)) / 2 + size, np.append(by_precision, by_variances)

    return value_and_gradient


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """Posterior given rows `x`: `weights` (rows, outputs) of the kernel's columns."""

    kernel: Kernel
    x: ndarray
    weights: ndarray

    @staticmethod
    def of(kernel: Kernel, x: RowInputs, y: RowOutputs) -> GaussianProcess:
        """Return the process given these rows, with the least jitter that is sufficient.

        Raises LinAlgError if there is none.
        """
        covariance = kernel(x, x)
        size = float(np.diag(covariance).max())
        for jitter in _JITTERS:
            try:
                noisy = covariance + (kernel.noise + jitter * size) * np.eye(len(x))
                return GaussianProcess(kernel, x, linalg.cho_solve(linalg.cho_factor(noisy), y))
            except linalg.LinAlgError:
                continue
        raise linalg.LinAlgError("the covariance of the rows is not positive definite")

    def mean(self, x: RowInputs) -> RowOutputs:
        """Return the posterior mean."""
        return np.asarray(self.kernel(x, self.x) @ self.weights)

    def gradient(self, x: RowInputs) -> RowInputs:
        """Return the derivatives of the posterior mean of the first output by the inputs."""
        weights, lines = self.weights[:, 0], self.kernel.linear / x.shape[1]
        distances = np.maximum(_distances(x, self.x, self.kernel.precisions), 0.0)
        near = self.kernel.radial * np.exp(-distances) * weights
        radial = self.kernel.precisions * (near @ self.x - near.sum(1, keepdims=True) * x)
        return np.asarray(radial + lines * (weights @ self.x))


@cache
def psi() -> BSpline:
    """Return the cubic spline for exp(-s), s >= 0, which is zero beyond its last breakpoint."""
    breakpoints = np.linspace(0, _SUPPORT, INTERVALS + 1)
    knots = extend(torch.as_tensor(breakpoints)[None], DEGREE)[0].numpy()
    parts = [np.linspace(a, b, _SAMPLES, endpoint=False) for a, b in pairwise(breakpoints)]
    s = np.concatenate(parts)
    rows = BSpline.design_matrix(s, knots, DEGREE).toarray()
    coefficients = np.zeros(INTERVALS + DEGREE)
    coefficients[:-DEGREE] = np.linalg.lstsq(rows[:, :-DEGREE], np.exp(-s), rcond=None)[0]
    return BSpline(knots, coefficients, DEGREE)


@dataclass(frozen=True, eq=False)
class RadialBasis:
    """R functions, uncorrelated under the prior: `root`^-1 times exp(-s) of the centres.

    Attributes:
        centres: Rows of the table, shape (R, inputs).
        root: Lower triangular factor of the kernel of the centres, shape (R, R).
        low, high: Range of the rows, each of shape (inputs,), beyond which the parabolas continue
            as straight lines.
        kernel: Hyperparameters, for outputs of variance 1.
    """

    centres: ndarray
    root: ndarray
    low: ndarray
    high: ndarray
    kernel: Kernel

    @staticmethod
    def of(
        u: RowInputs,
        order: Int[ndarray, " candidates"],
        kernel: Kernel,
        tolerance: float,
        max_centres: int,
    ) -> RadialBasis:
        """Choose centres among the rows `order` until the others' variance is below `tolerance`.

        Each is the row with the largest variance given those before (pivoted Cholesky).
        """
        among, columns = u[order], np.zeros((max_centres, len(order)))
        left, chosen = np.ones(len(order)), list[int]()
        z = among * np.sqrt(kernel.precisions)
        half = (z**2).sum(1) / 2
        tolerance = max(_CHOLESKY_TOLERANCE, tolerance)
        while len(chosen) < max_centres and (not chosen or left.max() > tolerance):
            count, centre = len(chosen), int(left.argmax())
            kernel_row = np.exp(np.minimum(z @ z[centre] - half - half[centre], 0.0))
            kernel_row -= columns[:count, centre] @ columns[:count]
            columns[count] = kernel_row / np.sqrt(left[centre])
            left -= columns[count] ** 2
            chosen.append(centre)
        root = np.tril(columns[: len(chosen), chosen].T)
        return RadialBasis(among[chosen], root, u.min(0), u.max(0), kernel)

    def values(self, u: RowInputs) -> ndarray:
        """Evaluate the functions, shape (rows, R)."""
        precisions, inside = self.kernel.precisions, np.clip(u, self.low, self.high)
        own = (inside * (2 * u - inside)) @ precisions / 2
        centred = (self.centres**2) @ precisions / 2
        s = own[:, None] - u @ (self.centres * precisions).T + centred
        return np.ascontiguousarray(half_solved(self.root, psi_values(s).T).T)

    def means(self, u: RowInputs, inputs: Sequence[int], at: ndarray) -> ndarray:
        """Return the mean of exp(-s) of each centre over rows u with these inputs set to `at`.

        The shape is (points, R).
        """
        own = np.zeros_like(self.kernel.precisions)
        own[inputs] = self.kernel.precisions[inputs]
        others = self.kernel.precisions - own
        moved = _distances(at, self.centres[:, inputs], own[inputs])
        rest = np.exp(-_distances(u, self.centres, others)).mean(0)
        return np.asarray(np.exp(-moved) * rest)

    def of_centres(self, coefficients: ndarray) -> ndarray:
        """Return the coefficients (outputs, R) of exp(-s) of the centres by those of functions."""
        return linalg.solve_triangular(self.root, coefficients.T, lower=True, trans="T").T


def psi_values(s: ndarray) -> ndarray:
    """Evaluate psi, in blocks that the cache holds; negative distances count as zero."""
    found = np.empty_like(s)
    flat, values = s.ravel(), found.ravel()
    # Coefficients of psi in parts of an interval; zero from the last breakpoint on.
    pieces = PPoly.from_spline(psi().tck).c[:, DEGREE : DEGREE + INTERVALS]
    pieces *= (_SUPPORT / INTERVALS) ** np.arange(DEGREE, -1, -1)[:, None]
    first, *others = np.pad(pieces, ((0, 0), (0, 1)))
    for start in range(0, s.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        at = np.clip(flat[part] * (INTERVALS / _SUPPORT), 0, INTERVALS)
        interval = at.astype(np.intp)
        at -= interval
        value = first.take(interval, mode="clip")
        for coefficients in others:
            value *= at
            value += coefficients.take(interval, mode="clip")
        values[part] = value
    return found


def _distances(u: ndarray, z: ndarray, precisions: ndarray) -> ndarray:
    root = np.sqrt(precisions / 2)
    a, b = u * root, z * root
    return np.asarray((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1))


def cholesky_factor(matrix: ndarray) -> ndarray:
    """Return the lower factor of a positive definite matrix, which is overwritten."""
    try:
        return linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError as error:
        raise KanrunError(
            "the covariance of the rows is not positive definite. "
            "Check the table for values of extreme size."
        ) from error


def half_solved(factor: ndarray, right: ndarray) -> ndarray:
    """Return L^-1 r for a lower factor L."""
    return linalg.solve_triangular(factor, right, lower=True, check_finite=False)


def inverse_of(factor: ndarray) -> ndarray:
    """Return the inverse of the matrix with this lower factor."""
    if not len(factor):
        return np.zeros_like(factor)
    lower, _ = linalg.lapack.dpotri(factor, lower=1)
    return np.asarray(lower + np.tril(lower, -1).T)
