"""A trained network as plain data: its checkpoints, predictions, intervals and warnings.

`Model` checks its arguments and calls these functions; code that predicts block by block calls them
directly. In all functions, `x` holds encoded inputs in the units of the data, shape (samples,
inputs), and `raw` the network's outputs at `x`, in the units of the network, shape (samples,
outputs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanrun.config.registry import MODELS
from kanrun.engine.networks import Network, from_description
from kanrun.engine.training import predict
from kanrun.errors import MALFORMED, KanrunError, UsageError
from kanrun.points import Array, Family, PiecewiseScaling, Scaling, predicted_classes
from kanrun.runs.files import Checkpoint, as_text, formulas_in
from kanrun.targets.encoding import OTHERS, TableCode, plain_code
from kanrun.targets.table_files import (
    TableFile,
    TableLimits,
    check_columns,
    is_parquet,
    table_writer,
)
from kanrun.targets.table_text import text_of

Arrays = dict[str, NDArray[Any]]
Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network with the names and units of its data.

    Two instances are equal only if they are the same object.

    Attributes:
        network: The network. It computes in scaled units, "the units of the network" below.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        domain: Range of the training inputs in the units of the data, shape (inputs, 2).
        input_scaling: Map of inputs from the units of the data to the units of the network.
        output_scaling: Map of outputs from the units of the data to the units of the network;
            unused by classifiers.
        classes: Labels of a classifier; None for a regression.
        seed: Seed of the training.
        code: Encoding of the columns of a table; None if all columns are numeric without missing
            values.
        errors: Quantiles of held-out errors in the units of the network, shape (outputs, bins,
            1 + levels). Each bin of predictions has its middle, followed by the quantiles of its
            errors at the probabilities `error_levels`. With a family, errors are normal scores.
            None if no errors are stored.
        widening: Standard deviation added to an output's errors if an input lies outside its
            training range by the length of this range; it is proportional to the distance. Shape
            (2, inputs, outputs), below the range first, in the units of the network.
        gaps: For each input, the intervals within its training range that contain no data, shape
            (gaps, 2).
        family: Distribution of outputs such as counts; None for a normal distribution.
        threshold: For two classes, the second is predicted if its probability exceeds this value.
        tables: Tables recorded by the training, by name.
        notes: Notes of the training for the user.
    """

    network: Network
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: Array
    input_scaling: Scaling | PiecewiseScaling
    output_scaling: Scaling | PiecewiseScaling
    classes: tuple[str, ...] | None
    seed: int = 0
    code: TableCode | None = None
    errors: Array | None = None
    widening: Array | None = None
    gaps: tuple[Array, ...] = ()
    family: Family | None = None
    threshold: float = 0.5
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError if an attribute does not fit the network or a number is not finite."""
        both = self.input_scaling, self.output_scaling
        with np.errstate(all="ignore"):
            scales = [a.scale for a in both]
            zeros = [a.invert(0 * a.scale) for a in both]
        for name, size, axis in (
            ("inputs", len(self.inputs), 0),
            ("domain", len(self.domain), 0),
            ("input_scaling", len(scales[0]), 0),
            ("outputs", len(self.classes or self.outputs), -1),
            ("output_scaling", len(self.classes or scales[1]), -1),
        ):
            if size != (needed := self.network.shape[axis]):
                raise ValueError(f"{name} has {size} entries, and the network {needed}")
        numbers = np.concatenate([self.domain.ravel(), *scales, *zeros])
        if not np.isfinite(numbers).all() or min(map(np.min, scales)) <= 0:
            raise ValueError("a range or scaling is not finite, or a scale not positive")

    @property
    def table_code(self) -> TableCode:
        """Encoding of the table's columns; without a table, every input is a numeric column."""
        return self.code or plain_code(self.inputs)

    def __repr__(self) -> str:
        names = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        return f"{type(self).__name__}({self.network.kind} {self.network.shape_text}: {names})"


