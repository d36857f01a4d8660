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
        code: Encoding of the columns of a table; None if all columns are complete numbers.
        errors: Quantiles of held-out errors in the units of the network, shape (outputs, bins,
            1 + levels): for each bin of predictions its middle, then the quantiles at
            `error_levels`. With a family they are quantiles of normal scores. None if no errors are
            stored.
        widening: Standard deviation that is added to an output's error if an input lies below
            (first) or above its training range, by a distance equal to the length of this range.
            It is proportional to the distance. Units of the network, shape (2, inputs, outputs).
        gaps: For each input, the intervals within its training range that contain no data, shape
            (gaps, 2).
        family: Distribution of outputs such as counts; None for a normal distribution.
        threshold: Of two classes, the second one is predicted if its probability exceeds this.
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
        """Columns of the table, with their encoding; without a table, the inputs."""
        return self.code or plain_code(self.inputs)

    def __repr__(self) -> str:
        names = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        return f"{type(self).__name__}({self.network.kind} {self.network.shape_text}: {names})"
