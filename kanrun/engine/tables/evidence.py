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

The kernel consists of lines and curves of each input, plus a smooth and a rough radial part:

k(x, z) = v_l sum_j l_j(x) l_j(z) + v_c sum_jk c_jk(x) c_jk(z)
          + v_s exp(-sum_j w_j (u_j(x) - u_j(z))^2 / 2) + v_r exp(-sum_j m_j |t_j(x) - t_j(z)|)

l_j is the straight line of input j, c_jk its curves (`reduced_basis`), u_j its score (`encoder`),
and t_j the average of u_j and its rank. v_l, v_c, v_s and v_r are variances, w_j and m_j are rates.
The rough part is the limit of the kernels of random forests (E. Scornet, IEEE Transactions on
Information Theory 62 (2016) 1485-1500).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize
from scipy.spatial.distance import cdist, pdist, squareform

from kanrun.engine.tables.encoder import CURVATURES, Encoder
from kanrun.engine.tables.likelihoods import Likelihood, Terms
from kanrun.engine.tables.reduced_basis import RowFunctions, RowInputs
from kanrun.points import PiecewiseScaling, Scaling

#: Lower limit of the logarithms of rates and variances. At this limit, they are set to 0.
_LOWEST = -14.0
#: Prior mean, prior standard deviation, lower limit and upper limit of each hyperparameter, and its
#: value if the model does not have it. Exponents are those of the outputs; the other parameters are
#: logarithms. The means of rates are those of the sum of the rates of all inputs.
_PRIORS = np.array(
    [
        [0.0, 1.0, _LOWEST, 8.0, _LOWEST],  # smooth rates w
        [np.log(0.5), 1.0, _LOWEST, 8.0, _LOWEST],  # rough rates m
        [np.log(0.3), 3.0, _LOWEST, 8.0, _LOWEST],  # variance of lines
        [np.log(0.3), 3.0, _LOWEST, 8.0, _LOWEST],  # variance of curves
        [np.log(0.5), 3.0, _LOWEST, 8.0, _LOWEST],  # variance of the smooth part
        [np.log(0.3), 3.0, _LOWEST, 8.0, _LOWEST],  # variance of the rough part
        [np.log(0.3), 3.0, -23.0, 3.0, 0.0],  # dispersions
        [1.0, 0.7, -1.0, 3.0, 1.0],  # exponents
    ]
)
#: Pairs (dispersion, variance of the smooth part) from which the search starts. There are two,
#: because the evidence may have a second maximum near zero noise.
_STARTS = ((0.3, 0.5), (1e-4, 10.0))
#: Largest number of steps of each search.
_STEPS = 100
#: Relative change of the log posterior at which the search from the best of these results ends.
_TOLERANCE = 1e-4
#: Smallest curvature of a row; it keeps working responses finite.
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class EvidenceRows:
    """Rows from which the kernel is estimated.

    Attributes:
        encoder: Transformations of the inputs.
        u: Scores of the inputs, shape (rows, inputs).
        functions: Values of the lines and curves, shape (rows, functions).
        outputs: Likelihood of each output, or of each class against the others.
    """

    encoder: Encoder
    u: RowInputs
    functions: RowFunctions
    outputs: Sequence[Likelihood]

    @cached_property
    def grams(self) -> tuple[ndarray, ndarray]:
        """Covariances of lines and of curves with variance 1, each of shape (rows, rows)."""
        is_line = self.encoder.basis.is_line
        lines, curves = self.functions[:, is_line], self.functions[:, ~is_line]
        return lines @ lines.T, curves @ curves.T

    def explicit(self, kernel: Kernel) -> ndarray:
        """Return the covariance of the level, the lines and the curves, shape (rows, rows)."""
        # Prior variance of the constant that the latent function adds to the link of the mean
        # output.
        level_variance = 100.0
        lines, curves = self.grams
        covariance = kernel.lines * lines
        covariance += kernel.curves * curves
        covariance += level_variance
        return np.asarray(covariance)

    def log_evidence(self, kernel: Kernel) -> float:
        """Return the log evidence of a kernel on the rows.

        The prior of the hyperparameters is not included.
        """
        covariance = kernel.radial(self.u, self.u) + self.explicit(kernel)
        modes = [_mode(covariance, output, np.zeros(len(self.u))) for output in self.outputs]
        return sum(mode.evidence if mode else -np.inf for mode in modes)

    def only(self, kept: ndarray) -> EvidenceRows:
        """Return the rows with the lines and curves for which `kept` (functions,) is true."""
        basis = self.encoder.basis.only(kept)
        encoder = replace(self.encoder, basis=basis)
        return replace(self, encoder=encoder, functions=self.functions[:, kept])

    def first(self, count: int) -> EvidenceRows:
        """Return the first `count` rows."""
        outputs = [output.take(slice(count)) for output in self.outputs]
        return EvidenceRows(self.encoder, self.u[:count], self.functions[:count], outputs)


