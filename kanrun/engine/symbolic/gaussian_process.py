"""Gaussian process regression for values that are nearly free of noise.

The covariance is 1 + k(x, z) plus noise, where k is the smooth part of `tables.kernel`. The
hyperparameters maximise the marginal likelihood without priors, because the priors in
`tables.evidence` are made for noisy tables.

Source: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning (2006), 5.4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.tables.evidence import Kernel
from kanrun.engine.tables.reduced_basis import PerRow, RowInputs
from kanrun.points import Scaling

#: Initial value and limits of each rate w_j of the factors exp(-w_j (x_j - z_j)^2 / 2) of the
#: kernel, for inputs of variance 1.
_RATES = (0.1, 1e-6, 1e2)
#: Initial value and limits of the kernel's variance, for outputs of variance 1.
_VARIANCES = (30.0, 1e-2, 1e3)
#: Initial value and limits of the variance of the noise, for outputs of variance 1. From much
#: smaller initial values, the search often ends at a kernel that explains a smooth function as
#: noise.
_NOISES = (1e-3, 1e-9, 1.0)
#: Largest number of steps of the search for the hyperparameters.
_STEPS = 25
#: Values that are added to the diagonal of the covariance, relative to the largest variance. The
#: smallest one for which the Cholesky factorisation succeeds is used.
_JITTERS = tuple(1e-10 * 100.0**power for power in range(5))


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """Posterior mean of a Gaussian process.

    Attributes:
        kernel: The kernel k.
        noise: Variance of the noise.
        x: Training inputs, shape (rows, inputs).
        weights: Weights a (rows,); the mean at z is sum_i (1 + k(z, x_i)) a_i.
    """

    kernel: Kernel
    noise: float
    x: ndarray
    weights: ndarray

    def mean(self, x: RowInputs) -> PerRow:
        return np.asarray(_covariance(self.kernel, x, self.x) @ self.weights)

    def gradient(self, x: RowInputs) -> RowInputs:
        """Return the derivatives of the posterior mean with respect to the inputs."""
        near = (_covariance(self.kernel, x, self.x) - 1.0) * self.weights
        return np.asarray(
            self.kernel.smooth_rates * (near @ self.x - near.sum(1, keepdims=True) * x)
        )


def fit_process(x: RowInputs, y: PerRow, kernel: Kernel, noise: float) -> GaussianProcess:
    """Condition the process on rows x (rows, inputs) with outputs y (rows,).

    Raises:
        LinAlgError: If the covariance is not positive definite, even with the largest jitter.
    """
    covariance = _covariance(kernel, x, x)
    size = float(np.diag(covariance).max())
    for jitter in _JITTERS:
        try:
            factor = linalg.cho_factor(covariance + (noise + jitter * size) * np.eye(len(x)))
        except linalg.LinAlgError:
            continue
        return GaussianProcess(kernel, noise, x, linalg.cho_solve(factor, y))
    raise linalg.LinAlgError("the covariance of the rows is not positive definite")


def likeliest_kernel(x: RowInputs, y: PerRow) -> tuple[Kernel, float]:
    """Return the kernel and the noise variance with the largest marginal likelihood, by L-BFGS.

    Args:
        x: Standardised inputs, shape (rows, inputs); the rate of a constant input becomes 0.
        y: Standardised outputs, shape (rows,).
    """
    # Relative change of the log likelihood at which the search for the hyperparameters ends.
    rtol = 2e-9
    inputs = x.shape[1]
    rows = len(x)
    ranges = np.log(np.array([*[_RATES] * inputs, _VARIANCES, _NOISES]))
    squares = x.T[:, :, None] - x.T[:, None]
    squares *= squares / 2

    def surprise(p: ndarray) -> tuple[float, ndarray]:
        count_work(rows**2 * (COSTS.product * rows + COSTS.likelihood * (2 + inputs)))
        w, (variance, noise) = np.split(np.exp(p), [inputs])
        near = variance * np.exp(-np.tensordot(w, squares, 1))
        factor = linalg.cholesky(near + 1.0 + noise * np.eye(rows), lower=True, check_finite=False)
        lower, _ = linalg.lapack.dpotri(factor, lower=1)
        inverse = lower + np.tril(lower, -1).T
        weights = inverse @ y
        slope = (inverse - np.outer(weights, weights)) / 2
        nearer = slope * near
        by_rates = -w * np.tensordot(squares, nearer, ((1, 2), (0, 1)))
        value = float(y @ weights) / 2 + float(np.log(np.diag(factor)).sum())
        return value, np.append(by_rates, [nearer.sum(), noise * np.trace(slope)])

    found = optimize.minimize(
        surprise,
        ranges[:, 0],
        jac=True,
        method="L-BFGS-B",
        bounds=ranges[:, 1:],
        options={"maxiter": _STEPS, "ftol": rtol},
    )
    *w, variance, noise = np.exp(found.x).tolist()
    rates = np.where(np.ptp(x, axis=0) > 0, w, 0.0)
    return Kernel(rates, np.zeros(inputs), 0.0, 0.0, variance, 0.0, Scaling.identity(inputs)), noise


def _covariance(kernel: Kernel, x: ndarray, z: ndarray) -> ndarray:
    return 1.0 + kernel.smooth_part(x, z)
