"""B-splines as pure functions of tensors.

The module `knots` defines grids, `basis` computes basis functions and their derivatives, `products`
computes sums of splines, and `fitting` fits splines and transfers them to other grids.
"""

from kanrun.engine.splines.basis import (
    UNIFORM_MATRIX_DEGREE,
    Place,
    local_basis,
    local_basis_at,
    locate,
    pull_back,
)
from kanrun.engine.splines.fitting import (
    carry_coefficients,
    design_matrix,
    difference_bands,
    difference_columns,
    difference_operator,
    fit_coefficients,
    insert_knots,
    sample_points,
)
from kanrun.engine.splines.knots import (
    Batch,
    Breakpoints,
    Extrapolation,
    Grid,
    Inputs,
    breakpoints_from_data,
    equally_spaced,
    extend,
    find_interval,
    is_traced,
    largest_but_rare,
    mixed_breakpoints,
    redivide,
    uniform_breakpoints,
)
from kanrun.engine.splines.products import (
    dense_rows,
    fused_sums,
    fuses,
    prefers_sparse,
    spline_values,
    splines_of_edges,
    sums_of_splines,
    table_index,
)
