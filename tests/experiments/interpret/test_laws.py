"""Laws of physics found in noisy tables, and the tables that an interpretation writes."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sympy
from cases import cases
from doors import typed
from kanrun.experiments import interpret as experiment
from kanrun.experiments.interpret.problem import decimal_scales
from kanrun.experiments.interpret.tables import accuracy_records, exchange_effect, prediction_table

from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse
from kanrun.points import Scaling
from kanrun.runs.records import Note, Row

#: Ranges of the inputs in SI units, formula, relative noise, number of rows.
LAWS = """
{'moles': (0.5, 3), 'kelvin': (250, 400), 'volume': (0.01, 0.05)} | 8.314*moles*kelvin/volume | 1e-2 | 200
{'object': (0.3, 3), 'focal': (0.05, 0.2)} | object*focal/(object-focal) | 0.0 | 150
{'length': (0.1, 2), 'mass': (0.05, 0.5)} | 2*pi*sqrt(length/9.81) | 5e-3 | 80
"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("ranges, law, noise, rows", cases(LAWS))
def test_a_law_is_found_in_its_table(ranges, law, noise, rows, tmp_path):
    generator = np.random.default_rng(4)
    names = list(ranges)
    low, high = np.array(list(ranges.values())).T
    x, new = (low + generator.random((count, len(low))) * (high - low) for count in (rows, 1000))
    truth = to_numpy(parse(law, names), names)
    frame = pd.DataFrame(x, columns=names)
    frame["measured"] = truth(x) * (1 + noise * generator.normal(size=rows))
    frame.to_csv(tmp_path / "law.csv", index=False)
    table = f"target.path={tmp_path}/law.csv target.outputs=measured"
    cfg = typed("interpret", f"{table} sampling.validation_fraction=0.2 budget=12")
    records = list(experiment.run(cfg, {}, 0))
    (summary,) = (
        each.values for each in records if isinstance(each, Row) and each.table == "summary"
    )
    found = parse(str(summary["formula"]), names)
    assert np.abs(to_numpy(found, names)(new) / truth(new) - 1).max() < max(noise, 1e-9), found
    assert not sympy.simplify(found / parse(law, names)).free_symbols, found
    notes = [record.text for record in records if isinstance(record, Note)]
    said = next(text for text in notes if "by their effect" in text)
    assert ("not needed: mass" in said) == ("mass" in ranges)


def test_predictions_are_in_the_units_of_the_data():
    x = np.array([[1.0]])
    names = {"inputs": ("a",), "output": "y", "only": True}
    problem = SimpleNamespace(
        points=lambda: (x, x[:, 0]),
        held_out=SimpleNamespace(x=np.array([[0.5]]), y=np.array([2.0])),
        scaling=Scaling(np.array([1.0]), np.array([4.0])),
        unit=10.0,
        shift=3.0,
        **names,
    )
    found = pd.DataFrame(prediction_table(problem, lambda x: x[:, 0] ** 2).columns)
    points = found.query("split != 'grid'")
    assert list(points["split"]) == ["train", "test"]
    assert points.iloc[:, 1:].T.to_numpy().tolist() == [[1, 3], [1, 23], [1, 9]]


def test_columns_of_far_sizes_are_scaled_by_powers_of_ten():
    sizes = {1000.0: 1, 1001.0: 1e3, 0.001: 1, 0.00099: 1e-4, 3e-20: 1e-20, 0.0: 1}
    found = decimal_scales(np.array([[*sizes], [*sizes]]))
    assert (found.scale.tolist(), found.shift.any()) == ([*sizes.values()], False)
    # A single value more than 1e12 times the others is ignored.
    rare = decimal_scales(np.array([[1.0, 1.0], [1.0, 1.0], [1e12, 1.1e12]]))
    assert rare.scale.tolist() == [1e12, 1.0]


def test_the_effect_of_an_input_is_the_change_if_its_values_are_exchanged():
    x = np.stack([np.tile([0.0, 1.0], 2), np.repeat([0.0, 1.0], 2)], 1)
    effect = partial(exchange_effect, x=x, y=np.array([0.0, 1.0, 0.0, 1.0]))
    assert effect(lambda x: x[:, 1], index=1) == 2.0  # the standard deviation is 1/2
    assert effect(lambda x: x[:, 1], index=0) == 0.0
    # Of the changes 1, inf, -1 and -inf, the two finite ones are used.
    pole = lambda x: np.where(x[:, 0] * x[:, 1] == 1, np.inf, x[:, 1])  # noqa: E731
    assert effect(pole, index=1) == pytest.approx(2**0.5)


def logits(values, labels):
    """Return the problem of one logit of a classifier."""
    held_out = SimpleNamespace(x=np.arange(4.0)[:, None], y=np.array(values))
    same = {"scaling": SimpleNamespace(invert=lambda x: x), "unit": 1.0, "shift": 0.0}
    return SimpleNamespace(labels=np.array(labels), held_out=held_out, **same)


def result(values):
    return SimpleNamespace(formula=values and (lambda x: np.array(values)))


def test_class_is_the_sign_of_one_logit_or_the_largest_of_several():
    two = logits([-1.0, 2, 3, -4], [0, 1, 0, 0])
    row, note = accuracy_records([(two, result([1.0, 1, 1, -1]))])
    assert row.values == {"points": 4, "formula": 0.5, "network": 0.75}
    assert "formula 0.5, network 0.75" in note.text
    several = [[3.0, 0, 0, 1], [0.0, 2, 0, 2], [1.0, 1, 5, 3]]
    row, _ = accuracy_records([(logits(each, [0, 1, 2, 1]), result(each)) for each in several])
    assert row.values == {"points": 4, "formula": 0.75, "network": 0.75}
    assert not [*accuracy_records([(two, result(None))])]
