"""Update of a trained model with new rows by pseudo-rehearsal.

The old rows are not needed. Instead, the model's outputs at stored inputs of the training serve as
additional rows; each is weighted by the number of old rows that it represents. For a model that is
linear in its unknowns, such as a KAN without hidden layers, the result is the least-squares fit of
all rows together.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.engine.training import Objective, Plan, Samples, Solver, Task
from kanrun.errors import InvalidData, UsageError
from kanrun.model.prediction import (
    departure_counts,
    departure_warnings,
    departures,
    label_text,
    network_outputs,
    training_sample,
)
from kanrun.model.trained import TrainedNetwork
from kanrun.points import Array
from kanrun.targets import Data, as_array, as_numbers, input_rows

Kind = TypeVar("Kind", bound=TrainedNetwork)
#: Largest number of steps of an update. More steps fit the new rows better and take more time.
MAX_STEPS = 100
#: Relative decrease of the objective by one step below which an update ends. A smaller value takes
#: more steps.
MIN_GAIN = 1e-4


def update_model(model: Kind, x: Data, y: Data) -> Kind:
    """Return the model after training on new rows; see `Model.update`."""
    if hasattr(model.network, "derivatives"):
        raise UsageError("A solution of kanrun solve has no rows. Solve the equation again.")
    if model.family:
        raise UsageError(
            f"A model of {model.outputs[0]} by a family of distributions is not updated by least "
            "squares. Fit all rows again."
        )
    rows, _ = input_rows(x, model.inputs, model.code)
    added = Samples(torch.as_tensor(model.input_scaling.apply(rows)), _outputs(model, y, len(rows)))
    old, counts = remembered(model)
    network = model.network.plain().double()
    unknowns = network.get_unknowns().numel()
    if unknowns > len(old) + len(rows):
        raise UsageError(
            f"The network has {unknowns} unknowns, which {len(old)} remembered and "
            f"{len(rows)} new rows do not determine. Fit a smaller one, such as model=kan "
            "hidden=[3]."
        )
    unlike = departure_counts(departures(model, rows, network_outputs(model, rows)))
    if outside := departure_warnings(model, unlike, len(rows)):
        warnings.warn("; ".join(outside), UserWarning, stacklevel=3)
    _train(network, added, torch.as_tensor(model.input_scaling.apply(old)), counts, model.classes)
    ends = [model.domain[:, 0], model.domain[:, 1], *rows]
    columns = np.concatenate([old, rows]).T
    inputs = {f"input:{name}": values for name, values in zip(model.inputs, columns, strict=True)}
    return replace(
        model,
        network=network.to(next(model.network.parameters()).dtype),
        domain=np.stack([np.min(ends, 0), np.max(ends, 0)], 1),
        errors=None,
        widening=None,
        gaps=tuple(
            np.array([gap for gap in gaps if not ((gap[0] < value) & (value < gap[1])).any()])
            for gaps, value in zip(model.gaps, rows.T, strict=False)
        ),
        tables={"memory": pd.DataFrame({**inputs, "rows": [*counts, *np.ones(len(rows))]})},
    )


def remembered(model: TrainedNetwork) -> tuple[Array, Array]:
    """Return stored inputs (rows, inputs), encoded, and the number of old rows each represents."""
    inputs = training_sample(model)
    tables = model.tables
    if "memory" in tables:
        return inputs, tables["memory"]["rows"].to_numpy(dtype=np.float64)
    learned = tables["summary"]["train_points"].iloc[0] if "summary" in tables else len(inputs)
    return inputs, np.full(len(inputs), learned / len(inputs))


def _outputs(model: TrainedNetwork, y: Data, count: int) -> Tensor:
    """Convert `y` to outputs in the units of the network (count, outputs), or to class indices.

    Class indices have the shape (count, 1). Raises InvalidData for an unknown class or a wrong
    number of values.
    """
    if model.classes:
        labels = [label_text(label) for label in as_array(y, "y").ravel()]
        indices = {label_text(name): number for number, name in enumerate(model.classes)}
        if new := [label for label in labels if label not in indices]:
            raise InvalidData(
                f"y has the label {new[0]!r}, and the classes of the model are "
                f"{', '.join(model.classes)}. Fit a new model for more classes."
            )
        values = np.array([indices[label] for label in labels], dtype=np.float64)
    else:
        values = as_numbers(y, "y")
    width = 1 if model.classes else len(model.outputs)
    if values.size != count * width:
        raise InvalidData(f"y has {values.size} values, and x {count} rows for {width} each.")
    values = values.reshape(count, width)
    return torch.as_tensor(values if model.classes else model.output_scaling.apply(values))


def _train(network: Network, given: Samples, known: Tensor, counts: Array, classes: Any) -> None:
    """Train `network` in place on the samples `given` and on its old outputs at the inputs `known`.

    Each of the `known` inputs represents the number of old rows in `counts`.
    """
    task: Task = "classification" if classes else "regression"
    plan = Plan("lbfgs" if classes else "lm")
    objective = Objective(given, 1.0, task).rehearsing(network, known, torch.tensor(counts))
    solver: Solver = plan.settings.create(network, objective, plan, torch.Generator())
    for _ in range(MAX_STEPS):
        before = solver.loss
        if solver.step() > (1 - MIN_GAIN) * before or solver.converged:
            break
