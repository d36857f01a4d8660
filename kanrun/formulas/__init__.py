"""Formulas: text to one sympy expression by a whitelist, and its numpy, LaTeX and Python forms; all without torch."""

from kanrun.formulas.functions import CONSTANTS, FUNCTIONS, variable
from kanrun.formulas.lowering import to_numpy
from kanrun.formulas.parsing import constant, parse, variables_in
from kanrun.formulas.printing import to_latex, to_python, variables_of

__all__ = [
    "CONSTANTS",
    "FUNCTIONS",
    "constant",
    "parse",
    "to_latex",
    "to_numpy",
    "to_python",
    "variable",
    "variables_in",
    "variables_of",
]
