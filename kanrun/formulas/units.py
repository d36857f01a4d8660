"""Parser of physical units, such as `kg*m/s^2` or `N*m`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import UsageError
from kanrun.formulas.parsing import parse_expression, variable

#: Dimensions of the SI base units, in the order of the exponents that `dimensions` returns.
BASE = (
    "length",
    "mass",
    "time",
    "current",
    "temperature",
    "amount_of_substance",
    "luminous_intensity",
)
#: Names in sympy's table of units, by spellings that the table does not contain.
_OTHER_UNITS = {"l": "liter", "L": "liter", "min": "minute", "h": "hour", "degC": "kelvin"}
_PREFIXES = "yzafpnumcdhkMGTPEZY"


def dimensions(units: Mapping[str, str], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the exponents of the seven SI base units for each quantity, shape (names, 7).

    Args:
        units: Unit of each quantity by name, such as `kg*m/s^2`. Quantities without a unit, and
            those with the unit "1", have exponents of zero.
        names: Names of the quantities, in the order of the rows.

    Raises:
        UsageError: If `units` contains a name that is not in `names`, or text that is not a product
            of powers of known units.
    """
    if unknown := [name for name in units if name not in names]:
        raise UsageError(
            f"target.units has {unknown[0]!r}, which is not one of {', '.join(names)}."
        )
    return np.array([_exponents(str(units.get(name, "1"))) for name in names])


def _exponents(text: str) -> NDArray[np.float64]:
    from sympy.physics.units.systems.si import SI, dimsys_SI

    words = sorted(set(re.findall(r"(?<!\w)[^\W\d]\w*", text)))
    quantities = {variable(word): _quantity(word, text) for word in words}
    expression = parse_expression(text, words)
    for base, power in expression.as_powers_dict().items():
        if not base.is_number and not (base.is_Symbol and power.is_Rational):
            raise UsageError(f"The unit {text!r} is not a product of powers of units.")
    dimension = SI.get_dimensional_expr(expression.xreplace(quantities))
    powers = dimsys_SI.get_dimensional_dependencies(dimension)
    by_name = {str(getattr(base, "name", base)): float(power) for base, power in powers.items()}
    return np.array([by_name.get(name, 0.0) for name in BASE])


def _quantity(word: str, text: str) -> Any:
    """Return sympy's unit for `word`; a prefix such as k or m is removed, and its factor ignored.

    `text` is the whole unit, which the error message quotes.
    """
    from sympy.physics import units

    for name in (word, word[1:] if word[0] in _PREFIXES else ""):
        quantity = getattr(units, _OTHER_UNITS.get(name, name), None)
        if isinstance(quantity, units.Quantity):
            return quantity
    raise UsageError(
        f"The unit {text!r} has {word!r}, which is not known; write it in base units such as "
        "kg*m/s^2."
    )
