"""Likelihoods of outputs given a latent function f, with their derivatives with respect to f.

All have the form log p(y | f) = -w D(y, mu(f)) / (2 phi) - w log(phi) / 2, where D is the deviance
of an exponential family, mu the mean, w the weight of a row and phi the dispersion. A row with
weight w counts as w equal rows. Gaussian outputs are first transformed by a power, whose exponent
is a parameter.

Sources: P. McCullagh and J. Nelder, Generalized Linear Models (1989), 2.2 and 9.3; I.-K. Yeo and R.
Johnson, Biometrika 87 (2000) 954-959.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy.special import boxcox1p, inv_boxcox1p

from kanrun.points import Family


class Terms(NamedTuple):
    """Log likelihood and its first three derivatives with respect to f, each of shape (rows,).

    `curvature` is minus the second derivative; it is not negative.
    """

    value: ndarray
    score: ndarray
    curvature: ndarray
    third: ndarray


@dataclass(frozen=True)
class Power:
    """Yeo-Johnson transform of y / unit - shift, divided by the geometric mean of its derivative.

    With this division, the likelihoods of different exponents can be compared without a Jacobian.
    With the exponent 1, the transform is linear.

    Attributes:
        unit: Positive scale of the outputs.
        shift: Number that is subtracted after division by `unit`.
        exponent: Exponent of the power. Values below 1 compress large outputs.
        log_slope: Logarithm of the geometric mean of the undivided transform's derivative over the
            training rows.
    """

    unit: float
    shift: float
    exponent: float = 1.0
    log_slope: float = 0.0

    @staticmethod
    def of(y: ndarray, weights: ndarray, unit: float, shift: float, exponent: float) -> Power:
        """Return the transform with this exponent, normalised on outputs `y` (rows,)."""
        plain = Power(unit, shift, exponent)
        return Power(unit, shift, exponent, float(np.average(plain.log_slopes(y), weights=weights)))

    def log_slopes(self, y: ndarray) -> ndarray:
        """Return the logarithm of the transform's derivative with respect to y / unit, (rows,)."""
        scaled = y / self.unit - self.shift
        slopes = (self.exponent - 1) * np.sign(scaled) * np.log1p(np.abs(scaled))
        return np.asarray(slopes - self.log_slope)

    def apply(self, y: ndarray) -> ndarray:
        """Transform outputs of any shape."""
        scaled = y / self.unit - self.shift
        sizes = np.abs(scaled)
        up = boxcox1p(sizes, self.exponent)
        down = boxcox1p(sizes, 2 - self.exponent)
        return np.asarray(np.where(scaled >= 0, up, -down) * np.exp(-self.log_slope))

    def invert(self, z: ndarray) -> ndarray:
        """Convert transformed outputs `z` back to outputs.

        Values of `z` outside the range of the transform become infinite.
        """
        # Exponents smaller than this in absolute value count as 0: the power is then a logarithm.
        logarithm = 1e-12
        sizes = np.abs(z) * np.exp(self.log_slope)
        exponent = self.exponent if abs(self.exponent) > logarithm else 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            up = inv_boxcox1p(sizes, exponent)
            down = inv_boxcox1p(sizes, 2 - exponent)
        scaled = np.where(z >= 0, up, -down)
        scaled = np.where(np.isnan(scaled), np.copysign(np.inf, z), scaled)
        return np.asarray(self.unit * (scaled + self.shift))


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Likelihood of one output.

    Attributes:
        family: Distribution of the output.
        y: Outputs, shape (rows,); 1 for a class and 0 for the others.
        weights: Weights of the rows, shape (rows,).
        power: Transform of Gaussian outputs.
        dispersion: Dispersion phi; for Gaussian outputs the variance of the noise.
    """

    family: Family
    y: ndarray
    weights: ndarray
    power: Power
    dispersion: float = 1.0

    @property
    def is_gaussian(self) -> bool:
        return not self.family.has_link

    def with_parameters(self, dispersion: float, exponent: float) -> Likelihood:
        """Return the likelihood with this dispersion and this exponent of the output."""
        power = Power.of(self.y, self.weights, self.power.unit, self.power.shift, exponent)
        return replace(self, power=power, dispersion=dispersion)

    def take(self, rows: ndarray | slice) -> Likelihood:
        """Return the likelihood of some of the rows, with the same transform."""
        return replace(self, y=self.y[rows], weights=self.weights[rows])

    def start(self) -> float:
        """Return the link of the mean output: the latent value at which Newton's method starts.

        For the evidence, it is also the prior mean of the latent function. For Gaussian outputs, it
        is 0, because their evidence has a closed form.
        """
        if self.is_gaussian:
            return 0.0
        mean = float(np.average(self.y, weights=self.weights))
        if not self.family.is_log:
            count = float(self.weights.sum())
            mean = (mean * count + 0.5) / (count + 1)
        return float(self.family.link(np.array(mean)))

    def terms(self, f: ndarray) -> Terms:
        """Return the log likelihood and its derivatives at latent values `f` (rows,)."""
        # Largest allowed difference between a latent value and the mean level; exp(30) is about
        # 1e13.
        largest_link = 30.0
        if self.is_gaussian:
            score = self.power.apply(self.y) - f
            deviance = score**2
            curvature = np.ones_like(f)
            third = np.zeros_like(f)
        else:
            level = self.start()
            mean = self.family.mean(np.clip(f, level - largest_link, level + largest_link))
            score = self.family.score(self.y, mean)
            deviance = self.family.deviance(self.y, mean)
            curvature = self.family.weight(mean)
            third = -curvature * (1 if self.family.is_log else 1 - 2 * mean)
            if self.family.name == "gamma":  # the others' curvature does not depend on y
                curvature = third = 1 + score
        scale = self.weights / self.dispersion
        value = -scale * deviance / 2 - self.weights * np.log(self.dispersion) / 2
        return Terms(value, scale * score, scale * curvature, scale * third)

    def by_exponent(self) -> ndarray:
        """Differentiate the transformed outputs with respect to the exponent, shape (rows,)."""
        # Step of the central difference for the derivative with respect to the exponent.
        power_step = 1e-5
        high, low = (
            self.with_parameters(self.dispersion, self.power.exponent + step).power.apply(self.y)
            for step in (power_step, -power_step)
        )
        return np.asarray((high - low) / (2 * power_step))
