"""Nonlinear least squares: the one Levenberg-Marquardt, the problems that it solves, and rows of their Jacobians."""

from kanrun.engine.least_squares.levenberg_marquardt import State, begin, minimise, step
from kanrun.engine.least_squares.lm_policy import LMPolicy, Stopping
from kanrun.engine.least_squares.problem import Linearisation, Problem
from kanrun.engine.least_squares.rows import DenseRows, LocalRows, Rows, StackedRows, StreamedRows

__all__ = [
    "DenseRows",
    "LMPolicy",
    "Linearisation",
    "LocalRows",
    "Problem",
    "Rows",
    "StackedRows",
    "State",
    "Stopping",
    "StreamedRows",
    "begin",
    "minimise",
    "step",
]
