"""Formulas: text to one sympy expression by a whitelist, and its NumPy, LaTeX and Python forms; all without torch."""

from kanrun.formulas.forms import to_latex, to_numpy, to_python, variables_of
from kanrun.formulas.parsing import (
    CONSTANTS,
    FUNCTIONS,
    FormulaLimits,
    constant,
    names_in,
    parse,
    variable,
    variables_in,
)

__all__ = ["constant", "parse", "to_latex", "to_numpy", "to_python", "variable"]  # for plug-ins
