"""The kernel of a table: lines and curves of each input, plus a smooth and a rough radial part.

k(x, z) = v_l sum_j l_j(x) l_j(z) + v_c sum_jk c_jk(x) c_jk(z)
          + v_s exp(-sum_j w_j (u_j(x) - u_j(z))^2 / 2) + v_r exp(-sum_j m_j |t_j(x) - t_j(z)|)

l_j is the straight line of input j, c_jk its curves (`reduced_basis`), u_j its score (`scores`),
and t_j the average of u_j and its rank. v_l, v_c, v_s and v_r are variances, w_j and m_j are rates.
The rough part is the limit of the kernels of random forests (E. Scornet, IEEE Transactions on
Information Theory 62 (2016) 1485-1500).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray
from scipy import linalg
from scipy.spatial.distance import cdist

from kanrun.points import PiecewiseScaling, Scaling

#: Largest variance that pivoted Cholesky factorisation may leave at a row, as a fraction of the
#: radial variance.
_CHOLESKY_TOLERANCE = 1e-6
#: Largest variance that pivoted Cholesky factorisation may leave at a row, as a fraction of the
#: noise variance.
_NOISE_TOLERANCE = 0.01
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
        whole = kernel.radial_variance
        if not whole:
            return Centres(rows[:0], np.zeros((0, 0)), kernel)
        smallest = max(
            min(_CHOLESKY_TOLERANCE * whole, _NOISE_TOLERANCE * noise), _ROUNDING * whole
        )
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
