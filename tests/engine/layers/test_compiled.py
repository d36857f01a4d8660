"""Spline layers under torch.compile: the code meant for it, and compiled layers themselves."""

from shutil import which

import pytest
import torch
from cases import cases
from made_layer import NARROW, WIDE, data, make
from processes import python
from torch.autograd import forward_ad
from torch.testing import assert_close

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.splines import basis, fuses, locate


def derivatives(layer, x):
    """Return outputs, first derivatives, and derivatives of the sum of their squares."""
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    y = layer(x)
    slopes = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
    bends = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves)
    return y, *slopes, *bends


@pytest.mark.parametrize("spread", [0.95, 1.6], ids=["inside", "outside"])
@pytest.mark.parametrize(
    "outside",
    cases("""
        linear
        constant
        zero
        base
    """),
)
@pytest.mark.parametrize(
    "degree, base",
    cases("""
        2 | zero
        3 | silu
        4 | tanh
        5 | sin
    """),
)
@pytest.mark.parametrize("intervals", [NARROW, WIDE])
def test_code_for_the_compiler_has_the_same_values_and_derivatives(
    intervals, degree, base, outside, spread, monkeypatch
):
    layer = make(intervals, EdgeSpec(degree=degree, base=base, extrapolation=outside), inputs=2)
    layer.mask[0, 1] = False
    x = data(12, 2, spread).requires_grad_()
    assert not fuses(layer.grid)
    expected = derivatives(layer, x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert fuses(layer.grid)
    for found, known in zip(derivatives(layer, x), expected, strict=True):
        assert_close(found, known, rtol=1e-8, atol=1e-8 * known.abs().max().item())


@pytest.mark.parametrize(
    "degree, uniform, found",
    cases("""
        1 | True | False
        2 | True | True
        3 | False | False
        5 | True | True
        6 | True | False
    """),
)
def test_compiler_gets_its_own_code_for_uniform_grids_of_degree_2_to_5(
    degree, uniform, found, monkeypatch
):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    grid = make(NARROW, EdgeSpec(degree=degree), uniform=uniform).grid
    assert fuses(grid) == found
    assert not torch.vmap(lambda x: x + fuses(grid))(torch.zeros(2)).any()


def test_transforms_cannot_pass_functions_without_a_rule():
    """When this test fails, `is_transformed` is no longer needed."""
    grid = make(NARROW, EdgeSpec(degree=3)).grid
    x = data(4, 1).requires_grad_()
    place = locate(x.detach(), grid)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.vjp(lambda at: basis._local_basis(at, place, grid, 0), x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp"):
        basis._local_basis(forward_ad.make_dual(x, torch.ones_like(x)), place, grid, 0)


UNNEEDED = """
import time, torch
import kanrun.engine.splines.knots, kanrun.engine.splines.products as products
from kanrun import KANLayer

def seconds():
    torch.compiler.reset()
    layer, x = torch.compile(KANLayer(16, 16, 200)), torch.rand(1024, 16)
    def step():
        start = time.process_time()
        layer(x).sum().backward()
        return time.process_time() - start
    return min(step() for _ in range(8))

torch.set_num_threads(1)
with_views = seconds()
products.kept = kanrun.engine.splines.knots.kept = lambda x: x
assert seconds() > 3 * with_views, "`kept` may go"
threads = torch.compile(lambda x: x * torch.get_num_threads(), fullgraph=True, backend="eager")
try:
    threads(torch.ones(1))
except torch._dynamo.exc.Unsupported:
    pass
else:
    raise AssertionError("the mark of `is_single_threaded` may go")
"""
COMPILED = """
import torch
from kanrun import KAN, EdgeSpec
silu = EdgeSpec(base="silu")
for backend, intervals in (("eager", 5), ("inductor", 5), ("inductor", 100)):
    torch.compiler.reset()
    kan = KAN([2, 3, 1], intervals, edges=silu, dtype=torch.float64)
    x = torch.linspace(-1.2, 1.2, 100, dtype=torch.float64).reshape(50, 2).requires_grad_()
    leaves = [x, *(p for p in kan.parameters() if p.requires_grad)]
    compiled = torch.compile(kan, fullgraph=True, backend=backend)
    expected, found = (
        [y := network(x), *torch.autograd.grad(y.square().sum(), leaves)]
        for network in (kan, compiled)
    )
    torch.testing.assert_close(found, expected)
    few, layer = x.detach()[:7].float(), KAN([2, 1], intervals, edges=silu)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(few), layer(few), rtol=0.05, atol=0.05)
"""


@pytest.mark.slow
@pytest.mark.skipif(not any(map(which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
@pytest.mark.parametrize("script", [COMPILED, UNNEEDED], ids=["COMPILED", "UNNEEDED"])
def test_compiled_layers_equal_uncompiled_ones_and_torch_still_needs_our_workarounds(script):
    """In a separate process, because annotation checks of the tests cannot be compiled."""
    python("-c", script)