def to_checkpoint(name: str, value: Any, **further: Any) -> Checkpoint:
    """Return a checkpoint of the dataclass `value`, which `from_checkpoint` converts back.

    Parameters of networks, tensors and numeric columns of tables are stored as arrays. Everything
    else, and the values in `further`, is stored in the checkpoint's JSON description.
    """
    arrays: Arrays = {}

    def stored(item: Any) -> Any:
        place = f"{len(arrays)}/"
        if isinstance(item, Network):
            arrays.update(pack(item, place))
            return {**item.describe(), "place": place}
        if isinstance(item, pd.DataFrame):
            return {str(column): stored(values) for column, values in item.items()}
        if isinstance(item, pd.Series) and item.dtype.kind not in "biuf":
            return [[None if pd.isna(entry) else str(entry) for entry in item]]
        if isinstance(item, Tensor | pd.Series):
            arrays[place] = item.cpu().numpy() if isinstance(item, Tensor) else item.to_numpy()
            return place
        return item.tolist()

    return Checkpoint(name, arrays, {**further, **msgspec.to_builtins(value, enc_hook=stored)})


def from_checkpoint(
    checkpoint: Checkpoint, kind: type[Kind], device: torch.device | None = None
) -> Kind:
    """Restore a dataclass from a checkpoint made by `to_checkpoint`, with its tensors on `device`.

    Raises KanrunError if the checkpoint does not describe a valid `kind`.
    """
    arrays = checkpoint.arrays

    def restored(kind_of_part: type, plain: Any) -> Any:
        if kind_of_part is Network:
            description = {name: value for name, value in plain.items() if name != "place"}
            return unpack(description, arrays, plain.get("place", "")).to(device)
        if kind_of_part is pd.DataFrame:
            return pd.DataFrame(
                {
                    name: arrays[place] if isinstance(place, str) else place[0]
                    for name, place in plain.items()
                }
            )
        if kind_of_part is not Tensor:
            return np.array(plain, dtype=np.float64)
        tensor = torch.from_numpy(np.array(arrays[plain]))
        # Tensors of bytes are states of random generators, which stay on the CPU.
        return tensor if tensor.dtype == torch.uint8 else tensor.to(device)

    try:
        return msgspec.convert(checkpoint.meta, kind, dec_hook=restored)
    except MALFORMED as error:
        raise KanrunError(
            f"Checkpoint {checkpoint.name} does not describe a {kind.__name__}: {error!r}."
        ) from error


def pack(network: Network, prefix: str = "") -> Arrays:
    """Return the network's parameters and buffers as arrays, with `prefix` before their names."""
    state = network.state_dict().items()
    return {prefix + name: value.detach().cpu().numpy() for name, value in state}


def unpack(description: dict[str, Any], arrays: Arrays, prefix: str = "") -> Network:
    """Restore a network from the result of its `describe()` and the arrays made by `pack`.

    The network is on the CPU, in the precision of the arrays. Raises KanrunError if the arrays do
    not match the description.
    """
    state = {
        name[len(prefix) :]: torch.from_numpy(np.array(a))
        for name, a in arrays.items()
        if name.startswith(prefix)
    }
    try:
        if bad := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ValueError(
                f"{bad[0]} has {int((~state[bad[0]].isfinite()).sum())} values that are not finite"
            )
        floats = {value.dtype for value in state.values() if value.is_floating_point()}
        if len(floats) != 1 or not floats <= {torch.float32, torch.float64}:
            raise ValueError(
                f"its precision is {' and '.join(sorted(map(str, floats))) or 'none'}, not one"
            )
        if _described(description) > sum(value.numel() for value in state.values()):
            # Check before memory is allocated for all described numbers.
            raise ValueError("it describes more numbers than are stored")
        network = from_description(description, *_solutions(description))
        network.to(floats.pop())
        network.load_state_dict(state)
    except (RuntimeError, *MALFORMED) as error:
        raise KanrunError(
            f"The checkpoint's arrays do not fit its description: {str(error).splitlines()[0]}"
        ) from error
    return network


def _solutions(description: dict[str, Any]) -> tuple[type[Network], ...]:
    """Return the classes of solutions of equations, or () if `description` is of another network.

    No setting of `model` creates these classes, so they must be passed to `from_description`.
    """
    if description.get("kind") in MODELS:
        return ()
    # Imported late, because few checkpoints need them.
    from kanrun.engine.equations.fields import Field, Windows

    return Field, Windows


def _described(description: dict[str, Any]) -> int:
    """Return a lower bound on the number of parameters of the network in `description`."""
    if "layers" in description:
        sizes = ((*layer["shape"], layer["edges"]["degree"]) for layer in description["layers"])
        return sum(
            inputs * outputs * (intervals + degree) for inputs, outputs, intervals, degree in sizes
        )
    if "shape" in description:
        return sum(inputs * outputs for inputs, outputs in pairwise(description["shape"]))
    return int(description.get("functions", 0) * description.get("outputs", 0))


