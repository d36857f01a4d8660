"""The public class of trained models, which take and return values in the units of the data."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kanrun.errors import InvalidData
from kanrun.model.explanation import ExplainedNetwork
from kanrun.model.prediction import (
    Array,
    departure_counts,
    departure_warnings,
    departures,
    derivative_values,
    in_units,
    interval_bounds,
    label_text,
    network_outputs,
    predicted_values,
    quantile_values,
)
from kanrun.model.trained import from_checkpoint, to_checkpoint
from kanrun.points import predicted_classes
from kanrun.runs.artifacts import read_checkpoint, write_checkpoint
from kanrun.runs.files import write_named_file
from kanrun.targets.table_targets import Data, as_array, as_numbers, input_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Pattern of class labels that are whole numbers.
_WHOLE = re.compile(r"-?\d{1,18}")


class Model(ExplainedNetwork):
    """A trained network with the names and units of its data.

    Its attributes are those of `TrainedNetwork`: `network`, `inputs`, `outputs`, `domain`,
    `classes`, `tables`, `notes` and others. Two models are equal only if they are the same object.

    Examples:
        >>> import numpy as np
        >>> import tempfile
        >>> from kanrun import Model, fit
        >>> length = np.linspace(0.5, 1.5, 60)
        >>> model = fit({"length": length}, 2.006 * np.sqrt(length))
        >>> model
        Model(kan 1-1: length -> y)
        >>> model.predict({"length": [1.0, 1.2]}).round(2)
        array([2.01, 2.2 ])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = Model.load(model.save(f"{folder}/pendulum"))
        >>> bool(again.predict([1.0]) == model.predict([1.0]))
        True
    """

    def __call__(self, x: Data) -> Array:
        """Compute outputs or class probabilities, and warn about samples unlike the training data.

        The warnings count samples outside the training range or in gaps of the training data, and
        predictions that were clipped.

        Args:
            x: Inputs in the units of the data: an array or tensor (samples, inputs), a single point
                (inputs,), or a DataFrame, whose columns are identified by name.

        Returns:
            Outputs, shape (samples, outputs), or for a classifier the class probabilities, shape
            (samples, classes). For a single point, the result has no first axis.

        Raises:
            InvalidData: If columns are missing, the number of columns is wrong, or x contains NaN
                or text in numeric columns.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        raw = network_outputs(self, rows)
        counts = departure_counts(departures(self, rows, raw))
        if departed := departure_warnings(self, counts, len(rows)):
            warnings.warn("; ".join(departed), UserWarning, stacklevel=2)
        values = in_units(self, raw)
        return values[0] if single else values

    def predict(self, x: Data) -> NDArray[Any]:
        """Predict outputs or labels, without warnings.

        Args:
            x: Inputs, as in a call of the model.

        Returns:
            Outputs, shape (samples, outputs), or (samples,) if the model has one output. For a
            classifier, the labels, shape (samples,). For a single point, the result has no first
            axis.

        Raises:
            InvalidData: In the same cases as a call of the model.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        values: NDArray[Any] = predicted_values(self, rows)
        if self.classes:
            labels = [int(c) if _WHOLE.fullmatch(c) else c for c in self.classes]
            values = np.array(labels, dtype=None)[predicted_classes(values, self.threshold)]
        elif values.shape[1] == 1:
            values = values[:, 0]
        return values[0] if single else values

    def interval(self, x: Data, level: float) -> tuple[Array, Array]:
        """Compute a central prediction interval of each output, from the errors of held-out rows.

        Args:
            x: Inputs, as in a call of the model.
            level: Coverage probability, above 0 and at most 0.99.

        Returns:
            Lower and upper bounds in the units of the data, both of shape (samples, outputs). For a
            single point, they have no first axis.

        Raises:
            UsageError: If the model stores no held-out errors, or `level` is out of range.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        low, high = interval_bounds(self, rows, network_outputs(self, rows), level)
        return (low[0], high[0]) if single else (low, high)

    def quantile(self, x: Data, probability: float) -> Array:
        """Compute a quantile of the distribution of each output, from the errors of held-out rows.

        Args:
            x: Inputs, as in a call of the model.
            probability: Probability that the output does not exceed the quantile, from 0.005 to
                0.995.

        Returns:
            The quantiles in the units of the data, shape (samples, outputs). For a single point,
            the result has no first axis.

        Raises:
            UsageError: If the model stores no held-out errors, or `probability` is out of range.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        values = quantile_values(self, rows, network_outputs(self, rows), probability)
        return values[0] if single else values

    def score(self, x: Data, y: Data) -> float:
        """Compute the score of the predictions for `x` against `y`; 1 is the best value.

        The score is R^2, averaged over the outputs. For a classifier, it is the accuracy. For a
        model with a `family`, it is D^2, the fraction of the deviance explained.

        Args:
            x: Inputs, as in a call of the model.
            y: True outputs of shape (samples, outputs) or (samples,), or labels of shape
                (samples,).

        Returns:
            The score. R^2 of a constant output is 1 if the predictions equal it, and 0 otherwise;
            D^2 of a constant output is NaN.

        Raises:
            InvalidData: If y does not have the shape of the predictions.
        """
        from sklearn.metrics import r2_score  # imported here, because it loads slowly

        predicted = self.predict(x)
        truth = np.asarray(as_array(y, "y") if self.classes else as_numbers(y, "y"))
        if np.squeeze(truth).shape != np.squeeze(predicted).shape:
            shapes = f"{truth.shape}, and the predictions {np.shape(predicted)}"
            raise InvalidData(f"y has the shape {shapes}. Give one row of y for each row of x.")
        truth = truth.reshape(np.shape(predicted))
        if self.classes:
            pairs = zip(truth, predicted, strict=True)
            return float(np.mean([label_text(a) == label_text(b) for a, b in pairs]))
        if self.family:
            explained = self.family.explained(truth.reshape(-1, 1), predicted.reshape(-1, 1))
            return float("nan") if explained is None else explained
        return float(r2_score(truth, predicted))

    def derivative(self, name: str, x: Array) -> Array:
        """Compute a derivative of a solution of `kanrun solve`.

        Args:
            name: The derivative, such as "u_xx".
            x: Points, shape (samples, inputs).

        Returns:
            The derivative at the points, shape (samples,).

        Raises:
            UsageError: If the model is not a solution of an equation, or `name` does not name a
                derivative of one of its unknowns.
        """
        return derivative_values(self, name, x)

    def save(self, path: str | Path) -> Path:
        """Write the model and its tables to a safetensors file that contains a JSON description.

        Args:
            path: Name of the file. The suffix `.safetensors` is added if it is missing.

        Returns:
            The path of the file.

        Raises:
            StorageFailed: If the file cannot be written.
        """
        file = _with_ending(path)
        write_checkpoint(file, to_checkpoint(file.stem, self))
        return file

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model from a file written by `save`. No code from the file is executed.

        Args:
            path: Name of the file, with or without the suffix `.safetensors`.

        Returns:
            The model.

        Raises:
            KanrunError: If the file is missing, corrupted or not a model of kanrun.
        """
        file = Path(path) if Path(path).is_file() else _with_ending(path)
        return from_checkpoint(read_checkpoint(file), Model)

    def export(self, form: str, file: str | Path) -> list[str]:
        """Write the model to a file that works without kanrun, as `kanrun export` does.

        Args:
            form: "c", "javascript", "onnx" or "python".
            file: Name of the file.

        Returns:
            Notes for the user on how to encode the columns of a table, if the exported program does
            not encode them itself; otherwise an empty list.

        Raises:
            UsageError: If the format is unknown or cannot represent this model, or the file cannot
                be written.
        """
        from kanrun.exports import TABLE_FORMATS, export_bytes

        write_named_file(Path(file), export_bytes(self, form, Path(file)))
        if self.code is None or form in TABLE_FORMATS:
            return []
        notes = [
            f"{file} takes the {len(self.inputs)} numbers that encode the columns of the table: "
            f"{', '.join(self.inputs)}"
        ]
        gaps = [column for column in self.code.columns if column.indicator]
        if fills := ", ".join(f"{column.name}={column.fill}" for column in gaps):
            notes.append(
                f"{file} recognises no missing values, nor those of target.read.na_values; replace "
                f"them by {fills}, and set their 'is missing' to 1"
            )
        return notes


def _with_ending(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")
