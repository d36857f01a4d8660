"""KAN, MLP and KANLayer as torch modules in a user's program."""

import math
import re
from functools import partial

import matplotlib.figure
import pytest
import torch
from cases import cases, refuses
from processes import python
from torch.testing import assert_close

from kanrun import KAN, MLP, KANLayer


def points(rows=200, inputs=2, dtype=torch.float32):
    return (2 * torch.rand(rows, inputs, generator=torch.Generator().manual_seed(3)) - 1).to(dtype)


def drawn(*shape, **more):
    return KAN(shape, generator=torch.Generator().manual_seed(0), **more)


def test_kan_learns_in_a_plain_training_loop_before_and_after_refinement():
    x = points()
    y = torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)
    kan = drawn(2, 5, 1)
    errors = []
    for intervals in (5, 10):
        kan = kan.refine(intervals)
        optimiser = torch.optim.Adam(kan.parameters(), lr=0.02)
        for _ in range(40):
            loss = (kan(x) - y).square().mean() + 1e-5 * kan.regularisation(x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors.append((kan(x) - y).square().mean().sqrt().item())
    assert errors[1] < errors[0] < 0.5 < 0.6 * y.std()


@pytest.mark.parametrize(
    "make", [partial(KAN, [2, 3, 1]), partial(MLP, [2, 3, 1]), partial(KANLayer, 2, 3)]
)
def test_a_seed_of_torch_or_a_generator_gives_the_same_start_in_every_precision(make):
    torch.manual_seed(7)
    first = [*make().parameters()]
    torch.manual_seed(7)
    again = make(dtype=torch.float64).float().parameters()
    own = make(generator=torch.Generator().manual_seed(7)).parameters()
    assert first[0].dtype == torch.get_default_dtype()
    assert_close([*again], first, rtol=1e-6, atol=0)
    assert_close([*own], first)


def test_kan_works_with_autocast_export_and_the_meta_device():
    kan = drawn(2, 3, 2)
    x = points(20)
    with torch.autocast("cpu", torch.bfloat16):
        low = kan(x)
    assert low.dtype == torch.bfloat16
    assert_close(low.float(), kan(x), rtol=0.05, atol=0.05)
    assert_close(torch.export.export(kan, (x,)).module()(x), kan(x))
    assert KAN([2, 3, 1], device="meta")(torch.empty(4, 2, device="meta")).shape == (4, 1)


def test_refine_keeps_the_function_and_prune_drops_weak_edges():
    kan = drawn(2, 3, 1, dtype=torch.float64)
    x = points(dtype=torch.float64)
    fine = kan.refine(20)
    assert fine.intervals == 20
    assert_close(fine(x), kan(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        for parameter in (kan.edge_layers[0].coefficients, kan.edge_layers[0].base_weight):
            parameter[1] *= 1e-6
    small = kan.prune(x)
    assert small.edge_layers[1].mask.tolist() == [[True, False, True]]
    assert_close(small(x), kan(x), rtol=0, atol=1e-4)
    assert kan.edge_layers[1].mask.all()


def test_an_edge_is_a_function_with_derivatives():
    kan = drawn(2, 3, 1, dtype=torch.float64)
    edge = kan.edge(0, -1, 2)
    at = torch.tensor([-0.53, 0.31, 1.7], dtype=torch.float64, requires_grad=True)
    layer = kan.edge_layers[0]
    assert_close(edge(at), layer.edge_values(at[:, None].expand(-1, 2))[:, 2, 1])
    for order in (0, 1):
        (slope,) = torch.autograd.grad(edge(at, order).sum(), at)
        assert_close(edge(at, order + 1), slope)
    assert edge(0.25).shape == ()
    assert (edge.breakpoints.shape, edge.coefficients.shape) == ((6,), (8,))
    assert not edge.is_pruned
    edge(at).sum().backward()
    assert layer.coefficients.grad.abs().sum(2).nonzero().tolist() == [[2, 1]]
    with refuses("no layer 2: the network has 2"):
        kan.edge(2, 0, 0)
    with refuses("no edge from input 0 to output 3"):
        kan.edge(0, 0, 3)


def test_a_plot_is_a_figure_with_names():
    figure = drawn(2, 3, 1).plot(inputs=["length", "angle"], outputs=["period"])
    assert isinstance(figure, matplotlib.figure.Figure)
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"length", "angle", "period"} <= words


def test_kan_takes_a_domain_and_multiplication_nodes():
    kan = drawn(2, 3, 1, domain=[[0.0, 1.0], [-5.0, 5.0]], multiplication_nodes=[1], intervals=4)
    assert kan.edge_layers[0].grid.low.tolist() == [0, -5]
    assert kan.edge_layers[0].outputs == 4
    assert kan(points()).shape == (200, 1)


REFUSALS = r"""
KAN([2]) | shape=\[2\] must be widths
MLP([2, 1], 'silly') | activation=silly is not known
KAN([2, 1], [5, 10]) | intervals=.* must be a whole number. Use refine
KAN([2, 1], edges=EdgeSpec(base='relo')) | base=relo must be one of .*did you mean relu
KAN([2, 1], edges='silu') | edges='silu' must be an EdgeSpec
KAN([2, 1], domain=(1, -1)) | lower < upper
KAN([2, 1], domain=[[0, 1], [0, 1], [0, 1]]) | must be \(low, high\), or one pair for each of 2
KAN([2, 1], dtype=torch.int64) | dtype=torch.int64 must be torch.float32 or torch.float64
KAN([2, 3, 1], multiplication_nodes=[5]) | multiplication_nodes=.5. must have a number for each of the hidden widths .3.
KAN([2, 3, 1], generator=3) | generator=3 must be a torch.Generator
MLP([2, 1])(torch.zeros(3, 4)) | x has 4 columns.*2 inputs
KAN([2, 1])(torch.tensor(1.0)) | x has no columns.*2 inputs
KAN([2, 1])(torch.zeros(3, 2, dtype=torch.int64)) | x must be a tensor of torch.float32, not torch.int64
KAN([2, 1])(torch.zeros(3, 2, dtype=torch.float16)) | x holds torch.float16 and the layer torch.float32
KAN([2, 1], device='tpu9') | device=tpu9
"""  # noqa: E501
PROGRAM = """
import sys
import torch
from kanrun import KAN, MLP, EdgeSpec, KANLayer, KanrunError
for line in sys.stdin:
    try:
        eval(line)
    except KanrunError as error:
        print(error)
    else:
        print("accepted")
"""


def test_wrong_arguments_are_refused_in_one_sentence():
    """In a separate process, because tests add checks of annotations."""
    calls, sentences = zip(*cases(REFUSALS), strict=True)
    printed = python("-c", PROGRAM, input="\n".join(calls)).stdout.splitlines()
    for call, sentence, said in zip(calls, sentences, printed, strict=True):
        assert re.search(sentence, said), (call, said)
