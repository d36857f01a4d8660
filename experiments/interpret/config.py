"""Settings of `kanrun interpret`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from kanrun.config import (
    FREE_TEXT,
    IMPLIED_TARGETS,
    MISSING,
    ExperimentConfig,
    NonNegative,
    Positive,
    SamplingConfig,
    copied,
    experiment,
)


@experiment(
    "interpret",
    "Find the formula behind a function or a table, and verify it.",
    examples=(
        "kanrun interpret",
        "kanrun interpret 'target.formula=x0*log(x1)' 'target.domain=[[0,1],[0.2,2]]'",
        "kanrun interpret 'candidates=[sin,exp,x^2]' 'custom_candidates.bump=1/(1+x0^2)'",
        "kanrun interpret from_run=fit/latest",
        "kanrun interpret study=one_variable n_jobs=2",
    ),
    implied=IMPLIED_TARGETS,
    figures=("predictions", "residuals", "stages", "network", "candidates"),
)
@dataclass
class InterpretConfig(ExperimentConfig):
    """`kanrun interpret`."""

    target: Annotated[Any, "function or table to interpret"] = MISSING
    sampling: Annotated[SamplingConfig, "points of the target"] = copied(SamplingConfig())
    from_run: Annotated[
        str | None,
        "run of kanrun fit whose target, sampling and network are interpreted",
        FREE_TEXT,
    ] = None
    candidates: Annotated[
        list[str] | None,
        "names of the functions an edge may become; null allows all built-in functions",
        FREE_TEXT,
    ] = None
    custom_candidates: Annotated[
        dict[str, str], "additional functions of x0, by name", FREE_TEXT
    ] = copied({})
    error_tolerance: Annotated[
        NonNegative, "relative increase of the network's error that a formula may cause"
    ] = 0.1
    budget: Annotated[
        Positive, "counted work for each output, in approximate CPU seconds of one core"
    ] = 60.0
    suite: Annotated[
        list[Any],
        "cells, each as differences from the rest of the configuration",
    ] = copied([])
