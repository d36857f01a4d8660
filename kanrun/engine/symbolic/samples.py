"""The data that a formula is sought on: one part fits constants, the other decides what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kanrun.engine.symbolic.candidates import Array


@dataclass(frozen=True)
class Samples:
    """x (N, inputs), y (N,) for fitting; `validation_x`, `validation_y` for choosing."""

    x: Array
    y: Array
    validation_x: Array
    validation_y: Array

    @cached_property
    def spread(self) -> float:
        """The standard deviation of y: errors are small or large relative to it."""
        return max(float(np.std(self.y)), 1e-300)

    @cached_property
    def nothing(self) -> float:
        """The relative validation error from which on a model has learned nothing: that of the mean of y, less what the
        best of several models reaches by chance on so few points."""
        by_mean = self.error(lambda x: np.full(x.shape[0], float(np.mean(self.y))))
        return by_mean * max(0.8, 1 - 2 / float(np.sqrt(self.validation_y.size)))

    def overall_error(self, model: Callable[[Array], Array]) -> float:
        """The same as `error` over all points, those that constants were fitted to among them."""
        with np.errstate(all="ignore"):
            residuals = [model(self.x) - self.y, model(self.validation_x) - self.validation_y]
            error = float(np.sqrt(np.mean(np.concatenate(residuals) ** 2))) / self.spread
        return error if np.isfinite(error) else float("inf")

    def error(self, model: Callable[[Array], Array]) -> float:
        """Root mean square error on the validation data relative to the spread; inf where the model is not finite."""
        with np.errstate(all="ignore"):
            error = float(np.sqrt(np.mean((model(self.validation_x) - self.validation_y) ** 2))) / self.spread
        return error if np.isfinite(error) else float("inf")
