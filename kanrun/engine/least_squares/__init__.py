"""Nonlinear least squares.

The one Levenberg-Marquardt, its problems, and rows of their Jacobians.
"""

from kanrun.engine.least_squares.least_squares_problem import (
    DenseRows,
    Linearisation,
    LocalRows,
    Problem,
    Rows,
    StackedRows,
)
from kanrun.engine.least_squares.levenberg_marquardt import (
    LMPolicy,
    NormalEquations,
    State,
    StoppingCriteria,
    begin,
    minimise,
    step,
)
