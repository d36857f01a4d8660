"""Functions of scipy.special in two variables, each on a domain where it is finite and smooth enough to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import special

from kanrun.config import SpecialTarget
from kanrun.errors import UsageError
from kanrun.near import near
from kanrun.targets.data import Array, Target
from kanrun.targets.domains import check_finite, read_domain

Pairs = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class SpecialFunction:
    """value(x0, x1) in scipy's argument order, and its default domain."""

    value: Callable[[Array, Array], Array]
    domain: Pairs


def _sn(u: Array, m: Array) -> Array:
    return np.asarray(special.ellipj(u, m)[0])


def _legendre(v: Array, x: Array, order: int) -> Array:
    return np.asarray(special.lpmv(order, v, x))


def _harmonic(azimuth: Array, polar: Array, order: int, degree: int) -> Array:
    return np.asarray(special.sph_harm_y(degree, order, polar, azimuth).real)


_AZIMUTH_POLAR: Pairs = ((-np.pi, np.pi), (0.0, np.pi))
_ANGLE_PARAMETER: Pairs = ((-np.pi, np.pi), (-1.0, 0.9))

SPECIAL: dict[str, SpecialFunction] = {
    "ellipj": SpecialFunction(_sn, ((-5.0, 5.0), (0.0, 0.9))),  # Jacobi's sn(u, m)
    "ellipkinc": SpecialFunction(special.ellipkinc, _ANGLE_PARAMETER),  # elliptic integral F(phi, m), first kind
    "ellipeinc": SpecialFunction(special.ellipeinc, _ANGLE_PARAMETER),  # E(phi, m), second kind
    "jv": SpecialFunction(special.jv, ((0.0, 5.0), (1.0, 10.0))),  # Bessel functions J_v(x), first kind
    "yv": SpecialFunction(special.yv, ((0.0, 3.0), (1.0, 10.0))),  # Y_v(x), second kind
    "kv": SpecialFunction(special.kv, ((0.0, 3.0), (1.0, 5.0))),  # K_v(x), modified, second kind
    "iv": SpecialFunction(special.iv, ((0.0, 3.0), (1.0, 5.0))),  # I_v(x), modified, first kind
    # Associated Legendre functions P_v^m(x).
    **{f"lpmv_{m}": SpecialFunction(partial(_legendre, order=m), ((0.0, 5.0), (-0.9, 0.9))) for m in (0, 1, 2)},
    # Real parts of spherical harmonics of order m and degree n; x0 is the azimuth, x1 the polar angle.
    **{
        f"sph_harm_{m}_{n}": SpecialFunction(partial(_harmonic, order=m, degree=n), _AZIMUTH_POLAR)
        for m, n in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    },
}


@dataclass(frozen=True)
class _OfColumns:
    """A function (N, 2) to (N, 1) from one of two columns."""

    value: Callable[[Array, Array], Array]

    def __call__(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(self.value(x[:, 0], x[:, 1]), dtype=np.float64)[:, None]


def build_special(config: SpecialTarget) -> Target:
    """A function of scipy.special by name, on its domain or the config's."""
    if config.name not in SPECIAL:
        raise UsageError(
            f"target.name={config.name!r} is not one of the special functions{near(config.name, SPECIAL)}; "
            f"known are {', '.join(SPECIAL)}."
        )
    function = SPECIAL[config.name]
    box = read_domain(config.domain, 2, function.domain)
    return check_finite(Target(config.name, ("x0", "x1"), ("y",), box, None, _OfColumns(function.value)))
