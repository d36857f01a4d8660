"""Targets and their points: what is to be learned, in the user's units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kanrun.points import Array, PiecewiseScaling, Points, Scaling

if TYPE_CHECKING:
    import sympy

    from kanrun.targets.encoding import TableCode


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be learned: a function, or points without a truth between them.

    `domain` is (d, 2): lower and upper end of each input. `function` maps (N, d) to (N, m); `expression` is in
    x0, x1, ... (the inputs in their order) where a formula is known. Without a function, `points` are all that is
    known; those of a table (`is_table`) are split into training and test rows and standardised by the training rows.
    For a classification y is one column with the class index, and `classes` are the labels in that order.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    expression: sympy.Expr | None = None
    function: Callable[[Array], Array] | None = None
    points: Points | None = None
    test: Points | None = None  # of a table whose test rows have a file of their own
    is_table: bool = False
    classes: tuple[str, ...] | None = None
    code: TableCode | None = (
        None  # how the inputs are made of a table's columns, where these are not plain numbers
    )
    notes: tuple[str, ...] = ()  # what to say of a table that was read


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points to train on, to select on and to report on, all in the user's units.

    `train` excludes `validation`. Only `train` and a function's domain determine the scalings, which are the identity
    for functions of ordinary size. `notes` are sentences for the user.
    """

    target: Target
    train: Points
    validation: Points | None
    test: Points | None
    input_scaling: Scaling | PiecewiseScaling
    output_scaling: Scaling | PiecewiseScaling
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The labels of a classification."""
        return self.target.classes

    @property
    def task(self) -> str:
        """ "regression" or "classification"."""
        return "regression" if self.target.classes is None else "classification"