#: Standard deviation of the noise added to logits before formulas are fitted to them. One standard
#: deviation changes a probability by at most 0.075.
LOGIT_NOISE = 0.3
#: Probabilities of a normal distribution one standard deviation below and above its mean.
ONE_DEVIATION = (0.1587, 0.8413)


def in_numpy(tensor: torch.Tensor) -> Array:
    """Return a tensor as a NumPy array of float64."""
    return tensor.double().cpu().numpy()


def network_outputs(model: TrainedNetwork, x: Array) -> Array:
    """Return the network's outputs at `x` in the units of the network, shape (samples, outputs)."""
    scaled = model.input_scaling.apply(np.asarray(x, dtype=np.float64))
    parameter = next(model.network.parameters())
    return in_numpy(predict(model.network, torch.as_tensor(scaled).to(parameter)))


def predicted_values(model: TrainedNetwork, x: Array) -> Array:
    """Return outputs in the units of the data, or class probabilities: (samples, outputs)."""
    return in_units(model, network_outputs(model, x))


def in_units(model: TrainedNetwork, raw: Array) -> Array:
    """Return `raw` in the units of the data, or as class probabilities: (samples, outputs)."""
    if model.classes:
        return torch.as_tensor(raw).softmax(-1).numpy()
    return model.output_scaling.invert(raw)


def logit_values(model: TrainedNetwork, x: Array, noise: float = LOGIT_NOISE) -> Array:
    """Return the values at `x` to which formulas of a classifier are fitted.

    For two classes, these are the log-odds of the second class, shape (samples, 1). For more
    classes, they are logits that sum to zero, shape (samples, classes). Noise with the standard
    deviation `noise` is added, so that formulas need not reproduce details that the labels do not
    determine.
    """
    raw = network_outputs(model, x)
    logits = raw[:, 1:] - raw[:, :1] if raw.shape[1] == 2 else raw - raw.mean(1, keepdims=True)
    return logits + noise * np.random.default_rng(model.seed).standard_normal(logits.shape)


def explained_outputs(model: TrainedNetwork) -> list[tuple[int, str]]:
    """Return the index and name of each output or class to explain; of two classes, the second."""
    return list(enumerate(model.classes or model.outputs))[len(model.classes or ()) == 2 :]


def contributions(model: TrainedNetwork, x: Array) -> tuple[Array, dict[str, Array]]:
    """Decompose the predictions at `x` into a baseline and a contribution of each table column.

    The baseline is the prediction at the medians of the training inputs. To compute the
    contributions, the medians are replaced by a row's values, column by column, once in the order
    of the columns and once in reverse. The contribution of a column is the mean of the two changes
    of the prediction. These are the Shapley values if interactions involve at most two columns
    (Castro et al., Computers and Operations Research 36 (2009) 1726-1730).

    Returns:
        The baseline (outputs,), and for each column its contributions (samples, outputs). The
        baseline and the contributions sum to the prediction.
    """
    columns = input_columns(model)
    start = np.median(training_sample(model), axis=0)
    added = {name: np.zeros(1) for name in columns}
    for order in (list(columns), list(columns)[::-1]):
        moved = np.tile(start, (len(x), 1))
        before = predicted_values(model, moved)
        for name in order:
            moved[:, columns[name]] = x[:, columns[name]]
            now = predicted_values(model, moved)
            added[name] = added[name] + (now - before) / 2
            before = now
    return predicted_values(model, start[None])[0], added


def input_columns(model: TrainedNetwork) -> dict[str, list[int]]:
    """Return, for each column of the table, the indices of the network inputs that encode it."""
    numbers = iter(range(len(model.inputs)))
    columns = model.table_code.columns
    return {column.name: [next(numbers) for _ in column.features] for column in columns}


def error_levels(count: int = 199) -> Array:
    """Return the `count` probabilities at which a model stores quantiles of held-out errors."""
    return np.linspace(0.005, 0.995, count)


