"""Neighbourhoods of rows: a Gaussian process, for what sums of functions of one and of two inputs do not hold.

Its kernel is that of straight lines plus exp(-s), s(x, z) = sum_j w_j (x_j - z_j)^2 / 2, with a precision w_j for
each input. A network holds exp(-s) of a centre z as a node: parabolas on the edges of the inputs, and behind them one
spline psi(s), which stands for exp(-s) here as well, so that the network equals the fit. Precisions have the largest
posterior on a sample of rows; centres are the rows that pivoted Cholesky chooses, until no row has more variance left
than matters beside the noise.
Source: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning (2006), 5.4.1 and 8.3; H. Harbrecht,
M. Peters, R. Schneider, Applied Numerical Mathematics 62 (2012) 428-440 (pivoted Cholesky).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import linalg, optimize
from scipy.interpolate import BSpline

from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.splines import extend

DEGREE = 3  # of psi
INTERVALS = 96  # of psi, which then differs from exp(-s) by at most 1e-6; equal ones, which are evaluated fastest
_FARTHEST = 14.0  # where psi ends, at zero
_PRECISE = 1e-6  # of a kernel's diagonal: below it pivoted Cholesky has no digits left
_NOISES = (1e-6, 20.0)  # least and largest variance of the noise, of outputs of variance 1
_STRONGEST = 10.0  # variance of the functions: with `_PRECISE` of it left out, errors stay below 1 % of the output
_EXTREME = 14.0  # of logarithms of precisions and variances


@cache
def psi() -> BSpline:
    """The cubic spline for exp(-s), s >= 0; zero beyond its last breakpoint."""
    breakpoints = np.linspace(0, _FARTHEST, INTERVALS + 1)
    knots = extend(torch.as_tensor(breakpoints)[None], DEGREE)[0].numpy()
    s = np.concatenate([np.linspace(a, b, 20, endpoint=False) for a, b in pairwise(breakpoints)])
    rows = BSpline.design_matrix(s, knots, DEGREE).toarray()
    coefficients = np.zeros(INTERVALS + DEGREE)
    coefficients[:-DEGREE] = np.linalg.lstsq(rows[:, :-DEGREE], np.exp(-s), rcond=None)[0]
    return BSpline(knots, coefficients, DEGREE)


@dataclass(frozen=True, eq=False)
class RadialBasis:
    """R functions of all inputs, uncorrelated under the prior: `root`^-1 times exp(-s) of the `centres`.

    `centres` (R, inputs), `precisions` (inputs,), `root` (R, R) lower triangular, and the range `low` to `high`
    (inputs,) beyond which the parabolas continue in straight lines. `variances` are those of the lines, of the
    functions and of the noise, of outputs of variance 1.
    """

    centres: ndarray
    precisions: ndarray
    root: ndarray
    low: ndarray
    high: ndarray
    variances: tuple[float, float, float]

    @staticmethod
    def of(
        u: Float[ndarray, "rows inputs"],
        outputs: Float[ndarray, "rows outputs"],
        weights: Float[ndarray, " rows"],
        order: Int[ndarray, " rows"],
        policy: EvidencePolicy,
        start: RadialBasis | None = None,
    ) -> RadialBasis:
        """The basis of these training rows, the first of `order` a sample of them; `start` is that of similar rows."""
        inputs = u.shape[1]
        most = int(np.sqrt(policy.radial_work / inputs))
        some = order[: min(policy.evidence_rows, most)]
        level, spread = outputs.mean(0), outputs.std(0)
        y = (outputs[some] - level) / np.where(spread > 0, spread, 1.0)
        precisions, variances = _likeliest(u[some], y, 1 / weights[some], policy, start)
        among = u[order[: policy.radial_rows]]
        left = max(_PRECISE, policy.remainder * variances[2] / variances[1])
        kernel = psi_of(_distances(among, among, precisions))
        factor, pivots, rank, _ = linalg.lapack.dpstrf(kernel, tol=left, lower=1)
        count = max(
            1, min(int(rank), policy.radial_centres, int(np.sqrt(policy.most_work / len(u))))
        )
        root = np.tril(factor[:count, :count])
        return RadialBasis(
            among[pivots[:count] - 1], precisions, root, u.min(0), u.max(0), variances
        )

    def values(self, u: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows R"]:
        """The functions at these rows."""
        inside = np.clip(u, self.low, self.high)
        own = (inside * (2 * u - inside)) @ self.precisions / 2
        centred = (self.centres**2) @ self.precisions / 2
        s = own[:, None] - u @ (self.centres * self.precisions).T + centred
        return np.asarray(
            linalg.solve_triangular(self.root, psi_of(s).T, lower=True, check_finite=False).T
        )

    def dependence(
        self,
        u: Float[ndarray, "rows inputs"],
        j: int,
        at: Float[ndarray, " points"],
        terms: Float[ndarray, "outputs R"],
    ) -> Float[ndarray, "points outputs"]:
        """The mean over these rows of what the functions with coefficients `terms` give where input j is `at`."""
        others = np.where(np.arange(len(self.precisions)) == j, 0.0, self.precisions)
        rest = _distances(u, self.centres, others)
        own = self.precisions[j] / 2 * (at[:, None] - self.centres[:, j]) ** 2
        mean = np.exp(-own) * np.exp(-rest).mean(0)
        return np.asarray(mean @ self.of_centres(terms).T)

    def of_centres(self, coefficients: Float[ndarray, "outputs R"]) -> Float[ndarray, "outputs R"]:
        """Coefficients of exp(-s) of each centre from those of the functions."""
        return np.asarray(
            linalg.solve_triangular(self.root, coefficients.T, lower=True, trans="T").T
        )


def psi_of(s: ndarray) -> ndarray:
    """psi; distances that rounding makes negative count as zero."""
    return np.asarray(psi()(np.clip(s, 0.0, _FARTHEST)))


def _distances(u: ndarray, z: ndarray, precisions: ndarray) -> Float[ndarray, "rows centres"]:
    root = np.sqrt(precisions / 2)
    a, b = u * root, z * root
    return np.asarray((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1))


def _likeliest(
    u: ndarray, y: ndarray, noise: ndarray, policy: EvidencePolicy, start: RadialBasis | None
) -> tuple[Float[ndarray, " inputs"], tuple[float, float, float]]:
    """Precisions and variances with the largest posterior, common to all outputs; zero for an input that is constant.

    The logarithms of the precisions have a normal prior about that of 1 / inputs, with deviation
    `policy.precision_deviation`, those of the variances a wider one about those of `policy.radial_variances`.
    """
    rows, inputs = u.shape
    apart = np.ascontiguousarray(((u[:, None] - u[None]) ** 2).transpose(2, 0, 1)) / 2
    lines, ones = u @ u.T / inputs, np.ones((rows, rows))
    centre = np.concatenate([np.full(inputs, -np.log(inputs)), np.log(policy.radial_variances)])
    width = np.concatenate(
        [np.full(inputs, policy.precision_deviation), np.full(3, policy.variance_deviation)]
    )
    outputs = y.shape[1]

    def surprise(p: ndarray) -> tuple[float, ndarray]:
        w, (line, radial, rest) = np.exp(p[:inputs]), np.exp(p[inputs:])
        near = radial * np.exp(-np.tensordot(w, apart, 1))
        covariance = line * lines + near + ones
        covariance[np.diag_indices(rows)] += rest * noise
        factor = linalg.cholesky(covariance, lower=True, check_finite=False)
        inverse, _ = linalg.lapack.dpotri(factor, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        a = inverse @ y
        slope = (outputs * inverse - a @ a.T) / 2
        nearer = slope * near
        by = [
            -w * np.tensordot(apart, nearer, ((1, 2), (0, 1))),
            [line * np.vdot(slope, lines), nearer.sum()],
        ]
        gradient = np.concatenate([*by, [rest * float(np.diag(slope) @ noise)]])
        off = (p - centre) / width
        value = (
            float(np.vdot(y, a)) / 2
            + outputs * float(np.log(np.diag(factor)).sum())
            + outputs * float(off @ off) / 2
        )
        return value, gradient + outputs * off / width

    first = centre
    if start is not None:
        known = np.concatenate([start.precisions, start.variances])
        first = np.log(np.maximum(known, np.exp(-_EXTREME)))
    limits = [(-_EXTREME, _EXTREME)] * (inputs + 1) + [
        (-_EXTREME, np.log(_STRONGEST)),
        tuple(np.log(_NOISES)),
    ]
    found = optimize.minimize(
        surprise,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": policy.radial_steps, "ftol": policy.radial_settled},
    )
    precisions = np.where(np.ptp(u, axis=0) > 0, np.exp(found.x[:inputs]), 0.0)
    line, radial, rest = (float(v) for v in np.exp(found.x[inputs:]))
    return precisions, (line, radial, rest)
