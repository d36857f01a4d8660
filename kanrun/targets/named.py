"""The functions that kanrun knows by name, one formula each, and points known by name."""

from __future__ import annotations

import numpy as np

from kanrun.config import GaussianPeaksTarget, NamedTarget
from kanrun.errors import UsageError
from kanrun.formulas import constant, parse, variables_in
from kanrun.near import near
from kanrun.targets.data import Points, Target
from kanrun.targets.domains import read_domain
from kanrun.targets.formula import formula_target

MAX_PEAK_DIMENSION = 10

NAMED: dict[str, str] = {
    "exp_sin_square": "exp(sin(pi*x0) + x1^2)",  # [2,1,1] holds it exactly
    "bessel_j0": "j0(20*x0)",  # a dozen oscillations
    "product": "x0*x1",  # [2,2,1] holds it exactly
    "mean_sin_square_100d": f"exp(({'+'.join(f'sin(pi*x{i}/2)^2' for i in range(100))})/100)",  # [100,1,1]
    "nested_4d": "exp((sin(pi*(x0^2 + x1^2)) + sin(pi*(x2^2 + x3^2)))/2)",  # of depth three, [4,2,1,1]
    "runge": "1/(1 + 25*x0^2)",  # polynomials through evenly spaced points diverge on it
}
"""Formulas on [-1, 1] in each variable. The last is Runge's (Z. Math. Phys. 46, 1901), the others are from Liu et al.,
arXiv 2404.19756, section 3.1."""

GIVEN_POINTS: dict[str, Points] = {
    "lecture_points": Points(np.array([[0.0], [1.0], [2.0], [5.0]]), np.array([[5.0], [1.0], [3.0], [2.0]])),
}
"""Points without a truth between them."""


def build_named(config: NamedTarget) -> Target:
    """A function or points by name; points have no function, and the range of their inputs for a domain."""
    if config.name in GIVEN_POINTS:
        x = GIVEN_POINTS[config.name].x
        box = read_domain(config.domain, x.shape[1], np.stack([x.min(axis=0), x.max(axis=0)], axis=1))
        return Target(config.name, ("x0",), ("y",), box, None, None)
    if config.name not in NAMED:
        known = [*NAMED, *GIVEN_POINTS]
        raise UsageError(
            f"target.name={config.name!r} is unknown{near(config.name, known)}; known are {', '.join(known)}."
        )
    formula = NAMED[config.name]
    return formula_target(config.name, parse(formula), variables_in(formula), config.domain)


def build_peaks(config: GaussianPeaksTarget) -> Target:
    """Sum over the centres c of exp(-sharpness |x - (c, ..., c)|^2): narrow peaks along the diagonal."""
    centres = [constant(centre) for centre in config.centres]
    if not centres:
        raise UsageError("target.centres=[] has no peaks; give at least one centre such as [-0.5,0.5].")
    sharpness = constant(config.sharpness)
    if sharpness <= 0:
        raise UsageError(f"target.sharpness={sharpness:g} must be above 0.")
    if not 1 <= config.dimension <= MAX_PEAK_DIMENSION:
        raise UsageError(f"target.dimension={config.dimension} must be from 1 to {MAX_PEAK_DIMENSION}.")
    inputs = [f"x{i}" for i in range(config.dimension)]
    peaks = [f"exp(-{sharpness!r}*({'+'.join(f'({x}-({c!r}))^2' for x in inputs)}))" for c in centres]
    return formula_target("gaussian_peaks", parse("+".join(peaks)), inputs, config.domain)
