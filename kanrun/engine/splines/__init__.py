"""B-splines as pure functions, tensor to tensor: knots, local basis, contraction, least squares, knot insertion."""

from kanrun.engine.splines.basis_products import dense_rows, prefers_sparse
from kanrun.engine.splines.insertion import contains, insert_knots
from kanrun.engine.splines.knots import (
    Extrapolation,
    Grid,
    breakpoints_from_data,
    breakpoints_of,
    breakpoints_within,
    equally_spaced,
    extend,
    find_interval,
    largest_but_rare,
    rare_samples,
    subdivide,
    uniform_breakpoints,
)
from kanrun.engine.splines.least_squares import (
    design_matrix,
    fit_coefficients,
    greville,
    sample_points,
    spline_values,
)
from kanrun.engine.splines.local_basis import local_basis
