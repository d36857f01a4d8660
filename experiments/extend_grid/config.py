"""Settings of `kanrun extend-grid`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from kanrun.config import (
    DISTINCT,
    IMPLIED_TARGETS,
    MISSING,
    Count,
    NonEmpty,
    TrainingConfig,
    copied,
    experiment,
)

GridPart = Literal["schedules", "scratch", "order", "overfit"]


@experiment(
    "extend-grid",
    "Train on finer and finer grids, and measure the convergence.",
    examples=(
        "kanrun extend-grid",
        "kanrun extend-grid study=paper",
        "kanrun extend-grid 'parts=[order]' 'degrees=[2,3]'",
    ),
    implied=IMPLIED_TARGETS,
    figures=("staircase", "error_against_intervals", "order", "overfit"),
)
@dataclass
class ExtendGridConfig(TrainingConfig):
    """`kanrun extend-grid`; the schedules take the place of `model.intervals`.

    A schedule is {kind: list, intervals: [3, 5, 10]}, {kind: doubling, first: 3, last: 96, nested:
    true}, or {kind: plateau, ...} with the keys of one of these and, optionally, `patience` and
    `steps`. The grids of the first schedule are also trained from scratch.
    """

    parts: Annotated[NonEmpty[GridPart], "parts to run", DISTINCT] = copied(
        list(get_args(GridPart))
    )
    shapes: Annotated[NonEmpty[list[Count]], "hidden widths, one list per network", DISTINCT] = (
        copied([[1]])
    )
    schedules: Annotated[NonEmpty[Any], "schedules of grids"] = MISSING
    max_parameters: Annotated[int, "maximum number of parameters; finer grids are skipped"] = 4000
    scratch_intervals: Annotated[
        list[int] | None, "grids of the part scratch; null is all of the first schedule", DISTINCT
    ] = None
    degrees: Annotated[list[Count], "degrees of the part order", DISTINCT] = copied([1, 2, 3, 4, 5])
    order_intervals: Annotated[list[int], "grids of the part order"] = copied([12, 24, 48, 96])
    order_first_grid: Annotated[int, "first grid that resolves the target"] = 12
    order_points: Annotated[int, Meta(ge=10), "training points of the part order"] = 3000
    overfit_points: Annotated[int, Meta(ge=10), "training points of the part overfit"] = 200
    overfit_intervals: Annotated[list[int], "grids of the part overfit"] = copied(
        [3, 6, 12, 24, 48, 96]
    )
