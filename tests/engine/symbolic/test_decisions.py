"""What a search for formulas accepts and where it ends, at both sides of each bound."""

from importlib import import_module

import numpy as np
import pytest
import sympy
from made_graphs import edge, one_edge

from kanrun.engine.symbolic import Graph, SearchData, reductions, snapping, symmetries
from kanrun.engine.symbolic.candidates import IDENTITY, TABLE, choose
from kanrun.engine.symbolic.conversions import graph_of_expression
from kanrun.engine.symbolic.dictionary import dictionary_of_one, generic_terms, powers_of
from kanrun.engine.symbolic.formula import round_constants
from kanrun.engine.symbolic.problem import FittedStructure, SearchPolicy, SearchProblem
from kanrun.engine.symbolic.regression import OutputTransform, output_transforms, solve_terms
from kanrun.engine.symbolic.search import choose_formula
from kanrun.engine.symbolic.symmetries import ACCURATE
from kanrun.engine.symbolic.written_numbers import as_written
from kanrun.formulas import parse

#: The package exports functions of these names.
search, refits = (import_module(f"kanrun.engine.symbolic.{name}") for name in ("search", "refit"))

X = np.linspace(1, 2, 101)[:, None]
Y = np.resize([1.0, -1.0], 101)
DATA = SearchData(X, Y, X, Y)
LINE = one_edge("x", 1.0, 0.0, 1.0, 0.0, free="cd")


class Scripted(SearchData):
    """Errors of graphs by the constant c of their first edge."""

    def error(self, model):
        return model.edges[0].function.constants[2]

    def residuals_are_noise(self, model):
        return True


SCRIPTED = Scripted(X, Y, X, Y)
PROBLEM = SearchProblem(SCRIPTED, choose(["x"]), SearchPolicy())


def with_error(error):
    return one_edge("x", 1.0, 0.0, error, 0.0, free="cd")


def test_points_and_chance_of_models():
    few = SearchData(X[:15], Y[:15], X[:15], Y[:15])
    assert [few.has_enough_points(constants) for constants in (5, 6)] == [True, False]
    assert [few.interpolated_by(count) for count in (13, 14)] == [False, True]
    assert few.no_skill_error == pytest.approx(0.8 * few.error(few.mean))
    assert DATA.no_skill_error == pytest.approx((1 - 2 / 101**0.5) * DATA.error(DATA.mean))


@pytest.mark.parametrize("error, certain", [(1.9e-14, True), (2.1e-14, False), (1.1e-12, None)])
def test_an_imitation_is_no_certain_formula(error, certain, monkeypatch):
    """The search goes on from an exact formula that leaves more than rounding."""
    monkeypatch.setattr(Scripted, "y_std", 1.0)
    found = FittedStructure("1-1", LINE, SCRIPTED, with_error(error))
    assert (found.is_exact, found.is_certain) == (certain is not None, bool(certain))
    other = FittedStructure("1-1", LINE, SCRIPTED, one_edge("exp", 1.0, 0.0, 1e-15, 0.0))
    assert choose_formula([found, other], SCRIPTED) is (found if certain else other)


@pytest.mark.parametrize("offset, exact", [(900.0, 1e-12), (1100.0, 1.1e-12)])
def test_what_is_exact_allows_for_the_rounding_of_y(offset, exact):
    y = np.resize([offset + 1, offset - 1], 100)
    assert SearchData(X[:100], y, X[:100], y).exact == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("mean, worse", [(0.19, False), (0.21, True)])
def test_a_model_is_worse_beyond_two_standard_errors(mean, worse):
    """The squared errors differ by `mean` and one standard deviation."""
    data = SearchData(X[:100], Y[:100], X[:100], Y[:100])
    squares = 4 + mean + Y[:100]
    first, second = (lambda x: Y[:100] + np.sqrt(squares)), (lambda x: Y[:100] + 2)
    assert data.not_significantly_worse(first, second) != worse