def fit_kernel(rows: EvidenceRows) -> tuple[Kernel, EvidenceRows]:
    """Return the kernel with the largest evidence, and the rows with the fitted likelihoods.

    The search begins on the first `first_rows` rows, once from each pair in `_STARTS`. The better
    result is improved on these rows and then, if there are more, on all rows. In both searches,
    parameters are scaled by the curvature of the log posterior at the point where they begin. The
    exponents of Gaussian outputs are fitted unless a convex or concave shape is required.
    """
    # Relative change of the log posterior at which the search from each start ends.
    first_tolerance = 1e-2
    # Number of rows with which the search begins; a step on 800 rows takes about 20 times as long.
    first_rows = 200
    interacting = rows.encoder.interacting(rows.u)
    problem = _Problem(rows.first(first_rows), interacting)
    starts = _STARTS[:1] if rows.outputs[0].family.has_known_dispersion else _STARTS
    results = [
        problem.search(problem.start(*start), problem.std, first_tolerance) for start in starts
    ]
    best = min(results, key=lambda result: result.surprise)
    best = problem.search(best.parameters, best.units, _TOLERANCE)
    if len(rows.u) > first_rows:
        problem = _Problem(rows, interacting)
        best = problem.search(best.parameters, best.units, _TOLERANCE)
    kernel, outputs = problem.unpacked(best.parameters)
    return kernel, replace(rows, outputs=outputs)


class _Result(NamedTuple):
    """Result of a search.

    Attributes:
        parameters: Vector of hyperparameters, see `_Problem`.
        surprise: Minus the log posterior of the hyperparameters.
        units: Approximate posterior standard deviation of each hyperparameter.
    """

    parameters: ndarray
    surprise: float
    units: ndarray


