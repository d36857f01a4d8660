"""Nonlinear least squares: Levenberg-Marquardt, the interface of problems, and Jacobian rows."""

from kanrun.engine.least_squares.levenberg_marquardt import (
    CG_MAX_ITERATIONS,
    MATRIX_UNKNOWNS,
    Linearisation,
    LMPolicy,
    NormalEquations,
    Problem,
    StoppingCriteria,
    begin,
    minimise,
    step,
)
from kanrun.engine.least_squares.rows import (
    DenseRows,
    ElementRows,
    LocalRows,
    Pattern,
    Rows,
    StackedRows,
    gauss_newton,
)
