"""Settings of `kanrun compare-mlp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from kanrun.config import (
    DISTINCT,
    IMPLIED_TARGETS,
    INCREASING,
    MISSING,
    Count,
    Natural,
    NonEmpty,
    Positive,
    TrainingConfig,
    copied,
    experiment,
)


@experiment(
    "compare-mlp",
    "Compare KANs with MLPs of the same parameters or FLOPs.",
    examples=(
        "kanrun compare-mlp",
        "kanrun compare-mlp match=flops",
        "kanrun compare-mlp 'target.formula=x0*sin(x1)' 'model.hidden=[2]'",
        "kanrun compare-mlp target.path=houses.csv 'target.inputs=[rooms]' target.outputs=price",
        "kanrun compare-mlp study=no_activation",
    ),
    implied=IMPLIED_TARGETS,
    figures=(
        "pareto",
        "scaling",
        "growth",
        "widths",
        "errors",
        "differences",
        "variants",
    ),
)
@dataclass
class CompareMLPConfig(TrainingConfig):
    """`kanrun compare-mlp`.

    A case is {target: ..., shapes: [[1], [5]], sampling: ...}. `shapes` lists the hidden widths of
    its KANs, and `sampling` has differences from the setting `sampling`. If `target` is set, it is
    the only case, and `model.hidden` its only shape. Each schedule of `grids` gives one KAN. The
    MLPs that are compared with it match its size on its last grid.
    """

    target: Annotated[Any, "the only target, instead of cases"] = None
    comparison: Annotated[
        Literal[
            "matched",
            "universal_approximation",
            "kolmogorov_arnold",
            "no_activation",
            "implementation_tricks",
        ],
        "comparison to run, which reads some of the settings below",
    ] = "matched"
    cases: Annotated[list[Any], "targets with the shapes of their KANs"] = MISSING
    grids: Annotated[
        NonEmpty[Annotated[NonEmpty[Count], INCREASING]],
        "schedules of grids, one KAN for each",
        DISTINCT,
    ] = copied([[5], [5, 10, 20]])
    match: Annotated[Literal["parameters", "flops"], "quantity that MLPs share with the KAN"] = (
        "parameters"
    )
    depths: Annotated[NonEmpty[Natural], "hidden layers of the MLPs"] = copied([1, 2])
    activations: Annotated[NonEmpty[str], "activations of the MLPs"] = copied(["tanh", "silu"])
    widths: Annotated[list[Count], "widths of further MLPs"] = copied([])
    errors: Annotated[list[Positive], "relative errors to reach in universal_approximation"] = (
        copied([])
    )
