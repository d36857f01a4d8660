"""Formulas: text to one sympy expression by a whitelist, and its NumPy, LaTeX and Python forms; all without torch."""

from kanrun.formulas.forms import to_latex, to_numpy, to_python, variables_of
from kanrun.formulas.functions import CONSTANTS, FUNCTIONS, variable
from kanrun.formulas.parsing import FormulaLimits, constant, names_in, parse, variables_in

__all__ = [
    "CONSTANTS",
    "FUNCTIONS",
    "FormulaLimits",
    "constant",
    "names_in",
    "parse",
    "to_latex",
    "to_numpy",
    "to_python",
    "variable",
    "variables_in",
    "variables_of",
]
