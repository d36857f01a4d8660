"""Points of the plane in the order of a curve: two columns of the user's file, or kanrun's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanrun.config import PointsTarget
from kanrun.errors import UsageError
from kanrun.targets.data import Array
from kanrun.targets.table_columns import is_number
from kanrun.targets.tables import columns_of, read_inputs


@dataclass(frozen=True, eq=False)
class PlanarPoints:
    """Points (N, 2) and, where the user gave them, their parameters (N)."""

    points: Array
    parameters: Array | None


def planar_points(config: PointsTarget) -> PlanarPoints:
    """The points that the settings name.

    Raises UsageError for a file that is not a table, for columns that are not there or hold anything but
    finite numbers, and where no two columns of numbers are found.
    """
    if config.path is None:
        if config.columns is not None or config.parameter is not None:
            raise UsageError("target.columns and target.parameter are columns of a file; give target.path too.")
        return PlanarPoints(_own_points(), None)
    columns = list(config.columns) if config.columns is not None else _found_columns(config.path)
    if len(columns) != 2:
        raise UsageError(f"target.columns={columns} must name two columns, such as target.columns=[x,y].")
    wanted = columns if config.parameter is None else [*columns, config.parameter]
    numbers = read_inputs(config.path, wanted)
    return PlanarPoints(numbers[:, :2], numbers[:, 2] if config.parameter is not None else None)


def _found_columns(path: str) -> Sequence[str]:
    """x and y where both are there, else the first two columns that hold numbers."""
    columns = columns_of(path)
    names = list(columns)
    if all(is_number(name) for name in names):
        raise UsageError(
            f"{path} begins with numbers ({', '.join(names[:4])}); name its columns in a first row, as x,y."
        )
    if {"x", "y"} <= columns.keys():
        return ["x", "y"]
    numeric = [name for name, holds_numbers in columns.items() if holds_numbers]
    if len(numeric) < 2:
        raise UsageError(
            f"{path} has {len(numeric)} columns of numbers among {', '.join(names[:20])}; a curve needs two."
        )
    return numeric[:2]


def _own_points() -> Array:
    """24 points, unevenly apart, of a spiral of two turns, which is the graph of no function."""
    angle = np.linspace(0.0, 4 * np.pi, 24) + 0.2 * np.sin(5 * np.arange(24))
    radius = 0.4 + 0.2 * angle
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
