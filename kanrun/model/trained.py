"""A trained network with its names and units: what predicting, explaining and updating it need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kanrun.engine.networks import Network
from kanrun.points import Array, Family
from kanrun.targets import PiecewiseScaling, Scaling, TableCode


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network with the names and units of its data; two are equal only if they are one object.

    Attributes:
        network: The network, in its own units.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        domain: Range of the training data, shape (inputs, 2).
        input_scaling: Map from the units of the data to those of the network.
        output_scaling: The same map for the outputs; unused by classifiers.
        classes: Labels of a classifier, else None.
        seed: Seed of the training.
        code: Encoding of the columns of a table, if they are not plain numbers.
        errors: Quantiles of held-out errors in the units of the network, shape (outputs, bins,
            1 + levels); normal scores if there is a family.
        widening: Standard deviation of an output about its prediction if an input lies outside its
            training range by the size of this range, below it and above it, in the units of the
            network, shape (2, inputs, outputs). It grows in proportion to the distance.
        gaps: Intervals of each input inside the training range without data, shape (gaps, 2).
        family: Distribution of outputs that are not plain numbers, such as counts, else None.
        tables: Tables that the training recorded.
        notes: Notes of the training.
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
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Raise ValueError if a part does not fit the network or is not finite."""
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

    def __repr__(self) -> str:
        names = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        return f"{type(self).__name__}({self.network.kind} {self.network.shape_text}: {names})"
