"""Targets of learning: functions, formulas and tables, and the points drawn from them.

Nothing here loads torch. Functions and formulas, which load sympy, are in `functions`.
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
    Dataset,
    Target,
    build_target,
    check_gaussian,
    constant,
    generator,
    make_dataset,
)
from kanrun.targets.encoding import TableCode, column_kinds, read_inputs
from kanrun.targets.table_files import (
    check_output,
    column_names,
    is_parquet,
    read_blocks,
    read_table,
)
from kanrun.targets.table_targets import planar_points
from kanrun.targets.table_text import TableLimits

#: Formulas on [-1, 1] in each variable. Sources: C. Runge, Z. Math. Phys. 46 (1901) for the last;
#: Liu et al., arXiv 2404.19756, section 3.1 for the others.
NAMED: dict[str, str] = {
    "exp_sin_square": "exp(sin(pi*x0) + x1^2)",  # [2,1,1] represents it exactly
    "bessel_j0": "j0(20*x0)",  # a dozen oscillations
    "product": "x0*x1",  # [2,2,1] represents it exactly
    # [100,1,1]
    "mean_sin_square_100d": f"exp(({'+'.join(f'sin(pi*x{i}/2)^2' for i in range(100))})/100)",
    # This formula has depth three, [4,2,1,1].
    "nested_4d": "exp((sin(pi*(x0^2 + x1^2)) + sin(pi*(x2^2 + x3^2)))/2)",
    "runge": "1/(1 + 25*x0^2)",  # polynomials through evenly spaced points diverge on it
}
