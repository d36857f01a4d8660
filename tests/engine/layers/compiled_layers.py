"""Layers under `torch.compile` against the same layers without it.

`test_compiled.py` runs this file as a separate program. Annotations are not enforced here, because
a compiler cannot look through the checks. With `inductor` as its argument, machine code is made;
otherwise graphs are traced and run operator by operator.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch
from made_layer import NARROW, WIDE, data, make

from kanrun.engine.layers import EdgeSpec, SplineLayer

SPECS = [
    (True, EdgeSpec(base="silu")),
    (False, EdgeSpec(degree=2, base="tanh")),
    (True, EdgeSpec(degree=1, extrapolation="zero", edge_scaling="single", base="silu")),
    (True, EdgeSpec(base="zero", extrapolation="constant")),
]


def pruned(intervals: int, spec: EdgeSpec, **more: Any) -> SplineLayer:
    layer = make(intervals, spec, **more)
    layer.mask[1, 2] = False
    return layer


def gradients(y: torch.Tensor, x: torch.Tensor, layer: SplineLayer) -> list[torch.Tensor]:
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        y.dtype
    )
    wanted = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    return list(torch.autograd.grad(y, wanted, g))


def the_same_numbers(layer: SplineLayer, backend: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    tolerance = (
        {"atol": 1e-12, "rtol": 1e-10}
        if layer.knots.dtype == torch.float64
        else {"atol": 2e-5, "rtol": 1e-4}
    )
    for samples in (12, 30):  # the second makes a graph for any number of samples
        x = data(samples, seed=samples).to(layer.knots).requires_grad_()
        found, expected = compiled(x), layer(x)
        torch.testing.assert_close(found, expected, **tolerance)
        pairs = zip(gradients(found, x, layer), gradients(expected, x, layer), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, **tolerance)


def no_samples(intervals: int, backend: str) -> None:
    torch.compiler.reset()
    layer = pruned(intervals, EdgeSpec(base="silu"), uniform=True, dtype=torch.float64)
    x = data(0).requires_grad_()
    y = torch.compile(layer, fullgraph=True, backend=backend)(x)
    assert not any(part.any() for part in gradients(y, x, layer))


def a_change_is_seen(backend: str) -> None:
    torch.compiler.reset()
    layer = pruned(NARROW, EdgeSpec(base="silu"), uniform=True, dtype=torch.float64)
    compiled, x = torch.compile(layer, fullgraph=True, backend=backend), data().requires_grad_()
    compiled(x)
    layer.mask[0] = False
    layer.knots.mul_(1.5)
    torch.testing.assert_close(compiled(x), layer(x))
    torch.set_num_threads(3 - torch.get_num_threads())
    torch.testing.assert_close(gradients(compiled(x), x, layer), gradients(layer(x), x, layer))


def transforms_inside(intervals: int, backend: str) -> None:
    layer = pruned(intervals, EdgeSpec(base="silu"), uniform=True, dtype=torch.float64)
    x = data(5)
    for transform in (torch.vmap(lambda at: layer(at[None])[0]), torch.func.jacrev(layer)):
        torch.compiler.reset()
        found = torch.compile(transform, fullgraph=True, backend=backend)(x)
        torch.testing.assert_close(found, transform(x), atol=1e-12, rtol=1e-10)


def traced(backend: str) -> None:
    for intervals, (uniform, spec) in itertools.product([NARROW, WIDE], SPECS):
        the_same_numbers(pruned(intervals, spec, uniform=uniform, dtype=torch.float64), backend)
    for intervals in (NARROW, WIDE):
        transforms_inside(intervals, backend)
        no_samples(intervals, backend)
    a_change_is_seen(backend)


def main(backend: str) -> None:
    torch.set_num_threads(1)
    if backend == "inductor":
        for intervals in (NARROW, WIDE):
            the_same_numbers(
                pruned(intervals, EdgeSpec(base="silu"), uniform=True, dtype=torch.float32), backend
            )
    else:
        traced(backend)
    print("all the same")


if __name__ == "__main__":
    main(sys.argv[1])
