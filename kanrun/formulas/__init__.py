"""Formulas: text to one sympy expression by a whitelist, and its numpy, torch, LaTeX and Python forms.

Importing this loads sympy, not torch.
"""

from kanrun.formulas.functions import CONSTANTS, FUNCTIONS, variable
from kanrun.formulas.lowering import to_numpy, to_torch
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
    "to_torch",
    "variable",
    "variables_in",
    "variables_of",
]
