"""Formulas for numbers of parameters and operations, and MLPs of a given size."""

import pytest
from cases import cases, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kan import kan

from kanrun.engine.networks import MLP
from kanrun.engine.networks import kan as c
from kanrun.engine.networks.classical import match_parameters, mlp_parameters

widths = st.lists(st.integers(1, 5), min_size=2, max_size=4)


SPECS = {
    "degree": st.integers(0, 4),
    "base": st.sampled_from(["silu", "zero"]),
    "trained_scales": st.sampled_from(["all", "base", "none"]),
}


@given(widths, st.integers(1, 9), st.fixed_dictionaries(SPECS))
@settings(max_examples=25)
def test_formulas_count_what_the_modules_hold(shape, intervals, spec):
    network = kan(shape, intervals, **spec)
    size = c.size_of(network)
    assert c.kan_parameters(size, network.edge_layers[0].spec) == network.count()
    assert mlp_parameters(shape) == MLP(shape, "tanh").count()


def test_every_convention_on_a_network_counted_by_hand():
    size = c.KANSize((2, 5, 1), 5, 3)  # 15 edges, 6 nodes
    assert {convention.name: convention.count(size) for convention in c.CONVENTIONS} == {
        "paper": 75,
        "spline": 120,
        "single": 135,
        "separate": 150,
        "efficient_kan": 150,
        "pykan": 210,
        "kanbefair": 171,
    }


def test_flops_of_kanbefair_by_hand():
    # Two layers of 6 edges with 9 k (G + 1.5 k) + 2 G - 2.5 k + 1 = 34 operations per edge, the
    # base function of 2 and of 3 inputs, and 2 operations per edge for its weight.
    size = c.KANSize((2, 3, 2), 2, 1)
    assert c.kanbefair_flops(size, "zero") == 12 * 34
    assert c.kanbefair_flops(size, "relu") == 12 * 34 + 5 + 12 * 2


def test_multiplication_node_costs_the_edges_of_its_second_sum_and_one_product():
    networks = [kan([2, 3, 1], products=n, base="zero") for n in ((1,), (0,))]
    product, plain = (network.flops() for network in networks)
    size = c.size_of(networks[0])
    assert c.kan_parameters(size, networks[0].edge_layers[0].spec) == networks[0].count()
    wide, narrow = (c.layer_flops(kan([2, n], base="zero").edge_layers[0]) for n in (4, 3))
    assert product["flops"] - plain["flops"] == wide - narrow + 1
    per_edge = plain["kanbefair_flops"] / 9
    assert product["kanbefair_flops"] - plain["kanbefair_flops"] == 2 * per_edge + 1


def test_base_costs_one_function_per_input_and_two_operations_per_edge():
    costs = [c.layer_flops(kan([2, 3], 5, base=base).edge_layers[0]) for base in ("relu", "zero")]
    assert costs[0] - costs[1] == 2 * c.ACTIVATION_FLOPS["relu"] + 2 * 6


@pytest.mark.parametrize(
    "degree, uniform, extrapolation, flops",
    cases("""
        1 | True | linear | 14
        1 | True | constant | 16
        1 | True | zero | 18
        1 | False | linear | 17
        1 | False | constant | 11
        3 | True | linear | 41
        0 | True | linear | 0
    """),
)
def test_basis_flops_by_hand(degree, uniform, extrapolation, flops):
    """For example, degree 1 on a uniform grid with extrapolation zero needs 18 operations.

    They are position 4, interval 2, distance 1 + 2, 2 for the extrapolation, 3 for clamping, and 4
    for a matrix of 2 numbers. De Boor's recurrence, for other grids: clamp 2, quotient 2, weights
    4; slopes 2, distance 3, added products 4.
    """
    assert c.basis_flops(degree, uniform=uniform, extrapolation=extrapolation) == flops


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(60, 5000))
@settings(max_examples=40)
def test_matching_finds_the_nearest(inputs, outputs, depth, wanted):
    match = match_parameters(inputs, outputs, depth, wanted)
    assert len(match.hidden) == depth
    assert match.value == mlp_parameters((inputs, *match.hidden, outputs))
    assert match.close == (abs(match.value - wanted) <= 0.02 * wanted)
    step = inputs + outputs + 1 if depth == 1 else match.hidden[0] + outputs + 1
    if min(match.hidden) > 1:  # at most half of what one node adds
        assert match.close or abs(match.value - wanted) <= step / 2


def test_a_size_too_small_gives_the_nearest_and_says_so():
    match = match_parameters(10, 1, 2, 5)
    assert (match.hidden, match.close) == ((1, 1), False)
    assert match.off > 1


@pytest.mark.parametrize(
    "depth, wanted, sentence",
    cases("""
        0 | 100 | 0 hidden layers
        1 | 0 | must be positive
    """),
)
def test_impossible_sizes_to_match_are_refused(depth, wanted, sentence):
    with refuses(sentence):
        match_parameters(2, 1, depth, wanted)
