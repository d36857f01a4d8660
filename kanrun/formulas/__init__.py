"""Formulas: text to one sympy expression by a whitelist, and its NumPy, LaTeX and Python forms.

All without torch.
"""

from kanrun.formulas.forms import to_latex as to_latex
from kanrun.formulas.forms import to_numpy as to_numpy
from kanrun.formulas.forms import to_python as to_python
from kanrun.formulas.forms import variables_of as variables_of
from kanrun.formulas.parsing import CONSTANTS as CONSTANTS
from kanrun.formulas.parsing import FUNCTIONS as FUNCTIONS
from kanrun.formulas.parsing import FormulaLimits as FormulaLimits
from kanrun.formulas.parsing import as_variables as as_variables
from kanrun.formulas.parsing import constant as constant
from kanrun.formulas.parsing import names_in as names_in
from kanrun.formulas.parsing import parse as parse
from kanrun.formulas.parsing import variable as variable
from kanrun.formulas.parsing import variables_in as variables_in
