"""What is to be learned: functions, formulas and tables, and the points drawn from them.

Nothing here loads torch. Names are loaded when they are first asked for: who reads a table needs no sympy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanrun.targets.arrays import Data as Data
    from kanrun.targets.arrays import array_target as array_target
    from kanrun.targets.arrays import as_array as as_array
    from kanrun.targets.arrays import as_numbers as as_numbers
    from kanrun.targets.arrays import frame_columns as frame_columns
    from kanrun.targets.arrays import frame_names as frame_names
    from kanrun.targets.arrays import input_rows as input_rows
    from kanrun.targets.arrays import is_frame as is_frame
    from kanrun.targets.data import Dataset as Dataset
    from kanrun.targets.data import PiecewiseScaling as PiecewiseScaling
    from kanrun.targets.data import Points as Points
    from kanrun.targets.data import Scaling as Scaling
    from kanrun.targets.data import Target as Target
    from kanrun.targets.data import deviation as deviation
    from kanrun.targets.data import root_mean_square as root_mean_square
    from kanrun.targets.data import scaling_from_plain as scaling_from_plain
    from kanrun.targets.datasets import SplitPolicy as SplitPolicy
    from kanrun.targets.datasets import build_target as build_target
    from kanrun.targets.datasets import constant as constant
    from kanrun.targets.datasets import generator as generator
    from kanrun.targets.datasets import make_dataset as make_dataset
    from kanrun.targets.encoding import TableCode as TableCode
    from kanrun.targets.encoding import code_of as code_of
    from kanrun.targets.functions import GIVEN_POINTS as GIVEN_POINTS
    from kanrun.targets.functions import NAMED as NAMED
    from kanrun.targets.functions import SPECIAL as SPECIAL
    from kanrun.targets.functions import feynman_formulas as feynman_formulas
    from kanrun.targets.functions import formula_target as formula_target
    from kanrun.targets.functions import named_formula as named_formula
    from kanrun.targets.functions import peaks_formula as peaks_formula
    from kanrun.targets.scores import PowerTransform as PowerTransform
    from kanrun.targets.scores import ScorePolicy as ScorePolicy
    from kanrun.targets.scores import gaps_of as gaps_of
    from kanrun.targets.scores import input_scores as input_scores
    from kanrun.targets.scores import ordinary_units as ordinary_units
    from kanrun.targets.scores import output_map as output_map
    from kanrun.targets.table_file import TableLimits as TableLimits
    from kanrun.targets.table_file import check_output as check_output
    from kanrun.targets.table_file import is_parquet as is_parquet
    from kanrun.targets.table_targets import classes_of as classes_of
    from kanrun.targets.table_targets import planar_points as planar_points
    from kanrun.targets.tables import lenient_numbers as lenient_numbers
    from kanrun.targets.tables import read_inputs as read_inputs
    from kanrun.targets.tables import read_values as read_values

_NAMES = {
    "arrays": "Data array_target as_array as_numbers frame_columns frame_names input_rows is_frame",
    "data": "Dataset PiecewiseScaling Points Scaling Target deviation root_mean_square scaling_from_plain",
    "datasets": "SplitPolicy build_target constant generator make_dataset",
    "encoding": "TableCode code_of",
    "functions": "GIVEN_POINTS NAMED SPECIAL feynman_formulas formula_target named_formula peaks_formula",
    "scores": "PowerTransform ScorePolicy gaps_of input_scores ordinary_units output_map",
    "table_file": "TableLimits check_output is_parquet",
    "table_targets": "classes_of planar_points",
    "tables": "lenient_numbers read_inputs read_values",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kanrun.targets' has no attribute {name!r}")
    return getattr(import_module(f"kanrun.targets.{_MODULES[name]}"), name)