class _Problem:
    """Minus the log posterior of the hyperparameters, with its gradient.

    The vector of hyperparameters holds, in this order: log w and log m of all inputs, the
    logarithms of the four variances, the logarithms of the dispersions of all outputs, and the
    exponents of all outputs. Parameters that the model does not have are fixed by equal lower and
    upper limits.
    """

    def __init__(self, rows: EvidenceRows, interacting: ndarray) -> None:
        self.rows = rows
        self.latent = [np.zeros(len(rows.u)) for _ in rows.outputs]
        t = rows.encoder.ranks.apply(rows.u).T
        self.distances = np.stack([pdist(each[:, None], "cityblock") for each in t])
        first = rows.outputs[0]
        is_line = rows.encoder.basis.is_line
        is_local = interacting.any()
        shapes = dict(rows.encoder.policy.shapes).values()
        has_power = first.is_gaussian and not set(shapes) & set(CURVATURES)
        own = [not first.family.has_known_dispersion, has_power]
        parts = [is_line.any(), not is_line.all(), is_local, is_local]
        inputs = len(interacting)
        counts = [inputs, inputs, 1, 1, 1, 1, len(rows.outputs), len(rows.outputs)]
        self.ends = np.cumsum(counts)[[0, 1, 5, 6]]
        middle, self.std, *limits, absent = np.repeat(_PRIORS, counts, axis=0).T
        middle[: self.ends[1]] -= np.log(max(interacting.sum(), 1))
        is_free = np.concatenate([interacting, interacting, parts, np.repeat(own, counts[6:])])
        self.limits = np.where(is_free, limits, absent).T
        self.middle: ndarray = np.clip(middle, *self.limits.T)  # fixed parameters have no prior

    def start(self, dispersion: float, smooth: float) -> ndarray:
        """Return the prior means, with the dispersion and the smooth part's variance replaced."""
        parameters = self.middle.copy()
        variances, dispersions = self.ends[1:3]
        parameters[variances + 2] = np.log(smooth)
        parameters[dispersions : self.ends[3]] = np.log(dispersion)
        return parameters

    def unpacked(self, p: ndarray) -> tuple[Kernel, list[Likelihood]]:
        """Convert a vector of hyperparameters to the kernel and the likelihoods."""
        p = np.clip(p, *self.limits.T)  # rounding may move values past a limit
        values = np.exp(p)
        values[: self.ends[2]] *= p[: self.ends[2]] > _LOWEST + _SMALLEST
        smooth_rates, rough_rates, variances, dispersions, _ = np.split(values, self.ends)
        own = zip(self.rows.outputs, dispersions.tolist(), p[self.ends[3] :].tolist(), strict=True)
        likelihoods = [output.with_parameters(*parameters) for output, *parameters in own]
        lines, curves, smooth, rough = variances.tolist()
        ranks = self.rows.encoder.ranks
        kernel = Kernel(smooth_rates, rough_rates, lines, curves, smooth, rough, ranks)
        return kernel, likelihoods

    def search(self, start: ndarray, units: ndarray, tolerance: float) -> _Result:
        """Minimise from `start` by L-BFGS-B; parameters are divided by `units` (parameters,)."""
        # Number of previous steps from which L-BFGS approximates the curvature.
        memory = 30
        ends = self.limits / units[:, None]

        def scaled(p: ndarray) -> tuple[float, ndarray]:
            value, gradient = self.value_and_gradient(p * units)
            return value, gradient * units

        found: Any = optimize.minimize(
            scaled,
            np.clip(start / units, *ends.T),
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(*ends.T),
            options={"maxiter": _STEPS, "ftol": tolerance, "maxcor": memory},
        )
        variances = np.diag(found.hess_inv.todense())
        return _Result(found.x * units, float(found.fun), np.sqrt(variances) * units)

    def value_and_gradient(self, p: ndarray) -> tuple[float, ndarray]:
        kernel, likelihoods = self.unpacked(p)
        u = self.rows.u
        smooth = kernel.smooth_part(u, u)
        rough = kernel.rough_part(u, u)
        covariance = self.rows.explicit(kernel)
        covariance += smooth
        covariance += rough
        off = (p - self.middle) / self.std
        value = float(off @ off) / 2
        by_covariance = np.zeros_like(covariance)
        by_output = []
        for k, likelihood in enumerate(likelihoods):
            mode = _mode(covariance, likelihood, self.latent[k])
            if mode is None:
                return np.inf, np.zeros_like(p)
            slopes = _slopes(covariance, likelihood, mode)
            value -= mode.evidence
            by_covariance += slopes.by_covariance
            by_output.append((slopes.by_dispersion, slopes.by_exponent))
            self.latent[k] = mode.latent
        above = np.triu(by_covariance, 1)
        by_covariance = np.triu(by_covariance) + above.T
        smooth *= by_covariance
        rough *= by_covariance
        gradient = np.concatenate(
            [
                kernel.smooth_rates * ((u * (smooth @ u)).sum(0) - smooth.sum(0) @ u**2),
                -2 * kernel.rough_rates * (self.distances @ squareform(rough, checks=False)),
                [kernel.lines, kernel.curves]
                * np.array([np.vdot(by_covariance, gram) for gram in self.rows.grams]),
                [smooth.sum(), rough.sum()],
                np.transpose(by_output).ravel(),
            ]
        )
        is_free = self.limits[:, 0] < self.limits[:, 1]
        return value, off / self.std - np.where(is_free, gradient, 0.0)


@dataclass(frozen=True, eq=False)
class _Mode:
    """Most probable latent values of one output, and the evidence there.

    Attributes:
        latent: Latent values minus the level `Likelihood.start()`, shape (rows,).
        scores: K^-1 times `latent`, shape (rows,).
        root: W^1/2, shape (rows,).
        factor: Lower Cholesky factor of I + W^1/2 K W^1/2.
        terms: Log likelihood and its derivatives.
        evidence: Logarithm of the evidence.
    """

    latent: ndarray
    scores: ndarray
    root: ndarray
    factor: ndarray
    terms: Terms
    evidence: float