@pytest.mark.parametrize("flips, noise", [(166, True), (164, False)])
def test_residuals_whose_neighbours_are_alike_are_no_noise(flips, noise):
    """Residuals of +1 and -1, whose correlation is 1 - flips / 200; 3.5 / sqrt(401) is 0.175."""
    x = np.linspace(0, 1, 401)[:, None]
    residuals = (-1.0) ** (np.arange(401) * flips // 400)
    data = SearchData(x, 0 * x[:, 0], x, 0 * x[:, 0])
    assert data.residuals_are_noise(lambda x: residuals) == noise


@pytest.mark.parametrize(
    "before, after, edges", [(1.0, 1.29, 1), (1.0, 1.31, 2), (1e-12, 0.99e-7, 1), (0, 1.01e-7, 2)]
)
def test_an_edge_goes_if_the_error_grows_little(before, after, edges, monkeypatch):
    monkeypatch.setattr(snapping, "refit_on_grids", lambda graph, data, settings: graph)
    errors = {1: after, 2: float(before)}
    monkeypatch.setattr(Scripted, "error", lambda self, graph: errors[len(graph.edges)])
    both = Graph(1, ("sum",), tuple(edge(0, 1, name, 1.0, 0.0, 1.0, 0.0) for name in ("x", "sin")))
    assert len(snapping.eliminate(both, SCRIPTED).edges) == edges


@pytest.mark.parametrize("error, limited", [(2.1e-5, True), (1.9e-5, False)])
def test_small_residuals_are_no_noise(error, limited):
    assert snapping.is_noise_limited(with_error(error), SCRIPTED) == limited


@pytest.mark.parametrize(
    "formula, network, longer",
    # Noise limits the second network, and a formula within 2 % of it is good enough.
    [(1.01e-12, 1e-6, True), (0.9e-12, 1e-6, False), (1.01e-2, 1e-2, False), (1.03e-2, 1e-2, True)],
)
def test_a_structure_is_searched_longer_unless_it_is_good(formula, network, longer, monkeypatch):
    monkeypatch.setattr(snapping, "_with_edge_formulas", lambda *_: {})
    monkeypatch.setattr(snapping, "_assigned", lambda tried, *_: tried)
    tried = FittedStructure("1-1", with_error(network), SCRIPTED, with_error(formula))
    assert bool(list(snapping.search_longer(tried, PROBLEM))) == longer


@pytest.mark.parametrize("factor, taken", [(99.0, True), (101.0, False)])
def test_a_network_counts_with_a_hundred_times_its_error(factor, taken, monkeypatch):
    """Its description has no constants; that of the formula has two, at equal lengths here."""
    found = FittedStructure("1-1", LINE, SCRIPTED, with_error(1e-3))
    length = found.length
    bare = (length - search.length_of(1.0, 0, 0.0, SCRIPTED)) / SCRIPTED.count
    network = FittedStructure("1-1", with_error(np.exp(bare) / factor), SCRIPTED)
    assert (choose_formula([found, network], SCRIPTED) is network) == (not taken)


@pytest.mark.parametrize("sign", [1, -1])
def test_transforms_of_the_output_are_undone_by_their_functions(sign):
    y = sign * np.linspace(0.1, 0.9, 20)
    names = {"1/x", "sqrt", "exp", "1/sqrt", "x^2", "1/x^2", "log", "arcsin", "arctan", "tanh"}
    found = output_transforms(y, {*names, "sin"})
    assert len(found) == 12
    for each in found:
        np.testing.assert_allclose(each.restore(each.values), y)


@pytest.mark.parametrize(
    "before, after, in_y, noise, good",
    [
        # The error may grow by 1.5, or up to ACCURATE, if the fit was within 3 %.
        (0.02, 0.0299, 9.0, 0.0, True),
        (0.02, 0.0301, 0.0, 0.0, False),
        (1e-9, 0.99 * ACCURATE, 9.0, 0.0, True),
        (1e-9, 1.01 * ACCURATE, 0.0, 0.0, False),
        # Else also the error of y counts, and noise may make an error.
        (0.1, 0.149, 0.149, 0.0, True),
        (0.1, 0.149, 0.151, 0.0, False),
        (0.1, 0.59, 0.149, 0.4, True),
        (0.1, 0.61, 0.149, 0.4, False),
    ],
)
def test_a_fit_in_fewer_variables_is_as_good(before, after, in_y, noise, good):
    assert symmetries._is_as_good(before, after, in_y, noise) == good


class Slopes(symmetries.GaussianProcessFit):
    """A fit of this error whose slopes are constant."""

    def __init__(self, error, *slopes):
        self.__dict__.update(error=error, slopes=np.array(slopes), logarithmic=False)

    def gradient(self, x):
        return np.tile(self.slopes / x.std(0), (len(x), 1))


@pytest.mark.parametrize("error, idle", [(0.0, 1e-4), (1e-2, 0.035)])
def test_an_input_with_little_effect_is_left_out_first(error, idle):
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    data = SearchData(x, x[:, 0], x, x[:, 0])
    for factor in (0.99, 1.01):
        steps = symmetries._proposals(data, Slopes(error, 1.0, factor * idle))
        assert ([str(step.variables) for step in steps] == ["(x0,)"]) == (factor < 1)


@pytest.mark.parametrize(
    "number, text",
    [
        ("1/8", "1/8"),
        ("213/500", "0.426"),
        ("1/5", "0.2"),
        ("1/3", "1/3"),
        ("1000000001/4", "1000000001/4"),
    ],
)
def test_fractions_are_decimal_numbers_where_these_are_not_longer(number, text):
    written = as_written(sympy.Rational(number) * sympy.Symbol("x0"))
    assert str(written) == str(sympy.sympify(text) * sympy.Symbol("x0")).replace("000000000000", "")


@pytest.mark.parametrize(
    "text, free",
    [
        ("sin(x0)", [""]),
        ("3*sin(2*x0) + 5", ["acd"]),
        ("sin(x0 - 2)", ["b"]),
        ("x0 + sin(x0)", ["", ""]),
        ("x0/2 + sin(x0)", ["c", ""]),
    ],
)
def test_numbers_of_an_expression_are_free_constants_but_for_0_and_1(text, free):
    assert [each.function.free for each in graph_of_expression(parse(text), 1).edges] == free


@pytest.mark.parametrize("more, found", [(0, 0), (1, 1)])
def test_powers_beyond_the_table_need_most_of_it(more, found):
    t = X[:, 0]
    some = list(TABLE.values())[: len(TABLE) // 2 + more]
    line = dictionary_of_one(t, choose(["x"])).first(1)
    assert len(powers_of(line, some, [7])) == found


def test_a_constant_input_does_not_disturb_a_smooth_fit():
    x = np.column_stack([X[:, 0], np.ones(101)])
    fit = symmetries.smooth_fit(SearchData(x, x[:, 0] ** 2, x, x[:, 0] ** 2))
    assert fit.error < 1e-3


def test_a_quotient_of_terms_leaves_no_error():
    t = X[:, 0]
    line = dictionary_of_one(t, choose(["x"])).first(1)
    found = solve_terms(OutputTransform((1 + 2 * t) / (1 + t / 3)), line, line)
    assert found.error < 1e-14
    assert found.coefficients == pytest.approx([2, -1 / 3, 1])


@pytest.mark.parametrize(
    "grids, errors, tried",
    [
        # A finer grid may have 1.5 times the lowest error before.
        ((5, 10), [1.51e-3], [5]),
        ((5, 10), [1.49e-3, 1.49e-3], [5, 10]),
        ((5, 10, 12), [0.5e-3, 0.76e-3], [5, 10]),
        # The last one is doubled up to 101 / 4 intervals, while errors above 3e-3 halve.
        ((5,), [0.1, 0.051], [5, 10]),
        ((5,), [0.1, 0.049, 0.02], [5, 10, 20]),
        ((5,), [3.1e-3, 0.0], [5, 10]),
        ((5,), [2.9e-3], [5]),
        ((13,), [0.1], [13]),
        ((12,), [0.1, 0.01], [12, 24]),
    ],
)
def test_grids_of_a_structure_become_finer(grids, errors, tried, monkeypatch):
    each, found = iter(errors), []
    monkeypatch.setattr(refits, "refit", lambda *_: with_error(next(each)))
    monkeypatch.setattr(
        refits, "fitted_grids", lambda g, x, intervals: found.append(intervals) or g
    )
    start = 1e-3 if grids[1:] else 1.0
    best = refits.extend(with_error(start), SCRIPTED, grids)
    assert found == tried
    assert SCRIPTED.error(best) == min([start, *errors])


def test_entries_that_are_others_times_a_factor_or_shifted_are_dropped():
    line = dictionary_of_one(X[:, 0], choose(["x"])).first(1)
    both = line.functions(IDENTITY, np.array([(1.0, 0.0), (-2.0, 0.0), (1.0, 3.0)]))
    assert [len(both.simplest(9, shifted=shifted)) for shifted in (True, False)] == [1, 2]


def test_generic_terms_follow_the_range_of_their_input():
    found = [generic_terms(X[:, 0] + shift, choose(["sin"]), 9).values for shift in (0, 100)]
    assert len(found[0]) == len(found[1]) > 3


@pytest.mark.parametrize("count, kept", [(79, False), (80, True)])
def test_points_of_one_sign_are_used_if_they_are_enough(count, kept):
    """Inputs of either sign over decades; the outputs of the first sign have the smaller range."""
    sizes = np.geomspace(1e-3, 1.0, count)
    x = np.concatenate([sizes, -sizes])[:, None]
    y = np.concatenate([0 * sizes + 1, np.exp(3 * sizes)])
    assert len(reductions.of_one_sign(SearchData(x, y, x, y)).y) == (count if kept else 2 * count)


@pytest.mark.parametrize("sign, factor", [(1, "x0**(3/2)"), (-1, "x0**2")])
def test_half_powers_of_positive_inputs_are_factors(sign, factor):
    x = np.geomspace(1e-3, 1.0, 100)[:, None]
    data = SearchData(x, x[:, 0] ** 1.5, x, x[:, 0] ** 1.5)
    every = SearchData(sign * x, data.y, x, data.y)
    found = reductions.power_factor(data, every)
    assert str(found.factor) == factor


@pytest.mark.parametrize("name, exact", [("sin", True), ("tanh", False)])
def test_quarter_turns_are_in_phases_of_waves_only(name, exact):
    graph = one_edge(name, 1.0, 2 - np.pi / 2, 1.0, 0.0, free="b")
    data = SearchData(X, graph(X), X, graph(X))
    assert bool(round_constants(graph, data, 1e-9)[1]) == exact
