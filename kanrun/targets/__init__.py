"""What is to be learned: functions, formulas and tables, and the points drawn from them.

Nothing here loads torch. Names are loaded when they are first asked for: who reads a table needs no sympy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanrun.targets.arrays import (
        Data,
        array_target,
        as_array,
        as_numbers,
        frame_columns,
        frame_names,
        input_rows,
        is_frame,
    )
    from kanrun.points import (
        PiecewiseScaling,
        Points,
        Scaling,
        deviation,
        root_mean_square,
        scaling_from_plain,
    )
    from kanrun.targets.data import Dataset, Target
    from kanrun.targets.datasets import SplitPolicy, build_target, constant, generator, make_dataset
    from kanrun.targets.encoding import TableCode, code_of
    from kanrun.targets.functions import (
        GIVEN_POINTS,
        NAMED,
        SPECIAL,
        feynman_formulas,
        formula_target,
        named_formula,
        peaks_formula,
    )
    from kanrun.targets.table_file import TableLimits, check_output, is_parquet
    from kanrun.targets.table_targets import classes_of, planar_points
    from kanrun.targets.tables import lenient_numbers, read_inputs, read_values

_NAMES = {
    "targets.arrays": "Data array_target as_array as_numbers frame_columns frame_names input_rows is_frame",
    "targets.data": "Dataset Target",
    "points": "PiecewiseScaling Points Scaling deviation root_mean_square scaling_from_plain",
    "targets.datasets": "SplitPolicy build_target constant generator make_dataset",
    "targets.encoding": "TableCode code_of",
    "targets.functions": "GIVEN_POINTS NAMED SPECIAL feynman_formulas formula_target named_formula peaks_formula",
    "targets.table_file": "TableLimits check_output is_parquet",
    "targets.table_targets": "classes_of planar_points",
    "targets.tables": "lenient_numbers read_inputs read_values",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kanrun.targets' has no attribute {name!r}")
    return getattr(import_module(f"kanrun.{_MODULES[name]}"), name)