def _mode(covariance: ndarray, likelihood: Likelihood, start: ndarray) -> _Mode | None:
    """Return the most probable latent values; None if the covariance is not positive definite.

    Newton's method begins at the latent values `start` (rows,). Let z = f + W^-1 s be the working
    response, with the score s. A step replaces f by K a, where a = (K + W^-1)^-1 z. K a is equal to
    z - W^-1 a, which is used for Gaussian outputs because it avoids cancellation; for these, the
    first step is exact.
    """
    # Change of the log posterior below which Newton's method ends.
    newton_tolerance = 1e-8
    # Largest number of halvings of a Newton step that does not increase the posterior.
    halvings = 10
    # Largest number of Newton steps to the most probable latent values.
    newton_steps = 30
    level = likelihood.start()
    f = start
    a = np.zeros(len(start))
    best = -np.inf
    terms = likelihood.terms(level + f)
    for _ in range(newton_steps):
        root = np.sqrt(np.maximum(terms.curvature, _SMALLEST))
        factor = _factor(covariance, root)
        if factor is None:
            return None
        response = root * f + terms.score / root
        target = _solved(factor, root, response)
        for _ in range(halvings):
            moved = covariance @ target
            if likelihood.is_gaussian:
                moved = (response - target / root) / root
            terms = likelihood.terms(level + moved)
            value = float(terms.value.sum() - target @ moved / 2)
            if value >= best - newton_tolerance:
                break
            target = (target + a) / 2
        change = value - best
        a = target
        f = moved
        best = value
        if change < newton_tolerance or likelihood.is_gaussian:
            break
    if not likelihood.is_gaussian:
        root = np.sqrt(np.maximum(terms.curvature, _SMALLEST))
        factor = _factor(covariance, root)
    if factor is None:
        return None
    return _Mode(f, a, root, factor, terms, best - float(np.log(np.diag(factor)).sum()))


def _factor(covariance: ndarray, root: ndarray) -> ndarray | None:
    """Return the lower Cholesky factor of I + W^1/2 K W^1/2; None if factorisation fails."""
    inner = root[:, None] * covariance
    inner *= root
    inner[np.diag_indices(len(inner))] += 1
    # LAPACK expects column-major order, which the transpose of this symmetric matrix has.
    factor, failure = linalg.lapack.dpotrf(inner.T, lower=1, clean=0, overwrite_a=1)
    return None if failure else factor


def _solved(factor: ndarray, root: ndarray, right: ndarray) -> ndarray:
    """Return (K + W^-1)^-1 W^-1/2 r for the right-hand side r (rows,)."""
    return np.asarray(root * linalg.cho_solve((factor, True), right, check_finite=False))


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
    """Return the derivatives of the log evidence at the most probable latent values."""
    a = mode.scores
    root = mode.root
    inverse = linalg.lapack.dpotri(mode.factor, lower=1)[0].T
    # Variance of each latent value given the rows, times its curvature.
    determined = 1 - np.diag(inverse)
    inverse *= root[:, None]
    inverse *= -root
    inverse += a[:, None] * a
    inverse /= 2
    terms = mode.terms
    penalty = likelihood.weights * (np.log(likelihood.dispersion) + 1) / 2
    by_dispersion = float((determined / 2 - terms.value - penalty).sum())
    if likelihood.is_gaussian:
        return _Slopes(inverse, by_dispersion, -float(a @ likelihood.by_exponent()))
    by_latent = determined / root**2 * terms.third / 2
    indirect = root * (covariance @ by_latent)
    moved = by_latent - _solved(mode.factor, root, indirect)
    inverse += (np.outer(moved, a) + np.outer(a, moved)) / 2
    return _Slopes(inverse, by_dispersion - float(moved @ (covariance @ terms.score)), 0.0)


#: Variances below this fraction of the radial variance are only rounding errors of the pivoted
#: Cholesky factorisation.
_ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Kernel:
    """Hyperparameters of the kernel, for outputs that are scaled to a variance near 1.

    Attributes:
        smooth_rates: w, shape (inputs,); 0 for inputs that are not in the smooth part.
        rough_rates: m, shape (inputs,); 0 for inputs that are not in the rough part.
        lines: v_l, the variance of straight lines.
        curves: v_c, the variance of curves.
        smooth: v_s, the variance of the smooth part; 0 if there is no smooth part.
        rough: v_r, the variance of the rough part; 0 if there is no rough part.
        ranks: Map from scores u to t, the averages of scores and ranks.
    """

    smooth_rates: ndarray
    rough_rates: ndarray
    lines: float
    curves: float
    smooth: float
    rough: float
    ranks: PiecewiseScaling | Scaling

    @property
    def radial_variance(self) -> float:
        return self.smooth + self.rough

    def among(self, inside: ndarray) -> Kernel:
        """Return the kernel with the rates of some inputs set to 0.

        `inside` (inputs,) is true for the inputs whose rates are kept.
        """
        return replace(
            self, smooth_rates=self.smooth_rates * inside, rough_rates=self.rough_rates * inside
        )

    def smooth_part(self, a: ndarray, b: ndarray) -> ndarray:
        """Return the covariances of the smooth part of scores, shape (rows of a, rows of b)."""
        scale = np.sqrt(self.smooth_rates / 2)
        return _decayed(self.smooth, cdist(a * scale, b * scale, "sqeuclidean"))

    def rough_part(self, a: ndarray, b: ndarray) -> ndarray:
        """Return the covariances of the rough part, shape (rows of a, rows of b)."""
        left, right = (self.ranks.apply(u) * self.rough_rates for u in (a, b))
        return _decayed(self.rough, cdist(left, right, "cityblock"))

    def radial(self, a: ndarray, b: ndarray) -> ndarray:
        """Return the covariances of both radial parts, shape (rows of a, rows of b)."""
        covariance = self.smooth_part(a, b)
        covariance += self.rough_part(a, b)
        return covariance


