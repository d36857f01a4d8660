"""What is to be learned: functions, formulas and tables, and the points drawn from them.

Importing this loads numpy, scipy and sympy, never torch.
"""

from kanrun.targets.data import Dataset, Points, Scaling, Target
from kanrun.targets.datasets import SplitPolicy, build_target, make_dataset
from kanrun.targets.functions import GIVEN_POINTS, NAMED, SPECIAL, feynman_formulas, formula_target, peaks_formula
from kanrun.targets.sampling import generator
from kanrun.targets.table_file import TableLimits, check_output, table_bytes
from kanrun.targets.table_targets import planar_points
from kanrun.targets.tables import read_inputs

__all__ = [
    "GIVEN_POINTS",
    "NAMED",
    "SPECIAL",
    "Dataset",
    "Points",
    "Scaling",
    "SplitPolicy",
    "TableLimits",
    "Target",
    "build_target",
    "check_output",
    "feynman_formulas",
    "formula_target",
    "generator",
    "make_dataset",
    "peaks_formula",
    "planar_points",
    "read_inputs",
    "table_bytes",
]