def quantile_values(model: TrainedNetwork, x: Array, raw: Array, probability: float) -> Array:
    """Return the quantiles of the outputs at this probability, shape (samples, outputs).

    A quantile is the prediction plus a quantile of the errors of held-out rows. Outside the
    training range, a variance is added to that of the errors; see `TrainedNetwork.widening`. Raises
    UsageError if the model stores no errors or the probability is outside 0.005 to 0.995.
    """
    if model.errors is None:
        raise UsageError(
            "this model stores no held-out errors, so it has no intervals and quantiles. "
            "Fit a regression with model=auto."
        )
    levels = error_levels(model.errors.shape[2] - 1)
    if not levels[0] <= probability <= levels[-1]:
        raise UsageError(
            f"the probability {probability:g} of a quantile must be from {levels[0]:g} to "
            f"{levels[-1]:g}."
        )
    errors = _error_quantile(model.errors, raw, probability)
    if model.family:
        return model.family.quantile(errors, model.output_scaling.invert(raw))
    if model.widening is not None:
        low, high = (_error_quantile(model.errors, raw, p) for p in ONE_DEVIATION)
        deviation = np.maximum((high - low) / 2, np.finfo(float).tiny)
        variance = _variance_outside(model.domain, model.widening, x)
        errors *= np.sqrt(1 + variance / deviation**2)
    return model.output_scaling.invert(raw + errors)


def _error_quantile(errors: Array, raw: Array, probability: float) -> Array:
    """Return the quantile of the held-out errors at each prediction, shape (samples, outputs).

    `errors` is `TrainedNetwork.errors`. Its quantiles are interpolated linearly between its
    probabilities and, in the variable `raw`, between the middles of its bins of predictions.
    """
    levels = error_levels(errors.shape[2] - 1)
    errors_at = np.zeros_like(raw)
    for o, (middles, *quantiles) in enumerate(errors.swapaxes(1, 2)):
        values = [np.interp(probability, levels, row) for row in np.transpose(quantiles)]
        errors_at[:, o] = np.interp(raw[:, o], middles, values)
    return errors_at


def _variance_outside(domain: Array, widening: Array, x: Array) -> Array:
    """Return the variance (samples, outputs) added for inputs outside the training range."""
    low, high = domain.T
    beyond = np.maximum([low - x, x - high], 0) / np.where(high > low, high - low, 1.0)
    return np.asarray(np.einsum("sni,sio->no", beyond**2, widening**2))


def interval_bounds(
    model: TrainedNetwork, x: Array, raw: Array, level: float
) -> tuple[Array, Array]:
    """Return the lower and upper bounds of the central prediction interval of this `level`.

    Both have the shape (samples, outputs).
    """
    widest = float(np.ptp(error_levels()))
    if model.errors is not None and not 0 < level <= widest:
        raise UsageError(f"level={level} of an interval must be above 0 and at most {widest:g}.")
    low, high = (quantile_values(model, x, raw, (1 + side * level) / 2) for side in (-1, 1))
    return low, high


#: Reason why a row is unlike the training data: the kind, and the name of the input or column.
Reason = tuple[str, str]


def departures(
    model: TrainedNetwork, x: Array, raw: Array, table: Mapping[str, Any] | None = None
) -> dict[Reason, NDArray[np.bool_]]:
    """Return which samples are unlike the training data, as boolean arrays (samples,) by reason.

    The kinds of reasons are `outside` (an input is outside its training range), `gap` (an input
    lies in a gap of its training data), `unseen` (a text is not among the `level_names` of its
    column; only if the columns are given as `table`) and `clipped` (the prediction was clipped to
    the allowed range).
    """
    reasons: dict[Reason, NDArray[np.bool_]] = {}
    for column, inputs in zip(model.table_code.columns, input_columns(model).values(), strict=True):
        if column.levels is None:
            for j in inputs:
                low, high = model.domain[j]
                reasons["outside", model.inputs[j]] = (x[:, j] < low) | (x[:, j] > high)
                if j < len(model.gaps) and len(model.gaps[j]):
                    inside = [(x[:, j] > first) & (x[:, j] < last) for first, last in model.gaps[j]]
                    reasons["gap", model.inputs[j]] = np.any(inside, axis=0)
        elif table is not None:
            levels = {*column.level_names} - {OTHERS}
            unseen = [text not in levels for text in map(text_of, table[column.name])]
            reasons["unseen", column.name] = np.array(unseen)
    scaling = model.output_scaling
    if not model.classes and isinstance(scaling, PiecewiseScaling):
        lowest, highest = np.transpose([(values[0], values[-1]) for values in scaling.values])
        reasons["clipped", ""] = ((raw < lowest) | (raw > highest)).any(1)
    return reasons


def departure_counts(reasons: Mapping[Reason, NDArray[np.bool_]]) -> Counter[Reason]:
    """Return the number of samples by reason."""
    return Counter({reason: int(samples.sum()) for reason, samples in reasons.items()})


