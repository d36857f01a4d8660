"""Settings of `kanrun continual`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from kanrun.config import (
    DISTINCT,
    FREE_TEXT,
    IMPLIED_TARGETS,
    MISSING,
    Count,
    ExperimentConfig,
    NonEmpty,
    Positive,
    SamplingConfig,
    copied,
    experiment,
)

ContinualPart = Literal["learners", "intervals", "overlap", "depth"]


@experiment(
    "continual",
    "Learn peak after peak, and measure forgetting.",
    examples=(
        "kanrun continual",
        "kanrun continual study=two_dimensional",
        "kanrun continual peaks=7 spacing=0.3 order=random",
        "kanrun continual target.path=houses.csv target.outputs=price phase_column=year",
    ),
    implied=IMPLIED_TARGETS,
    figures=("phases", "matrices", "forgetting_against_*"),
)
@dataclass
class ContinualConfig(ExperimentConfig):
    """`kanrun continual`: peaks exp(-sharpness |x - c|^2), one for each phase.

    The data of a phase lie in the box around the centre of its peak. If `target` is a table, the
    rows with one value of `phase_column` form a phase, in the order of the values. With `phases`,
    the rows in one range of its values form a phase. Other targets need `phases`, because their
    inputs rarely have the same value twice.

    A learner is {name: ..., kind: kan or mlp, memory: ...}. With `kan`, further keys are
    differences from `model`. With `mlp`, they are settings of an MLP, such as its activation, and
    the MLP has about as many parameters as `model`. `memory` is what the learner keeps of earlier
    phases: `none`, `replay`, `rehearse`, `ewc` or `information`.
    """

    model: Annotated[Any, "KAN of the learners"] = MISSING
    solver: Annotated[Any, "training method of each phase"] = MISSING
    target: Annotated[Any, "table or function that is learned in place of the peaks"] = None
    sampling: Annotated[SamplingConfig, "points of a table; all of them are used"] = copied(
        SamplingConfig()
    )
    phase_column: Annotated[
        str | None, "column of the table, or input, that names the phase of each row", FREE_TEXT
    ] = None
    phases: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        "ranges of phase_column with equally many rows; null: a phase for each value",
    ] = None
    peaks: Annotated[int, Meta(ge=1, le=100), "peaks along each axis, around 0"] = 5
    spacing: Annotated[Positive, "distance of the centres, and width of a phase"] = 0.4
    sharpness: Annotated[Positive, "sharpness of the peaks"] = 300.0
    form: Annotated[
        Literal["smooth", "step"],
        "form of the peaks; steps are 1 where the smooth ones exceed 1/2, and else 0",
    ] = "smooth"
    dimension: Annotated[int, Meta(ge=1, le=2), "number of variables"] = 1
    order: Annotated[
        Literal["ascending", "descending", "random"],
        "order of the peaks; random is drawn from the seed",
    ] = "ascending"
    overlap: Annotated[
        float,
        Meta(gt=-1, lt=2),
        "relative widening of a phase: 0 touches its neighbours, 1 reaches their centres",
    ] = 0.0
    points: Annotated[int, Meta(ge=2, le=200000), "evenly spaced points of a phase"] = 100
    evaluation_points: Annotated[
        int, Meta(ge=2, le=200000), "evenly spaced points of the whole domain"
    ] = 500
    trials: Annotated[
        Count, "trials of every learner; the one with the lowest final error on all phases counts"
    ] = 2
    parts: Annotated[NonEmpty[ContinualPart], "parts to run", DISTINCT] = copied(
        list(get_args(ContinualPart))
    )
    learners: Annotated[list[Any], "networks and their memories"] = MISSING
    intervals: Annotated[list[Count], "grids of `model` in the part intervals"] = copied(
        [100, 200, 400]
    )
    overlaps: Annotated[
        list[Annotated[float, Meta(gt=-1, lt=2)]], "overlaps of the part overlap"
    ] = copied([0.0, 0.5, 1.0])
    overlap_learners: Annotated[list[str], "learners of the part overlap"] = copied(
        ["KAN", "MLP tanh"]
    )
    shapes: Annotated[list[list[Count]], "hidden widths of the part depth"] = copied(
        [[], [5], [3, 3]]
    )
    memories: Annotated[list[str], "memories of the part depth"] = copied(["none", "rehearse"])
