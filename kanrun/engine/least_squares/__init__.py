"""Nonlinear least squares: structured rows of Jacobians and penalties."""

from kanrun.engine.least_squares.rows import DenseRows, LocalRows, Rows, StreamedRows

__all__ = ["DenseRows", "LocalRows", "Rows", "StreamedRows"]