def _decayed(variance: float, distances: ndarray) -> ndarray:
    """Return the variance times exp(-distance); `distances` is overwritten."""
    np.exp(np.negative(distances, out=distances), out=distances)
    distances *= variance
    return distances


@dataclass(frozen=True, eq=False)
class Centres:
    """Inducing points of the radial parts (Nystroem approximation).

    The approximate covariance between any row and a centre is exact.

    Attributes:
        inputs: Scores of the R centres, shape (R, inputs).
        root: Lower Cholesky factor of the covariance of the centres, shape (R, R).
        kernel: The kernel.
    """

    inputs: ndarray
    root: ndarray
    kernel: Kernel

    @staticmethod
    def of(kernel: Kernel, rows: ndarray, most: int, noise: float) -> Centres:
        """Choose at most `most` of the rows as centres by pivoted Cholesky factorisation.

        The next centre is the row with the largest variance given the previous centres (H.
        Harbrecht, M. Peters, R. Schneider, Applied Numerical Mathematics 62 (2012) 428-440). The
        choice ends early if the remaining variances are small compared with both the noise variance
        `noise` and the radial variance.
        """
        # Largest variance that pivoted Cholesky factorisation may leave at a row, as a fraction of
        # the noise variance.
        noise_tolerance = 0.01
        # Largest variance that pivoted Cholesky factorisation may leave at a row, as a fraction of
        # the radial variance.
        cholesky_tolerance = 1e-6
        whole = kernel.radial_variance
        if not whole:
            return Centres(rows[:0], np.zeros((0, 0)), kernel)
        smallest = max(min(cholesky_tolerance * whole, noise_tolerance * noise), _ROUNDING * whole)
        covariance = kernel.radial(rows, rows)
        factor, pivots, rank, _ = linalg.lapack.dpstrf(covariance, tol=smallest, lower=1)
        size = min(rank, most)
        return Centres(rows[pivots[:size] - 1], np.tril(factor[:size, :size]), kernel)

    def features(self, rows: ndarray) -> ndarray:
        """Return features (rows, R) whose inner products approximate the radial covariance.

        Coefficients of these features have the prior variance 1.
        """
        return self.whitened(self.kernel.radial(rows, self.inputs))

    def whitened(self, covariance: ndarray) -> ndarray:
        """Convert covariances with the R centres, shape (rows, R), to `features` of that shape."""
        features = linalg.solve_triangular(
            self.root, covariance.T, lower=True, overwrite_b=True, check_finite=False
        )
        return np.asarray(features.T)

    def transposed(self, coefficients: ndarray) -> ndarray:
        """Convert coefficients of `features` to weights of the covariances with the R centres.

        Both have the shape (R, outputs), and both give the same latent functions:
        features @ coefficients = covariances @ weights.
        """
        return linalg.solve_triangular(self.root, coefficients, lower=True, trans="T")

    def factors(
        self, points: ndarray, columns: Sequence[int], rows: ndarray
    ) -> tuple[ndarray, ndarray]:
        """Factorise the radial covariances with the R centres into two groups of inputs.

        The smooth and the rough covariance are products over inputs. Consider a point whose inputs
        `columns` are those of one of `points`, and whose other inputs are those of one of `rows`.
        Each of its two covariances with a centre is the product of two factors.

        Returns:
            The factors that depend on `columns` and include the variances, shape (points, 2, R),
            and those that depend on the other inputs, shape (rows, 2, R). In the second dimension,
            the smooth part comes first.
        """
        inside = np.isin(np.arange(points.shape[1]), columns)
        others = replace(self.kernel.among(~inside), smooth=1.0, rough=1.0)
        own, rest = (
            np.stack([part.smooth_part(x, self.inputs), part.rough_part(x, self.inputs)], 1)
            for part, x in ((self.kernel.among(inside), points), (others, rows))
        )
        return own, rest
