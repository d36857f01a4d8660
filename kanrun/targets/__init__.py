"""Targets to learn (functions, formulas and tables), and the points drawn from them.

No module of this package imports torch. Only `functions` imports sympy.
"""

from kanrun.points import (
    PiecewiseScaling,
    Points,
    Scaling,
    deviation,
    root_mean_square,
)
from kanrun.targets.arrays import (
    Data,
    array_target,
    as_array,
    as_numbers,
    frame_columns,
    input_rows,
    is_frame,
)
from kanrun.targets.datasets import (
    NAMED,
    Dataset,
    Target,
    build_target,
    check_gaussian,
    constant,
    generator,
    make_dataset,
)
from kanrun.targets.encoding import TableCode, read_inputs
from kanrun.targets.table_files import TableFile, TableLimits, column_names, is_parquet
from kanrun.targets.table_output import check_output
from kanrun.targets.table_targets import planar_points
