"""A trained network with the names and units that are needed to predict, explain and update it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kanrun.engine.networks import Network
from kanrun.points import Array, Family
from kanrun.targets import PiecewiseScaling, Scaling, TableCode
from kanrun.targets.encoding import plain_code


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
