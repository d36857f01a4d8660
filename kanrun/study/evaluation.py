"""Records of a training run: rows for each step and grid, scores, tables, and models.

Scores and predictions are in the units of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import Series

from kanrun.engine.least_squares import CG_MAX_ITERATIONS, MATRIX_UNKNOWNS
from kanrun.engine.networks import Network
from kanrun.engine.training import (
    Errors,
    Samples,
    SmoothnessPenalty,
    Stage,
    Step,
    Trained,
    degrees_of_freedom,
    mean_loss,
    predict,
)
from kanrun.model.model import MOST_POINTS, Model, edge_columns
from kanrun.model.planning import LearningProblem
from kanrun.model.trained import in_numpy, predicted_values, to_checkpoint
from kanrun.points import Array, deviation, predicted_classes, root_mean_square
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Note, Records, Table, Value
from kanrun.targets.datasets import Dataset, constant

#: Largest number of parameters for which the effective degrees of freedom are computed. The time
#: grows with the cube of this number.
MOST_UNKNOWNS = 1500
#: Largest number of entries of the Jacobian for which the effective degrees of freedom are
#: computed, at 8 bytes each. A larger number needs more memory.
MOST_NUMBERS = 20_000_000
#: Largest number of classes whose recall is listed; further classes are counted.
MAX_LISTED = 8
#: Number of points along each axis of the grid on which predictions are drawn, by number of inputs.
POINTS_PER_SIDE = {1: 400, 2: 61}


def scores(network: Network, problem: LearningProblem) -> dict[str, Value]:
    """Return scores on the test points, by column name.

    For numbers these are the maximum error and R^2. For classes they are the accuracy, the
    cross-entropy and the columns of `class_scores`. Without test points, all scores are None.
    """
    points = problem.dataset.test
    samples = problem.data.test
    measured: dict[str, Value] = {"test_max_error": None, "r2": None}
    if points is None or samples is None or not len(points):
        return measured
    predicted = predicted_values(model_of(network, problem), points.x)
    if problem.dataset.classes:
        target = problem.dataset.target
        guess = predicted_classes(predicted, target.threshold)
        right = np.average(guess == points.y[:, 0], weights=points.weights)
        loss = mean_loss(predict(network, samples.x), samples, "classification", 1.0)
        more = class_scores(points.y[:, 0], predicted, guess, target.classes or (), "test")
        accuracy = {"test_accuracy": float(right), "test_cross_entropy": float(loss)}
        return {**measured, **accuracy, **more}
    difference = predicted - points.y
    r2 = r_squared(difference, points.y, points.weights)
    return {"test_max_error": float(np.abs(difference).max()), "r2": r2}


def class_scores(
    y: NDArray[np.float64],
    probabilities: Array,
    guess: NDArray[np.intp],
    classes: Sequence[str],
    prefix: str,
) -> dict[str, Value]:
    """Return the columns of a summary that score predicted classes.

    Args:
        y: Numbers of the true classes, from 0, shape (rows,).
        probabilities: Predicted probabilities, shape (rows, classes).
        guess: Numbers of the predicted classes, shape (rows,).
        classes: Labels of the classes.
        prefix: Beginning of the column names: `test` for test rows, `cv` for held-out rows.

    Returns:
        Values by column name. `PREFIX_auc` is the area under the ROC curve. With more than two
        classes, it is the mean of the areas of each class against all others; None if only one
        class occurs. `PREFIX_recall` is text with the recall of each class: the fraction of its
        rows that are predicted correctly. `largest_class` is the fraction of rows in the largest
        class: the accuracy of always predicting that class.
    """
    counts = np.bincount(y.astype(int), minlength=len(classes))
    present = np.flatnonzero(counts).tolist()
    recall = {classes[k]: float((guess[y == k] == k).mean()) for k in present}
    drawn = present[-1:] if len(classes) == 2 else present
    areas = [area_under_curve(y == k, probabilities[:, k]) for k in drawn]
    listed = ", ".join(f"{name} {share:.3g}" for name, share in [*recall.items()][:MAX_LISTED])
    more = len(recall) - MAX_LISTED
    return {
        f"{prefix}_auc": float(np.mean(areas)) if len(present) > 1 else None,
        f"{prefix}_recall": listed + f", and {more} more" * (more > 0),
        "largest_class": float(counts.max() / max(1, len(y))),
    }


def area_under_curve(hit: NDArray[np.bool_], score: Array) -> float:
    """Return the area under the ROC curve of `score` for the rows where `hit` is true.

    The area is the probability that a random row with `hit` has a higher score than a random row
    without; equal scores count one half (Mann and Whitney, 1947). Return NaN if `hit` is the same
    for all rows. Both arguments have the shape (rows,).
    """
    hits = int(hit.sum())
    misses = int((~hit).sum())
    if not hits or not misses:
        return float("nan")
    ranks = Series(score).rank().to_numpy()
    return float((ranks[hit].sum() - hits * (hits + 1) / 2) / (hits * misses))


def unpredicted_classes(
    y: NDArray[np.float64], guess: NDArray[np.intp], classes: Sequence[str], rows: str
) -> Iterator[Note]:
    """Yield a warning for each class that occurs in `y` but is predicted for no row.

    `rows` describes the rows in the warning, such as "test rows".
    """
    for number in np.unique(y.astype(int)):
        if not (guess == number).any():
            count = int((y == number).sum())
            yield Note(
                f"the class {classes[number]}, which {count} of {len(y)} {rows} have, is predicted "
                "for none of them: its probability is always too low",
                warning=True,
            )


def r_squared(difference: Array, y: Array, weights: Array | None = None) -> float | None:
    """Return 1 - mean squared difference / variance of y (rows, outputs); None if y is constant."""
    spread = _deviation(y, weights)
    return None if spread is None else 1 - (_rms(difference, weights) / spread) ** 2


def _deviation(y: Array, weights: Array | None) -> float | None:
    """Return the standard deviation of y over rows and outputs; None if y is constant."""
    return None if constant(y).all() else float(root_mean_square(deviation(y, weights)))


def _rms(values: Array, weights: Array | None) -> float:
    """Return the root mean square of `values` over rows and outputs."""
    return float(root_mean_square(root_mean_square(values, weights)))


def relative_error(error: float | None, dataset: Dataset) -> float | None:
    """Return an RMSE divided by the standard deviation of the training outputs.

    Predicting the mean gives 1, whatever the unit of the outputs. Summaries pass the RMSE on the
    test points; if there are none, that on the validation or held-out points. Return None if the
    outputs are constant or are classes.
    """
    if error is None or dataset.classes:
        return None
    spread = _deviation(dataset.train.y, dataset.train.weights)
    return None if spread is None else error / spread


def doubts(r2: Value, points: str) -> Iterator[Note]:
    """Yield a warning if R^2 is undefined (constant outputs) or negative (worse than the mean)."""
    if r2 is None:
        yield Note(f"R^2 is undefined: the outputs of the {points} are constant", warning=True)
    elif isinstance(r2, float) and not r2 >= 0:
        yield Note(
            f"R^2 on the {points} is {r2:.3g}: predicting the mean would be more accurate",
            warning=True,
        )


def truncation_notes(trained: Trained) -> Iterator[Note]:
    """Yield a warning if conjugate gradients did not reach their tolerance in some steps."""
    if truncated := sum(stage.truncated for stage in trained.stages):
        yield Note(
            f"{truncated} of {sum(stage.steps for stage in trained.stages)} steps are approximate: "
            f"for more than {MATRIX_UNKNOWNS} parameters they come from at most "
            f"{CG_MAX_ITERATIONS} iterations of conjugate gradients",
            warning=True,
        )


def effective_parameters(
    network: Network, problem: LearningProblem, penalty: SmoothnessPenalty
) -> float | None:
    """Return the effective degrees of freedom: how many parameters the training points determine.

    Return None for classes, or if the matrices would be too large.
    """
    samples = problem.data.everything
    unknowns = network.get_unknowns().numel()
    is_large = unknowns > MOST_UNKNOWNS or unknowns * len(samples) * problem.outputs > MOST_NUMBERS
    if problem.dataset.classes or is_large:
        return None
    return degrees_of_freedom(network, samples, penalty)[1]


def linear_rmse(problem: LearningProblem) -> float | None:
    """Return the test RMSE of ordinary least squares on the same training points, as a baseline.

    Return None if there are no test points, or if the outputs are classes.
    """
    points = problem.dataset.test
    known = problem.data.everything
    test = problem.data.test
    if points is None or test is None or not len(points) or problem.dataset.classes:
        return None

    def rows(samples: Samples) -> Array:
        return np.pad(in_numpy(samples.x), ((0, 0), (0, 1)), constant_values=1)

    roots = np.ones((1, 1)) if known.roots is None else in_numpy(known.roots)
    y, unseen = (in_numpy(samples.y) for samples in (known, test))
    solution, *_ = np.linalg.lstsq(rows(known) * roots, y * roots, rcond=None)
    difference = (rows(test) @ solution - unseen) * problem.dataset.output_scaling.scale
    return _rms(difference, points.weights)


def model_records(
    network: Network, problem: LearningProblem, summary: dict[str, Any], seed: int, **learned: Any
) -> Records:
    """Yield the tables `predictions` and `edges` of a trained network, and its checkpoint.

    Predictions are made on the points of each split and, if there are one or two inputs, on a grid.
    The table `edges` is omitted for networks without edge functions. The name of the checkpoint
    consists of target, shape, number of training points and seed. `learned` holds further fields of
    `Model`: errors, widening, gaps and family.
    """
    model = model_of(network, problem, seed, **learned)
    dataset = problem.dataset
    parts: list[tuple[str, Array, Array]] = [
        (name, points.x[:MOST_POINTS], points.y[:MOST_POINTS])
        for name in ("train", "validation", "test")
        if (points := getattr(dataset, name)) is not None and len(points)
    ]
    if len(model.domain) in POINTS_PER_SIDE:
        low, high = model.domain.T
        sides = np.linspace(low, high, POINTS_PER_SIDE[len(low)], axis=1)
        grid = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(low))
        unknown = np.full((len(grid), len(model.outputs)), np.nan)
        function = dataset.target.function
        parts.append(("grid", grid, function(grid) if function else unknown))
    inputs, truth = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[1:])
    columns: dict[str, Any] = {"split": [name for name, x, _ in parts for _ in x]}
    columns |= {f"input:{name}": inputs[:, i] for i, name in enumerate(model.inputs)}
    predicted = predicted_values(model, inputs)
    columns |= judged_columns(model.outputs, model.classes, truth, predicted, model.threshold)
    yield Table("predictions", columns)
    if network.products:
        names = model.inputs, model.classes or model.outputs
        x = problem.data.train.x[:MOST_POINTS]
        invert = model.input_scaling.invert
        yield Table("edges", edge_columns(network, x, *names, invert))
    name = f"{summary['target']}-{summary['shape']}-{summary['train_points']}-seed{seed}"
    yield to_checkpoint(name, model)


def judged_columns(
    outputs: Sequence[str],
    classes: Sequence[str] | None,
    truth: Array,
    predicted: Array,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """Return columns with the true and the predicted values of each output.

    For numbers, `truth` and `predicted` have the shape (rows, outputs). For classes, `truth` holds
    class numbers (rows, 1) and `predicted` probabilities (rows, classes); the columns then hold the
    true and the predicted label. With two classes, the second is predicted if its probability
    exceeds `threshold`. An unknown class (NaN) becomes None.
    """
    columns: dict[str, Any] = {}
    if classes:
        predicted = predicted_classes(predicted, threshold)[:, None].astype(float)
        labels = np.array([*classes, None], dtype=object)
        truth, predicted = (
            labels[np.nan_to_num(numbers, nan=-1).astype(int)] for numbers in (truth, predicted)
        )
    for o, name in enumerate(outputs):
        columns |= {f"truth:{name}": truth[:, o], f"prediction:{name}": predicted[:, o]}
    return columns


#: Columns of the table `stages` that are omitted from the table `growth`.
ONLY_STAGES = {"stage", "penalty", "carried_by", "function_change", "error_before", "error_after"}


def step_row(step: Step) -> dict[str, Value]:
    """Return the row of a step: its number and grid, the errors after it, and seconds so far."""
    place: dict[str, Value] = {"stage": step.stage, "step": step.step, "intervals": step.intervals}
    return {**place, **errors_by_split(step.errors), "seconds": step.seconds}


def stage_row(stage: Stage) -> dict[str, Value]:
    """Return the row of a stage, which is the training on one grid.

    It includes the errors before and after the function was transferred to this grid.
    """
    return {
        "stage": stage.stage,
        "intervals": stage.intervals,
        "parameters": stage.network.count(),
        **errors_by_split(stage.errors),
        "penalty": stage.penalty.weight,
        "carried_by": stage.transfer.method,
        "function_change": stage.transfer.error,
        "error_before": stage.transfer.before,
        "error_after": stage.transfer.after,
        "steps": stage.steps,
        "seconds": stage.seconds,
    }


def growth_row(stage: Stage) -> dict[str, Value]:
    """Return the row of a shape that a growing network tried: its grid, size, errors and steps."""
    row = {name: value for name, value in stage_row(stage).items() if name not in ONLY_STAGES}
    return {"shape": stage.network.shape_text, **row}


def errors_by_split(errors: Errors) -> dict[str, Value]:
    """Return the RMSE of each split by column name, such as `train_rmse`."""
    names = ("train", "validation", "test")
    return {f"{name}_rmse": getattr(errors, name) for name in names}


#: Largest number of values stored for one slider; a larger slider is left out. A larger number
#: makes larger lessons.
MOST_SLIDER_NUMBERS = 100_000
#: Largest number of test points of one slider. More points show more detail and make larger
#: lessons.
MOST_SLIDER_POINTS = 300


@dataclass(frozen=True)
class Slider:
    """Models that the lesson shows under one slider, one per label, with common test points (x, y).

    `slider` names what the slider changes, such as the grid.
    """

    slider: str
    labels: tuple[str, ...]
    models: tuple[Model, ...]
    x: Array
    y: Array


def model_of(network: Network, problem: LearningProblem, seed: int = 0, **learned: Any) -> Model:
    """Return `network` as a model, with all data that prediction needs, such as the scalings.

    `learned` holds further fields of `Model`.
    """
    dataset = problem.dataset
    target = problem.dataset.target
    return Model(
        network,
        target.inputs,
        target.outputs,
        target.domain,
        dataset.input_scaling,
        dataset.output_scaling,
        dataset.classes,
        seed,
        target.code,
        threshold=target.threshold,
        **learned,
    )


def slider_checkpoint(
    problem: LearningProblem, networks: Mapping[str, Network], slider: str, seed: int
) -> Iterator[Checkpoint]:
    """Yield a checkpoint of the KANs that the lesson shows under one slider, with test points.

    `networks` maps the labels of the slider to the networks. Yield nothing if a network is not a
    KAN, or if more than MOST_SLIDER_NUMBERS values would be stored.
    """
    points = problem.dataset.test or problem.dataset.train
    some = slice(None, None, max(1, -(-len(points.x) // MOST_SLIDER_POINTS)))
    models = tuple(model_of(network, problem, seed) for network in networks.values())
    shown = Slider(slider, tuple(networks), models, points.x[some], points.y[some])
    stored = to_checkpoint(f"{slider}s-seed{seed}-stages", shown)
    is_small = sum(array.size for array in stored.arrays.values()) <= MOST_SLIDER_NUMBERS
    if is_small and all(network.edge_layers for network in networks.values()):
        yield stored
