"""Variance components of the kinds of terms, by restricted maximum likelihood.

The model is y = b + sum_g f_g + e with f_g ~ N(0, v_g K_g), e ~ N(0, s2 D), and no prior for b. The
logarithms of v and s2 move by average-information steps. The fixed point is that of Fellner-Schall
and MacKay, 1 / v_g = gamma_g / |u_g|^2 with the effective degrees of freedom gamma_g = v_g tr(P
K_g).

A `FunctionProblem` works with the functions behind the kernels K_g.

Sources: A. Gilmour, R. Thompson, B. Cullis, Biometrics 51 (1995) 1440-1450; S. Wood, M. Fasiolo,
Biometrics 73 (2017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy import ndarray
from scipy import linalg, optimize

from kanrun.engine.tables.gaussian_process import cholesky_factor, half_solved
from kanrun.engine.tables.jumps import BoostingPolicy
from kanrun.engine.tables.reduced_basis import Columns, PerRow, blocks

ABSENT = 1e-12  # mean square of a component whose functions vanish on the rows
_NEGLIGIBLE = 1e-5  # of the output's variance: components that explain less are dropped
_MIN_NOISE = 1e-10  # of the output's variance
_MAX_STEP = 2.0  # of the logarithm of a variance
_DAMPING = (1e-3, 1e-9)  # of the average information, relative to its mean and absolute
_MIN_LEFT = 1e-6  # of 1 - leverage
_NNLS_STEPS = 100  # for each constraint, and one
#: Mean square of a component, over the output's variance, at which the slope at zero is taken.
_NEARLY_ZERO = 1e-6
#: Largest variance of the logarithm of a component's variance that a band allows for.
_WIDEST = 12.0
#: The same of a component without variance, over that of the noise of its best known coefficient.
_LARGEST = 10.0

Variances = tuple[ndarray, float]  # of the components, and of the noise
#: Gradient of the log likelihood in the logarithms of positive variances, and its average
#: information.
Slope = tuple[ndarray, ndarray]


@dataclass(frozen=True, eq=False)
class TablePolicy:
    """Candidates of `model=auto`, their fits by evidence and their selection; see docs/tables.md.

    The defaults were chosen on the tables of `kanrun bench part=tables`.
    """

    #: Distribution of outputs that are numbers, one of `kanrun.points.FAMILIES`.
    family: str = "gaussian"
    #: Whether to include pairs of inputs and neighbourhoods.
    pairs: bool = True
    #: (Index of an input, shape) pairs, see `design.SHAPES`. Such inputs take no part in pairs;
    #: with a curvature the output is not transformed.
    shapes: tuple[tuple[int, str], ...] = ()
    #: `clip`, `linear`, `constant` or `zero`.
    extrapolation: str = "clip"
    #: Lower and upper limit of the outputs.
    bounds: tuple[float, float] = (-np.inf, np.inf)
    #: Whether to fit the sparse, linear and transformed models next to the stack.
    alternatives: bool = True
    #: Folds of the cross-validation; below 2 rows are left out one by one only. Whether to leave
    #: out only one of them.
    folds: int = 5
    single_fold: bool = False
    #: Error, in standard deviations of the output, beyond which losses grow linearly (Huber).
    robust: float = 1.75
    #: Candidates of the stack, a selection of `table_candidates.COMPONENTS`.
    candidates: tuple[str, ...] = ("additive", "steps", "pairs", "neighbourhoods", "jumps")
    #: Smooth functions of an input, its straight line included; and its functions that follow
    #: jumps.
    functions: int = 10
    step_functions: int = 24
    #: Functions of all inputs at most, in total and for each row; the first also limits those of
    #: inputs and of all pairs together, beyond which the strongest pairs are chosen.
    max_functions: int = 600
    per_row: float = 1.0
    #: Multiplications of one step up to which classes have pairs, and by which centres are limited;
    #: numbers of a matrix of rows by centres, 1.5 GiB: a million rows have to fit into 4 GiB.
    max_work: float = 8e10
    max_numbers: float = 2e8
    #: Fractions of the output's variance at which the noise starts. The likelihood has a second
    #: maximum near zero noise if the inputs determine the output, and the higher maximum counts.
    noise_fractions: tuple[float, ...] = (0.5, 0.01)
    #: Variances of the logits of classes at the start. If only combinations of inputs separate the
    #: classes, a start at low variances converges to the constant model.
    logit_variances: tuple[float, ...] = (1.0, 100.0)
    #: Classes, the most frequent first, from which variances are estimated.
    variance_classes: int = 8
    #: Largest number of steps of the variances.
    max_steps: int = 25
    #: Gain of the log likelihood that a step promises, below which the steps end.
    tolerance: float = 1e-3
    #: Steps of the kernel of neighbourhoods at most.
    kernel_steps: int = 40
    #: Repetitions of the sparse fit.
    sparse_rounds: int = 2
    #: Standard deviation of all omitted hidden nodes, relative to that of the noise, and nodes of
    #: an output at most.
    omitted: float = 0.02
    max_nodes: int = 40
    #: How nodes of jumps are found; rows from which on they are searched for, the parts of the rows
    #: that are predicted by nodes of the others, and the reduction of the stack's loss from which
    #: on they are included: relative, in standard errors, and in variances of the output. Weights
    #: below the last are zero.
    boosting: BoostingPolicy = field(default_factory=BoostingPolicy)
    jump_rows: int = 1000
    jump_parts: int = 3
    jump_gain: tuple[float, float, float] = (0.005, 2.0, 1e-4)
    min_weight: float = 0.05
    #: Coefficients of the network's inner edges for jumps at most, unless there are that few cuts.
    max_coefficients: int = 30_000_000
    min_cuts: int = 15

    def additive(self) -> TablePolicy:
        """Return the policy of one smooth effect per input: no pairs, steps, candidates and folds.

        The work is linear in the rows, and weights count exactly as repeated rows.
        """
        effects = replace(self, candidates=("additive",), step_functions=0, sparse_rounds=0)
        return replace(effects, max_functions=10**9, per_row=np.inf, alternatives=False, folds=0)


@dataclass(frozen=True, eq=False)
class FunctionPosterior:
    """Offset and coefficients (functions,).

    `factor` is the lower factor of the inverse covariance of the functions `kept`, those with a
    prior variance, without constraints.
    """

    offset: float
    coefficients: ndarray
    kept: ndarray
    factor: ndarray


@dataclass(frozen=True, eq=False)
class FunctionProblem:
    """Moments of weighted rows about their means, so that the offset needs no column.

    `gram` is X'WX, `right` X'Wy, `square` y'Wy and `count` the sum of the weights: a row of weight
    2 counts as two equal rows. `kinds` (functions,) is the component of each function.
    """

    columns: Columns | ndarray
    kinds: ndarray
    components: int
    weights: PerRow
    y: PerRow
    gram: ndarray
    right: ndarray
    square: float
    count: float
    mean: ndarray
    level: float

    @staticmethod
    def of(
        columns: Columns | ndarray, kinds: ndarray, components: int, weights: PerRow, y: PerRow
    ) -> FunctionProblem:
        """Accumulate the moments block by block."""
        gram, right, total = np.zeros((len(kinds),) * 2), np.zeros(len(kinds)), np.zeros(len(kinds))
        for part in blocks(len(y)):
            root = np.sqrt(weights[part])
            x = columns[part] * root[:, None]
            gram += x.T @ x
            right += x.T @ (root * y[part])
            total += x.T @ root
        count = float(weights.sum())
        mean, level = total / count, float(weights @ y) / count
        gram -= count * np.outer(mean, mean)
        right -= count * level * mean
        square = float(weights @ (y - level) ** 2)
        given = columns, kinds, components, weights, y
        return FunctionProblem(*given, gram, right, square, count, mean, level)

    @property
    def without_rows(self) -> FunctionProblem:
        """Problem with moments only, from which `posterior` and `slope` are computed."""
        none = np.zeros((0, len(self.kinds)))
        return replace(self, columns=none, weights=none[:, 0], y=none[:, 0])

    @property
    def sizes(self) -> ndarray:
        """Mean square of each component for variance 1."""
        return np.bincount(self.kinds, np.diag(self.gram) / self.count, self.components)

    @property
    def variance(self) -> float:
        return self.square / self.count

    def posterior(
        self, variances: ndarray, scale: float = 1.0, constraints: ndarray | None = None
    ) -> FunctionPosterior:
        """Return the posterior; with `constraints` A, coefficients b fulfil A b >= 0."""
        prior = variances[self.kinds]
        kept = np.flatnonzero(prior > 0)
        hessian = self.gram[np.ix_(kept, kept)] / scale
        hessian[np.diag_indices(len(kept))] += 1 / prior[kept]
        factor, right = cholesky_factor(hessian), self.right[kept] / scale
        coefficients = np.zeros(len(prior))
        if constraints is None:
            coefficients[kept] = linalg.cho_solve((factor, True), right, check_finite=False)
        else:
            # b'H b / 2 - b'r subject to A b >= 0, by least squares for the multipliers (C. Lawson
            # and R. Hanson, Solving Least Squares Problems (1974), ch. 23).
            free, turned = (half_solved(factor, one) for one in (right, constraints[:, kept].T))
            sizes = np.sqrt((turned**2).sum(0))
            turned /= np.where(sizes > 0, sizes, 1.0)
            most = _NNLS_STEPS * (turned.shape[1] + 1)
            free += turned @ optimize.nnls(turned, -free, maxiter=most)[0]
            coefficients[kept] = linalg.solve_triangular(factor, free, lower=True, trans="T")
        offset = self.level - float(self.mean @ coefficients)
        return FunctionPosterior(offset, coefficients, kept, factor)

    def fitted(self, found: FunctionPosterior) -> PerRow:
        """Return the fitted values."""
        parts = [self.columns[part] @ found.coefficients for part in blocks(len(self.y))]
        return found.offset + np.concatenate(parts)

    def left_out(self, found: FunctionPosterior, fitted: PerRow, scale: float = 1.0) -> PerRow:
        """Return the prediction of each row by a fit without it.

        The leverage x'H^-1 x is |R^-1 x|^2 by the factor R R' of H: half the work of a product with
        the covariance.
        """
        leverage = self.weights / self.count
        for part in blocks(len(self.y)) if len(found.kept) else ():
            x = np.take(self.columns[part], found.kept, 1) - self.mean[found.kept]
            half = linalg.blas.dtrsm(1.0, found.factor, x.T, lower=1, overwrite_b=1)
            leverage[part] += self.weights[part] / scale * np.einsum("ij,ij->j", half, half)
        return np.asarray(self.y - (self.y - fitted) / np.maximum(1 - leverage, _MIN_LEFT))

    def slope(self, variances: ndarray, scale: float = 1.0, *, known: bool = False) -> Slope:
        """Return the slope; the noise comes last, unless it is `known`.

        With the prior variances V and the covariance C of the coefficients, X'P(y - b) is V^-1
        times the coefficients, X'PX is V^-1 - V^-1 C V^-1 and X'WX C / s2 is 1 - V^-1 C.
        """
        found = self.posterior(variances, scale)
        kinds, beta = self.kinds[found.kept], found.coefficients[found.kept]
        prior = variances[kinds]
        half = found.factor
        if len(half):
            half, _ = linalg.lapack.dtrtri(half, lower=1)  # C = R^-T R^-1
        q, determined = beta / prior, 1 - np.einsum("ij,ij->j", half, half) / prior
        mine = kinds == np.flatnonzero(variances > 0)[:, None]  # (active, kept)
        first, columns = mine @ (beta * q - determined) / 2, mine * q
        turned = half @ columns.T
        information = (columns * prior @ columns.T - turned.T @ turned) / 2
        if known:
            return first, information
        whole = found.coefficients
        residual = self.square - 2 * whole @ self.right + whole @ self.gram @ whole
        of_noise = (residual / scale - (self.count - 1 - determined.sum())) / 2
        together = turned.sum(1)
        cross = (together @ turned)[:, None] / 2
        last = np.full((1, 1), (residual / scale - together @ together) / 2)
        return np.append(first, of_noise), np.block([[information, cross], [cross.T, last]])

    def surprise(self, variances: ndarray, scale: float) -> float:
        """Return minus twice the restricted log likelihood, up to a constant."""
        found = self.posterior(variances, scale)
        size = 2 * np.log(np.diag(found.factor)).sum() + (self.count - 1) * np.log(scale)
        size += np.log(variances[self.kinds[found.kept]]).sum()
        return float(size + (self.square - self.right @ found.coefficients) / scale)


def estimate(
    problem: FunctionProblem, policy: TablePolicy, start: Variances | None = None
) -> Variances:
    """Return the variances with the largest likelihood; negligible components get 0.

    Without a `start` the search begins at each of the policy's noise fractions, and the higher
    maximum counts.
    """
    variance, sizes = problem.variance, problem.sizes
    if variance <= 0:
        return np.zeros(len(sizes)), 1.0

    def climb(first: Variances) -> Variances:
        return maximise(problem.slope, sizes, variance, first, policy)

    if start is not None:
        return climb(start)
    equal = equal_variances(sizes, variance)
    found = [climb(((1 - part) * equal, part * variance)) for part in policy.noise_fractions]
    return min(found, key=lambda one: problem.surprise(*one))


def widened(problem: FunctionProblem, variances: ndarray, noise: float) -> ndarray:
    """Return the mean variances of the components, given their most probable values.

    The standard deviation of a component is taken as normally distributed about its most probable
    value, with the information of the likelihood (Laplace's method); the mean of its square exceeds
    the square of that value. So a component that the rows do not show may still have a variance.
    """
    sizes = problem.sizes
    present = (sizes > ABSENT) & (problem.variance > 0)
    smallest = _NEARLY_ZERO * problem.variance / np.where(present, sizes, 1.0)
    start = np.where(present, np.maximum(variances, smallest), 0.0)
    first, information = problem.slope(start, noise, known=True)
    slopes = np.zeros(len(start))
    slopes[present] = 2 * first / start[present]
    known = np.diag(problem.gram) / noise
    best = np.array([known[problem.kinds == g].max(initial=0) for g in range(len(start))])
    found = np.where(present, 1 / np.maximum(best / _LARGEST - slopes, ABSENT), 0.0)
    estimated = variances[present] > 0
    spread = np.linalg.pinv(information[np.ix_(estimated, estimated)], hermitian=True)
    factors = 1 + np.minimum(np.diag(spread), _WIDEST) / 4
    found[variances > 0] = variances[variances > 0] * factors
    return found


def equal_variances(sizes: ndarray, variance: float) -> ndarray:
    """Divide `variance` equally among the components; those that vanish on the rows get 0."""
    present = sizes > ABSENT
    return np.where(present, variance / len(sizes) / np.where(present, sizes, 1.0), 0.0)


def maximise(
    slope: Callable[[ndarray, float], Slope],
    sizes: ndarray,
    variance: float,
    start: Variances,
    policy: TablePolicy,
    *,
    known: bool = False,
) -> Variances:
    """Take average-information steps to the policy's tolerance; `known` noise stays as it is."""
    variances, noise = start[0].copy(), start[1]
    for _ in range(policy.max_steps):
        first, information = slope(variances, noise)
        if not len(first):
            break
        ridge = _DAMPING[0] * np.trace(information) / len(first) + _DAMPING[1]
        damped = information + np.eye(len(first)) * ridge
        change = np.clip(np.linalg.solve(damped, first), -_MAX_STEP, _MAX_STEP)
        active = variances > 0
        variances[active] *= np.exp(change[: active.sum()])
        if not known:
            noise = max(noise * float(np.exp(change[-1])), _MIN_NOISE * variance)
        variances[variances * sizes < _NEGLIGIBLE * variance] = 0.0
        if abs(first @ change) < policy.tolerance:
            break
    return variances, noise
