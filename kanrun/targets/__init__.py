"""What is to be learned: named functions, formulas, special functions and tables, and the points drawn from them.

Importing this loads numpy, scipy and sympy, never torch.
"""

from kanrun.targets.data import Dataset, Points, Scaling, Target
from kanrun.targets.datasets import make_dataset
from kanrun.targets.feynman import feynman_formulas
from kanrun.targets.named import NAMED
from kanrun.targets.registry import BUILDERS, build_target
from kanrun.targets.sampling import generator
from kanrun.targets.special import SPECIAL
from kanrun.targets.tables import read_inputs

__all__ = [
    "BUILDERS",
    "NAMED",
    "SPECIAL",
    "Dataset",
    "Points",
    "Scaling",
    "Target",
    "build_target",
    "feynman_formulas",
    "generator",
    "make_dataset",
    "read_inputs",
]
