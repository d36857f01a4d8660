"""Numbers of a formula as products of the constants of physics, or as powers of short numbers.

A number that points determine to ten digits is named if it is a simple fraction times powers of pi
and of at most three constants: of about ten million such products over 600 nats, one in a million
lies within that distance of a given number by chance.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Collection
from functools import cache

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic import open_constants

#: Constants in SI units by their symbols: CODATA 2018 (Tiesinga et al., Reviews of Modern Physics
#: 93, 2021, 025010), and as they are often rounded.
CONSTANTS: dict[str, tuple[float, ...]] = {
    "c": (299792458.0, 2.998e8),
    "h": (6.62607015e-34, 6.626e-34),
    "hbar": (1.054571817e-34, 1.0546e-34),
    "k_B": (1.380649e-23, 1.381e-23),
    "e": (1.602176634e-19, 1.602e-19),
    "epsilon_0": (8.8541878128e-12, 8.854e-12),
    "G": (6.6743e-11, 6.674e-11),
    "m_e": (9.1093837015e-31, 9.10938356e-31, 9.109e-31),
    "alpha": (7.2973525693e-3,),
    "mu_B": (9.2740100783e-24, 9.274e-24),
    "N_A": (6.02214076e23, 6.022e23),
    "g": (9.80665,),
}
#: Largest relative distance of a number from a product of constants.
_WITHIN = 1e-10
#: Number of digits from which on a number may be a product of constants.
_DIGITS = 6
#: Largest sums of the exponents of one, two and three constants.
_EXPONENTS = (6, 9, 5)
#: Largest exponent of pi.
_PI = 2
#: Numerators and denominators of the fraction.
_WHOLE = (1, 2, 3, 4, 5, 6, 8, 12, 16)
#: Powers of a short number that are no products of constants.
_POWERS = (-1, 2, -2)
#: Digits that a short number may have: one in a thousand numbers is a power of one by chance.
_SHORT = 6

#: Names of constants with their values and exponents.
_Factors = list[tuple[str, float, int]]


def name_constants(
    expression: sympy.Expr, taken: Collection[str]
) -> tuple[sympy.Expr, dict[str, float]]:
    """Return the formula with symbols for constants of physics, and their values.

    Symbols that are `taken` get an underscore. Numbers that are no such products stay.
    """
    opened, numbers = open_constants(expression)
    known: dict[str, float] = {}
    swap = {}
    for symbol, number in numbers.items():
        value = float(number)
        long = len(f"{abs(value):.15g}".partition("e")[0].strip("0.").replace(".", "")) >= _DIGITS
        named = _named(abs(value)) if number.has(sympy.Float) and long else None
        if named is None:
            swap[symbol] = number
            continue
        fraction, factors = named
        for name, size, exponent in factors:
            is_other = name in taken or known.get(name, size) != size
            called = f"{name}_" if is_other else name
            known[called] = size
            fraction *= sympy.Symbol(called, positive=True) ** exponent
        swap[symbol] = fraction * int(math.copysign(1, value))
    return opened.xreplace(swap), known


def _named(value: float) -> tuple[sympy.Expr, _Factors] | None:
    """Return the shortest product of constants of physics, or power of a short number, or None."""
    logarithms, products = _products()
    found = []
    for p, q, power in itertools.product(_WHOLE, _WHOLE, range(-_PI, _PI + 1)):
        if math.gcd(p, q) > 1:
            continue
        rest = math.log(value * q / p) - power * math.log(math.pi)
        first, last = np.searchsorted(logarithms, (rest - _WITHIN, rest + _WITHIN))
        for factors in products[first:last]:
            cost = sum(1 + abs(n) for _, _, n in factors) + abs(power) + math.log2(p * q)
            found.append((cost, sympy.Rational(p, q) * sympy.pi**power, factors))
    if found:
        return min(found, key=operator.itemgetter(0))[1:]
    for power in _POWERS:
        base = value ** (1 / power)
        short = float(f"{base:.{_SHORT}g}")
        if abs(short / base - 1) < _WITHIN and len(f"{value:.15g}") > len(f"{short:.15g}") + 2:
            return sympy.S.One, [("a", short, power)]
    return None


@cache
def _products() -> tuple[NDArray[np.float64], list[_Factors]]:
    """Return the logarithms of all products of powers of constants, in order, and their factors."""
    sized = [(name, value) for name, values in CONSTANTS.items() for value in values]
    found: list[tuple[float, _Factors]] = []
    for count, most in enumerate(_EXPONENTS, 1):
        every = itertools.product(range(-most, most + 1), repeat=count)
        powers = [each for each in every if all(each) and sum(map(abs, each)) <= most]
        for chosen in itertools.combinations(sized, count):
            if len(dict(chosen)) == count:
                logarithms = np.array(powers) @ np.log([value for _, value in chosen])
                factors = (
                    [(*pair, n) for pair, n in zip(chosen, each, strict=True)] for each in powers
                )
                found += zip(logarithms.tolist(), factors, strict=True)
    found.sort(key=operator.itemgetter(0))
    return np.array([each for each, _ in found]), [each for _, each in found]
