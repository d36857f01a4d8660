"""Formulas: text to one sympy expression by a whitelist, and its NumPy, LaTeX and Python forms.

All without torch.
"""

from kanrun.formulas.forms import as_variables, to_latex, to_numpy, to_python
from kanrun.formulas.parsing import (
    CONSTANTS,
    FUNCTIONS,
    KnownFunction,
    constant,
    names_in,
    parse,
    parse_expression,
    variable,
    variables_in,
)