def departure_warnings(
    model: TrainedNetwork, counts: Mapping[Reason, int], samples: int
) -> list[str]:
    """Return one warning for each reason with a positive count, as a fraction of `samples`.

    See `departures` for the reasons.
    """
    is_table = isinstance(model.input_scaling, PiecewiseScaling)
    what = "rows" if is_table else "samples"
    note = "no training rows lie" if is_table else model.network.extrapolation_note
    dates = {column.name for column in model.table_code.columns if column.parts is not None}

    def shown(name: str, values: Array) -> str:
        days = [str(np.datetime64(int(day), "D")) for day in values] if name in dates else ()
        return ", ".join(days or (f"{value:.6g}" for value in values))

    warnings = []
    for (kind, name), count in counts.items():
        if not count:
            continue
        sentence = f"{count / samples:.1%} of the "
        match kind:
            case "outside":
                ends = shown(name, model.domain[model.inputs.index(name)])
                sentence += f"{what} have {name} outside the training range [{ends}], where {note}"
            case "gap":
                ends = shown(name, model.gaps[model.inputs.index(name)][0])
                sentence += f"{what} have {name} in a gap of the training data, such as ({ends})"
            case "unseen":
                sentence += f"rows have a {name} that the model was not trained on"
            case _:
                sentence += "predictions were clipped to the allowed range"
        warnings.append(sentence)
    return warnings


def label_text(value: Any) -> str:
    """Return a label as text; True, 1 and 1.0 have the same text."""
    text = str(value)
    return {"True": "1", "False": "0"}.get(text, text.removesuffix(".0"))


def training_sample(model: TrainedNetwork) -> Array:
    """Return the stored training inputs, encoded, shape (rows, inputs).

    Without stored tables, return 1000 random points that are uniform on the domain.
    """
    columns = [f"input:{name}" for name in model.inputs]
    if "predictions" not in model.tables:
        places = np.random.default_rng(model.seed).random((1000, len(model.inputs)))
        return model.domain[:, 0] + places * (model.domain[:, 1] - model.domain[:, 0])
    table = model.tables["predictions"]
    rows = table[table["split"] == "train"].drop_duplicates(columns)
    return rows[columns].to_numpy(dtype=np.float64)


def derivative_values(model: TrainedNetwork, name: str, x: Array) -> Array:
    """Return the derivative `name` of a solution, such as "u_xx", at the points `x`: (samples,)."""
    from kanrun.formulas.equation_syntax import Vocabulary  # imported late, because it loads sympy

    network: Any = model.network
    if not hasattr(network, "derivatives"):
        raise UsageError("this model has no derivatives. Only solutions of kanrun solve do.")
    derivative = Vocabulary(model.inputs, model.outputs).derivative(name)
    if derivative is None:
        raise UsageError(
            f"{name} is not a derivative of {', '.join(model.outputs)}. "
            f"Write it like {model.outputs[0]}_{model.inputs[0]}."
        )
    points = torch.as_tensor(np.asarray(x, dtype=np.float64))
    return in_numpy(network.derivatives(points, [derivative.index])[:, derivative.unknown, 0])


#: Limits of the files for which predictions are computed. They are so large that only the disk
#: limits a file, because files are read in blocks.
LIMITS = TableLimits(characters=2**40, cells=10**12)


@dataclass(frozen=True)
class PredictionOptions:
    """Settings of a file of predictions.

    Attributes:
        level: Coverage probability of the prediction interval, whose bounds are added as the
            columns `lower:NAME` and `upper:NAME` of each output; None: no interval.
        quantiles: Probabilities of quantiles, which are added as the columns `quantile P:NAME`.
        derivatives: Derivatives of a solution of `kanrun solve` to add as columns, such as u_xx.
        spreadsheet_safe: Whether cells that a spreadsheet would execute as formulas are prefixed
            with an apostrophe.
        explain: Whether to add `start:NAME` and, for each input column, `effect:COLUMN on NAME`,
            which sum to the prediction; see `contributions`.
    """

    level: float | None = None
    quantiles: Sequence[float] = ()
    derivatives: Sequence[str] = ()
    spreadsheet_safe: bool = False
    explain: bool = False


