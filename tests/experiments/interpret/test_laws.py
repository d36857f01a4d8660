"""Laws of physics from tables with their noise, and the constants of physics in exact formulas."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.constants
import sympy
from doors import typed
from kanrun.experiments import interpret as experiment
from kanrun.experiments.interpret.physical_constants import CONSTANTS, name_constants
from kanrun.experiments.interpret.problem import decimal_scales
from kanrun.experiments.interpret.tables import exchange_effect, prediction_table

from kanrun.formulas import parse, to_numpy
from kanrun.runs.records import Note, Row
from kanrun.targets import Scaling

#: Ranges of the inputs in SI units, the law, the relative noise of its values, rows.
LAWS = {
    "gas": (
        {"moles": (0.5, 3), "kelvin": (250, 400), "volume": (0.01, 0.05)},
        "8.314*moles*kelvin/volume",
        1e-2,
        200,
    ),
    "lens": ({"object": (0.3, 3), "focal": (0.05, 0.2)}, "object*focal/(object-focal)", 0.0, 150),
    "pendulum": ({"length": (0.1, 2), "mass": (0.05, 0.5)}, "2*pi*sqrt(length/9.81)", 5e-3, 80),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_found_in_its_table(name, tmp_path):
    ranges, law, noise, rows = LAWS[name]
    generator = np.random.default_rng(4)
    low, high = np.array(list(ranges.values())).T
    x = low + generator.random((rows, len(low))) * (high - low)
    names = list(ranges)
    truth = to_numpy(parse(law, names), names)
    frame = pd.DataFrame(dict(zip(ranges, x.T, strict=True)))
    frame["measured"] = truth(x) * (1 + noise * generator.normal(size=rows))
    path = tmp_path / f"{name}.csv"
    frame.to_csv(path, index=False)
    cfg = typed(
        "interpret",
        f"target.path={path} target.outputs=measured model.intervals=[5,10] "
        "sampling.validation_fraction=0.2 budget=12",
    )
    records = list(experiment.run(cfg, {}, 0))
    summary = next(
        record.values for record in records if isinstance(record, Row) and record.table == "summary"
    )
    found = parse(str(summary["formula"]), names)
    new = low + generator.random((1000, len(low))) * (high - low)
    assert np.abs(to_numpy(found, names)(new) / truth(new) - 1).max() < max(noise, 1e-9), found
    assert not sympy.simplify(found / parse(law, names)).free_symbols, found
    notes = [record.text for record in records if isinstance(record, Note)]
    said = next(text for text in notes if "by their effect" in text)
    assert ("not needed: mass" in said) == (name == "pendulum")


def decimal(text):
    """Return the formula with its fractions as numbers of 17 digits."""
    expression = parse(text, ["x0", "x1", "c"])
    long = [each for each in expression.atoms(sympy.Rational) if len(str(each)) > 5]
    return expression.xreplace({each: sympy.Float(sympy.N(each, 17), 17) for each in long})


ALPHA = {"alpha": 7.2973525693e-3, "epsilon_0": 8.8541878128e-12}


@pytest.mark.parametrize(
    "text, shown, values",
    [
        ("x0/(1 - 1.1126500560536183e-17*x1^2)", "x0/(1 - x1**2/c**2)", {"c": 299792458.0}),
        ("8987742437.98822*x0", "x0/(4*pi*epsilon_0)", {"epsilon_0": 8.854e-12}),
        ("c*x0/299792458", "c*x0/c_", {"c_": 299792458.0}),  # c is a variable of the user
        ("0.48780487804878048*x0", "x0/a", {"a": 2.05}),  # the reciprocal of a short number
        ("224844343.5*x0", "3*c*x0/4", {"c": 299792458.0}),
        ("7.259792662674554e50*x0", "c**6*x0", {"c": 299792458.0}),
        ("7738484996082.338*x0", "x0/(2*alpha*epsilon_0)", ALPHA),  # shorter than c*h*x0/e**2
        ("1.527841*x0", "1.527841*x0", {}),
        ("8987742438.8*x0", "x0/(4*pi*epsilon_0)", {"epsilon_0": 8.854e-12}),  # 0.9e-10 off
        ("8987742439.0*x0", "8987742439.0*x0", {}),  # 1.1e-10 off
    ],
)
def test_constants_of_physics_are_named(text, shown, values):
    found, named = name_constants(decimal(text), ["x0", "x1", "c"] if "c*" in text else ["x0"])
    assert (str(found), named) == (shown, values)


def test_the_constants_are_those_of_codata():
    named = {
        "c": "speed of light in vacuum",
        "h": "Planck constant",
        "hbar": "reduced Planck constant",
        "k_B": "Boltzmann constant",
        "e": "elementary charge",
        "epsilon_0": "vacuum electric permittivity",
        "G": "Newtonian constant of gravitation",
        "m_e": "electron mass",
        "alpha": "fine-structure constant",
        "mu_B": "Bohr magneton",
        "N_A": "Avogadro constant",
        "g": "standard acceleration of gravity",
    }
    for name, values in CONSTANTS.items():
        known = scipy.constants.value(named.pop(name))
        assert values == pytest.approx([known] * len(values), rel=3e-4)
    assert not named


def test_predictions_are_in_the_units_of_the_data():
    x, held_out = np.array([[1.0]]), SimpleNamespace(x=np.array([[0.5]]), y=np.array([2.0]))
    scaling = Scaling(np.array([1.0]), np.array([4.0]))
    problem = SimpleNamespace(
        points=lambda: (x, x[:, 0]), held_out=held_out, scaling=scaling, unit=10.0, shift=3.0
    )
    problem.inputs, problem.output, problem.only = ("a",), "y", True
    found = prediction_table(problem, lambda x: x[:, 0] ** 2).columns
    points = found["split"] != "grid"
    assert list(found["split"][points]) == ["train", "test"]
    values = [found[name][points].tolist() for name in ("input:a", "truth:y", "prediction:y")]
    assert values == [[1, 3], [1, 23], [1, 9]]


def test_columns_of_far_sizes_are_scaled_by_powers_of_ten():
    sizes = {1000.0: 1, 1001.0: 1e3, 0.001: 1, 0.00099: 1e-4, 3e-20: 1e-20, 0.0: 1}
    found = decimal_scales(np.array([[*sizes], [*sizes]]))
    assert (found.scale.tolist(), found.shift.any()) == ([*sizes.values()], False)
    # One value that is more than 1e12 times the others does not count.
    rare = decimal_scales(np.array([[1.0, 1.0], [1.0, 1.0], [1e12, 1.1e12]]))
    assert rare.scale.tolist() == [1e12, 1.0]


def test_the_effect_of_an_input_is_the_change_if_its_values_are_exchanged():
    x = np.stack([np.tile([0.0, 1.0], 2), np.repeat([0.0, 1.0], 2)], 1)
    effect = partial(exchange_effect, x=x, y=np.array([0.0, 1.0, 0.0, 1.0]))
    assert effect(lambda x: x[:, 1], index=1) == 2.0  # of a standard deviation of 1/2
    assert effect(lambda x: x[:, 1], index=0) == 0.0
    # Two of the changes 1, inf, -1 and -inf count.
    pole = lambda x: np.where(x[:, 0] * x[:, 1] == 1, np.inf, x[:, 1])  # noqa: E731
    assert effect(pole, index=1) == pytest.approx(2**0.5)
