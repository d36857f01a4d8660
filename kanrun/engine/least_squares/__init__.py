"""Nonlinear least squares: the one Levenberg-Marquardt, the problems that it solves, and rows of their Jacobians."""

from kanrun.engine.least_squares.levenberg_marquardt import State, begin, minimise, step
from kanrun.engine.least_squares.problem import (
    DenseRows,
    Linearisation,
    LMPolicy,
    LocalRows,
    Problem,
    Rows,
    StackedRows,
    Stopping,
    StreamedRows,
)