def predict_table(
    model: TrainedNetwork,
    source: Path,
    output: Path,
    options: PredictionOptions = PredictionOptions(),
) -> list[str]:
    """Write the model's predictions for the rows of `source` to `output`, and return warnings.

    `output` has all columns of `source`, and one more per output, in the units of the training
    data. A classifier adds the label and one column of probabilities per class. If the name of an
    added column exists already, the column is called `prediction:NAME`. The column `outside` says
    how a row is unlike the training data: inputs outside their range or in a gap, unseen levels of
    text columns, or a clipped prediction; otherwise it is empty.

    The warnings count the rows unlike the training data, and the cells that a spreadsheet would
    execute, unless `options.spreadsheet_safe` is set. Raises UsageError if columns are missing, if
    the model cannot handle a text or missing value, if an interval or a quantile of a classifier is
    requested, or if `output` cannot be written; no incomplete file is left.
    """
    if (options.level is not None or options.quantiles) and model.classes:
        raise UsageError(
            "--interval and --quantiles are for numbers, and this model predicts classes; the "
            "columns probability:CLASS show how certain it is. Remove the option."
        )
    table = TableFile(source, model.table_code.read, LIMITS, key="")
    columns = table.names()
    inputs = list(input_columns(model))
    check_columns(inputs, columns, source.name)
    binary = is_parquet(output)
    counts = Counter[Reason]()
    samples = 0
    formulas = 0
    with table_writer(output, () if is_parquet(source) else columns) as write:
        for frame in table.blocks(inputs=inputs):
            block: dict[str, Any] = {name: frame[name].to_numpy() for name in columns}
            rows = list(frame.index)
            x = model.table_code.encode(block, source.name, rows)
            raw = network_outputs(model, x)
            reasons = departures(model, x, raw, block)
            counts.update(departure_counts(reasons))
            samples += len(x)
            added = _added(model, x, raw, rows, options) | {"outside": _outside(reasons, len(x))}
            block |= {f"prediction:{n}" if n in columns else n: v for n, v in added.items()}
            formulas += 0 if binary else sum(map(formulas_in, block.values()))
            if options.spreadsheet_safe and not binary:
                block = {as_text(name): list(map(as_text, cells)) for name, cells in block.items()}
            write(pd.DataFrame(block))
    notes = departure_warnings(model, counts, samples)
    if formulas and not options.spreadsheet_safe:
        notes.append(
            f"{formulas} cells of {output.name} would be run by a spreadsheet; "
            "--spreadsheet-safe writes them as text"
        )
    return notes


def _outside(reasons: Mapping[Reason, NDArray[np.bool_]], rows: int) -> NDArray[Any]:
    """Return the entries of the column `outside`: reasons joined by commas, or ""."""
    entries = np.full(rows, "", dtype=object)
    labels = {"outside": "{}", "gap": "{} in a gap", "unseen": "{} unseen", "clipped": "clipped"}
    for (kind, name), holds in reasons.items():
        label = labels[kind].format(name)
        entries[holds] = [f"{text}, {label}" if text else label for text in entries[holds]]
    return entries


def _added(
    model: TrainedNetwork, x: Array, raw: Array, rows: Sequence[int], options: PredictionOptions
) -> dict[str, NDArray[Any]]:
    """Return the columns with predictions that are added to a block with these row numbers."""
    values = in_units(model, raw)
    names = model.classes or model.outputs
    if not np.isfinite(values).all():
        bad = rows[int(np.argmin(np.isfinite(values).all(1)))]
        raise UsageError(f"the prediction of row {bad} is not finite. Check for extreme inputs.")
    added: dict[str, NDArray[Any]] = {}
    if model.classes:
        added[model.outputs[0]] = np.array(model.classes)[
            predicted_classes(values, model.threshold)
        ]
    prefix = "probability:" if model.classes else ""
    added |= {f"{prefix}{name}": values[:, o] for o, name in enumerate(names)}
    if options.level is not None:
        low, high = interval_bounds(model, x, raw, options.level)
        for o, name in enumerate(names):
            added |= {f"lower:{name}": low[:, o], f"upper:{name}": high[:, o]}
    for p in options.quantiles:
        bounds = quantile_values(model, x, raw, p)
        added |= {f"quantile {p:g}:{name}": bounds[:, o] for o, name in enumerate(names)}
    added |= {name: derivative_values(model, name, x) for name in options.derivatives}
    if options.explain:
        start, effects = contributions(model, x)
        for o, name in explained_outputs(model):
            added[f"start:{name}"] = np.full(len(x), start[o])
            added |= {f"effect:{column} on {name}": e[:, o] for column, e in effects.items()}
    return added
