"""Settings of `kanrun fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from kanrun.config import IMPLIED_TARGETS, Natural, TrainingConfig, copied, experiment


@experiment(
    "fit",
    "Train a model on a function, a formula or a table.",
    examples=(
        "kanrun fit",
        "kanrun fit n_seeds=5 'model.hidden=[1]' sampling.n_train=3000",
        "kanrun fit 'target.formula=exp(-x0)*sin(3*x1)' 'target.domain=[[-1,1],[0,2]]'",
        "kanrun fit target.path=houses.csv 'target.inputs=[rooms,area (m2)]' target.outputs=price",
        "kanrun fit study=toy_suite",
        "kanrun fit -m model.degree=2,3,4",
    ),
    table_model="auto",
    implied=IMPLIED_TARGETS,
    figures=(
        "effects",
        "pair_maps",
        "loss",
        "growth",
        "predictions",
        "residuals",
        "class_curves",
        "edges",
        "network",
    ),
)
@dataclass
class FitConfig(TrainingConfig):
    """`kanrun fit`."""

    extra_points: Annotated[
        Natural | None,
        "maximum number of points of a function that join the training points where the trained "
        "network errs most; null is 1000 for a growing KAN if sampling.n_train is null and "
        "sampling.noise is 0, and else 0",
    ] = None
    suite: Annotated[list[Any], "cells, each as differences from the rest of the configuration"] = (
        copied([])
    )
