"""A trained model in the units of its data."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from kanrun.engine.networks import Network
from kanrun.engine.training import predict
from kanrun.errors import InvalidData, UsageError
from kanrun.runs.artifacts import read_checkpoint, write_checkpoint
from kanrun.runs.files import write_named_file
from kanrun.targets import (
    Data,
    PiecewiseScaling,
    Scaling,
    TableCode,
    as_array,
    as_numbers,
    input_rows,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kanrun.study.model_summary import ModelSummary

Array = NDArray[np.float64]
_WHOLE = re.compile(r"-?\d{1,18}")  # a class that is a whole number


@dataclass(frozen=True)
class SampleCounts:
    """How many of `samples` lie `outside` the trained range and in `gaps`, by input, and how many are `held`."""

    samples: int
    outside: Array
    gaps: Array
    held: int

    def __add__(self, other: SampleCounts) -> SampleCounts:
        return SampleCounts(
            self.samples + other.samples,
            self.outside + other.outside,
            self.gaps + other.gaps,
            self.held + other.held,
        )


@dataclass(frozen=True)
class Model:
    """A trained network with its names and units: call it with inputs in the user's units.

    `domain` (inputs, 2) is the range it was trained on; `classes` the labels of a classifier, else None.

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

    network: Network
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    input_scaling: Scaling | PiecewiseScaling
    output_scaling: Scaling | PiecewiseScaling
    classes: tuple[str, ...] | None
    seed: int = 0  # of its training, whose split and scaling come from it
    code: TableCode | None = (
        None  # how its inputs are made of a table's columns, where these are not plain numbers
    )
    errors: Array | None = (
        None  # (outputs, levels): quantiles of left-out rows' errors, in the network's units
    )
    gaps: tuple[
        Array, ...
    ] = ()  # of each input, (gaps, 2): inside the trained range, where no training rows lie
    tables: Mapping[str, pd.DataFrame] = field(
        default_factory=dict, compare=False, repr=False
    )  # of its training
    notes: tuple[str, ...] = field(
        default=(), compare=False, repr=False
    )  # what was said of its training

    def __repr__(self) -> str:
        shape = "-".join(map(str, self.network.shape))
        return f"Model({self.network.kind} {shape}: {', '.join(self.inputs)} -> {', '.join(self.outputs)})"

    def __call__(self, x: Data) -> Array:
        """f(x) (samples, outputs) for samples x; class probabilities (samples, classes) for a classifier.

        x is an array or tensor (samples, inputs), one point (inputs,) with f (outputs,), or a DataFrame, whose columns
        are found by name. Raises InvalidData for columns that are not there, another width, NaN and text. Warns
        (UserWarning, once a call) of samples outside the trained range, see `cautions`.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        if found := self.cautions(rows):
            warnings.warn("; ".join(found), UserWarning, stacklevel=2)
        values = self.values(rows)
        return values[0] if single else values

    def predict(self, x: Data) -> NDArray[Any]:
        """As a call, with one output (samples,), and for a classifier the labels; without the warning."""
        rows, single = input_rows(x, self.inputs, self.code)
        values = self.values(rows)
        if self.classes:
            labels = np.array(
                [int(c) if _WHOLE.fullmatch(c) else c for c in self.classes], dtype=None
            )
            values = labels[values.argmax(1)]
        elif values.shape[1] == 1:
            values = values[:, 0]
        return values[0] if single else values

    def score(self, x: Data, y: Data) -> float:
        """R^2 on x and y, the mean over outputs; for a classifier the share of labels that are right.

        Raises InvalidData where x and y do not have as many rows.
        """
        predicted = self.predict(x)
        truth = np.asarray(as_array(y, "y") if self.classes else as_numbers(y, "y"))
        if truth.size != np.size(predicted):
            raise InvalidData(
                f"y has {len(np.atleast_1d(truth))} rows, and x has {len(predicted)}."
            )
        truth = truth.reshape(np.shape(predicted))
        if self.classes:
            return float(np.mean([str(a) == str(b) for a, b in zip(truth, predicted, strict=True)]))
        spread = ((truth - truth.mean(0)) ** 2).sum(0)
        return float(
            np.mean(1 - ((truth - predicted) ** 2).sum(0) / np.where(spread > 0, spread, np.nan))
        )

    def summary(self) -> ModelSummary:
        """What was fitted and how well: errors, parameters, effective degrees of freedom, each input's contribution.

        Prints as a table; raises UsageError for a model without the tables of its training.
        """
        from kanrun.study.model_summary import summary_of

        return summary_of(self)

    def plot(self, name: str = "network") -> Figure:
        """A figure of the training: `network`, `edges`, `predictions`, `residuals`, and `loss` or `effects`.

        Raises UsageError for a figure that this model does not have.
        """
        from kanrun.study.model_summary import figure_of

        return figure_of(self, name)

    def save(self, path: str | Path) -> Path:
        """Write the model and its tables to one file (safetensors, with the description as JSON beside it).

        The name gets the ending .safetensors, which `load` may be given or not. Raises StorageFailed where it cannot be
        written.
        """
        from kanrun.study.checkpoints import checkpoint_of

        file = _with_ending(path)
        write_checkpoint(file.parent, checkpoint_of(self, file.stem))
        return file

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """The model in a file that `save` wrote; nothing in it is ever run.

        Raises KanrunError for a file that is missing, damaged or no model of kanrun.
        """
        from kanrun.study.checkpoints import model_from_checkpoint

        return model_from_checkpoint(
            read_checkpoint(Path(path) if Path(path).is_file() else _with_ending(path))
        )

    def sample(self) -> Array:
        """Encoded inputs (samples, inputs) that it was trained on, or without its tables 1000 points of its domain."""
        if "predictions" not in self.tables:
            share = np.random.default_rng(self.seed).random((1000, len(self.inputs)))
            return self.domain[:, 0] + share * (self.domain[:, 1] - self.domain[:, 0])
        table = self.tables["predictions"]
        rows = table[table["split"] == "train"].drop_duplicates(
            [f"input:{name}" for name in self.inputs]
        )
        return rows[[f"input:{name}" for name in self.inputs]].to_numpy(dtype=np.float64)

    def _repr_html_(self) -> str:
        from kanrun.study.model_summary import html_of

        return html_of(self)

    def values(self, x: Array, raw: Array | None = None) -> Array:
        """As a call, without the warning, for encoded inputs x (samples, inputs); `raw` is theirs where it is known."""
        raw = self.raw(x) if raw is None else raw
        if self.classes:
            return torch.as_tensor(raw).softmax(-1).numpy()
        return self.output_scaling.invert(raw)

    def raw(self, x: Array) -> Array:
        """The network's outputs, in its units."""
        parameter = next(self.network.parameters())
        inside = torch.as_tensor(self.input_scaling.apply(np.asarray(x, dtype=np.float64))).to(
            parameter
        )
        return predict(self.network, inside).double().cpu().numpy()

    def derivative(self, name: str, x: Array) -> Array:
        """The derivative `name` of a solution of `kanrun solve`, such as u_xx, at x (samples, inputs): (samples,).

        Raises UsageError for other models, whose outputs are no solutions of equations, and for a name that is none.
        """
        from kanrun.engine.equations import Field, Windows
        from kanrun.formulas.equations import Vocabulary

        if not isinstance(self.network, Field | Windows):
            raise UsageError(
                "derivatives need a run of kanrun solve; this model is of another command."
            )
        found = Vocabulary(self.inputs, self.outputs).derivative(name)
        if found is None:
            raise UsageError(
                f"{name} is no derivative of {', '.join(self.outputs)}; write {self.outputs[0]}_{self.inputs[0]}."
            )
        at = torch.as_tensor(np.asarray(x, dtype=np.float64))
        return self.network.derivative(at, found.index)[:, found.unknown].numpy()

    def interval(self, x: Data, level: float) -> tuple[Array, Array]:
        """Lower and upper ends (samples, outputs) between which the output lies with probability `level`.

        x is as in a call.

        From the errors of rows that were left out of training, which are stored with models of `model=auto`. Raises
        UsageError for a model that has none, and for a level outside (0, 1).
        """
        rows, single = input_rows(x, self.inputs, self.code)
        low, high = self.ends(rows, level)
        return (low[0], high[0]) if single else (low, high)

    def ends(self, x: Array, level: float, raw: Array | None = None) -> tuple[Array, Array]:
        """As `interval`, for encoded inputs x (samples, inputs); `raw` is theirs where it is known."""
        if self.errors is None:
            raise UsageError(
                "prediction intervals need a regression with model=auto; this model has none."
            )
        if not 0 < level < 1:
            raise UsageError(f"an interval's level is a share between 0 and 1, not {level}.")
        raw, levels = self.raw(x) if raw is None else raw, error_levels(self.errors.shape[1])
        low, high = (
            np.array([np.interp(share, levels, each) for each in self.errors])
            for share in ((1 - level) / 2, (1 + level) / 2)
        )
        return self.output_scaling.invert(raw + low), self.output_scaling.invert(raw + high)

    def export(self, form: str, file: str | Path) -> None:
        """Write the model to `file` as `kanrun export` does; `form` is one of `kanrun.exports.FORMATS`."""
        from kanrun.exports import export_bytes

        write_named_file(Path(file), export_bytes(self, form, file))

    def counts(self, x: Array, raw: Array | None = None) -> SampleCounts:
        """How many of encoded samples x (samples, inputs) lie where nothing was learned; `raw` is theirs if known."""
        at, low, high = np.asarray(x, dtype=np.float64), self.domain[:, 0], self.domain[:, 1]
        gaps = np.zeros(len(low))
        for j, inside in enumerate(self.gaps):
            gaps[j] = sum(
                int(((at[:, j] > first) & (at[:, j] < last)).sum()) for first, last in inside
            )
        held = 0
        if self.classes is None and isinstance(self.output_scaling, PiecewiseScaling) and len(at):
            ends = np.array([(values[0], values[-1]) for values in self.output_scaling.values])
            raw = self.raw(at) if raw is None else raw
            held = int(((raw < ends[:, 0]) | (raw > ends[:, 1])).any(1).sum())
        return SampleCounts(
            len(at), ((at < low) | (at > high)).sum(0).astype(np.float64), gaps, held
        )

    def cautions(self, x: Array) -> list[str]:
        """A sentence an input that leaves the trained rows: in how many samples, and what the model does there."""
        return self.sentences(self.counts(x))

    def sentences(self, counts: SampleCounts) -> list[str]:
        """As `cautions`, of samples that were counted."""
        rows, said = max(counts.samples, 1), []
        for name, share, (low, high) in zip(
            self.inputs, counts.outside / rows, self.domain, strict=True
        ):
            if share > 0:
                said.append(
                    f"{share:.1%} of the samples have {name} outside the trained range [{low:.6g}, {high:.6g}], where "
                    f"{self.beyond}: nothing was learned there"
                )
        for name, share, inside in zip(self.inputs, counts.gaps / rows, self.gaps, strict=False):
            if share > 0:
                said.append(
                    f"{share:.1%} of the samples have {name} in a gap of the training rows, such as "
                    f"({inside[0][0]:.6g}, {inside[0][1]:.6g}): nothing was learned there"
                )
        if counts.held:
            said.append(
                f"{counts.held / rows:.1%} of the predictions are held at an end of the allowed range"
            )
        return said

    @property
    def beyond(self) -> str:
        """What the model does outside the trained range."""
        return self.network.beyond


def error_levels(count: int = 199) -> Array:
    """The probabilities of the quantiles of errors that a model stores."""
    return np.linspace(0.005, 0.995, count)


def _with_ending(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")
