"""From units as text, such as kg*m/s^2 or N*m, to exponents of the seven base units of the SI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.formulas.parsing import parse_expression

#: Names of dimensions in the order of the exponents.
BASE = (
    "length",
    "mass",
    "time",
    "current",
    "temperature",
    "amount_of_substance",
    "luminous_intensity",
)
#: Spellings that sympy's table of units has under another name, or not at all.
_OTHERS = {
    "l": "liter",
    "L": "liter",
    "min": "minute",
    "h": "hour",
    "bar": "bar",
    "degC": "kelvin",
    "atm": "atm",
}


def dimensions(units: Mapping[str, str], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the exponents (names, 7) of the base units.

    Zeros for names without a unit and for pure numbers ("1").

    Raises:
        UsageError: For a unit of an unknown name, or text that is not a product of powers of known
            units.
    """
    if unknown := [name for name in units if name not in names]:
        raise UsageError(
            f"target.units has {unknown[0]!r}, which is not one of {', '.join(names)}."
        )
    return np.array([_exponents(str(units.get(name, "1"))) for name in names])


def _exponents(text: str) -> NDArray[np.float64]:
    words = sorted(set(re.findall(r"(?<!\w)[^\W\d]\w*", text)))
    known = {word: _known(word, text) for word in words}
    expression = parse_expression(text, words) if words else sympy.Integer(1)
    powers = expression.as_powers_dict() if words else {}
    total = np.zeros(len(BASE))
    for base, power in powers.items():
        if base.is_number:
            continue
        if not base.is_Symbol or not power.is_Rational:
            raise UsageError(f"The unit {text!r} is no product of powers of units.")
        total += float(power) * known[str(base)]
    return total


def _known(word: str, text: str) -> NDArray[np.float64]:
    """Return the exponents of one unit, with or without a prefix such as k or m."""
    from sympy.physics import units
    from sympy.physics.units.systems.si import SI, dimsys_SI

    found: Any = getattr(units, _OTHERS.get(word, word), None)
    if not isinstance(found, units.Quantity) and len(word) > 1:
        found = (
            getattr(units, _OTHERS.get(word[1:], word[1:]), None)
            if word[0] in "yzafpnumcdhkMGTPEZY"
            else None
        )
    if not isinstance(found, units.Quantity):
        raise UsageError(
            f"The unit {text!r} has {word!r}, which is not known; write it in base units such as "
            "kg*m/s^2."
        )
    powers = dimsys_SI.get_dimensional_dependencies(SI.get_quantity_dimension(found))
    by_name = {
        str(getattr(dimension, "name", dimension)): float(power)
        for dimension, power in powers.items()
    }
    return np.array([by_name.get(name, 0.0) for name in BASE])
