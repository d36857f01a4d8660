"""One edge of a layer as a function that can be called and differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kanrun.engine.layers.spline_layer import SplineLayer
from kanrun.engine.splines import breakpoints_of
from kanrun.errors import UsageError


@dataclass(frozen=True, eq=False)
class LearnedEdge:
    """phi(x) = w_b b(x) + w_s spline(x), the function on one edge, as its layer has it now.

    Call it with a tensor or number x of any shape; `derivative` is the order of the derivative. The result is
    differentiable in x and in the network's parameters. A pruned edge is zero. `breakpoints` (G + 1,) and
    `coefficients` (G + k,) are those of its spline.
    Raises UsageError where there is no such edge.
    """

    layer: SplineLayer
    out: int
    input: int

    def __post_init__(self) -> None:
        outputs, inputs = self.layer.mask.shape
        if not (-outputs <= self.out < outputs and -inputs <= self.input < inputs):
            raise UsageError(
                f"there is no edge from input {self.input} to output {self.out}: the layer has {inputs} inputs and "
                f"{outputs} outputs."
            )

    def __call__(self, x: Tensor | float, derivative: int = 0) -> Tensor:
        at = torch.as_tensor(x).to(self.coefficients)
        with torch.enable_grad():
            free = at if at.requires_grad or not derivative else at.detach().requires_grad_()
            y = self._value(free)
            for _ in range(derivative):
                (y,) = torch.autograd.grad(y.sum(), free, create_graph=True)
        return y if torch.is_grad_enabled() else y.detach()

    def _value(self, x: Tensor) -> Tensor:
        every = x.reshape(-1, 1).expand(-1, self.layer.inputs)
        return self.layer.edge_values(every)[:, self.out, self.input].reshape(x.shape)

    @property
    def is_pruned(self) -> bool:
        return not bool(self.layer.mask[self.out, self.input])

    @property
    def breakpoints(self) -> Tensor:
        return breakpoints_of(self.layer.knots, self.layer.spec.degree)[self.input]

    @property
    def coefficients(self) -> Tensor:
        return self.layer.coefficients[self.out, self.input]
