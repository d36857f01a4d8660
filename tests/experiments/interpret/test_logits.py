"""Accuracy of a classifier whose logits are replaced by formulas."""

from types import SimpleNamespace

import numpy as np
from kanrun.experiments.interpret.tables import accuracy_records


def problem(logits, labels):
    scaling = SimpleNamespace(invert=lambda x: x)
    held_out = SimpleNamespace(x=np.arange(4.0)[:, None], y=np.array(logits))
    return SimpleNamespace(
        labels=np.array(labels), held_out=held_out, scaling=scaling, unit=1.0, shift=0.0
    )


def result(values):
    return SimpleNamespace(formula=values and (lambda x: np.array(values)))


def test_class_is_the_sign_of_one_logit_or_the_largest_of_several():
    two = problem([-1.0, 2, 3, -4], [0, 1, 0, 0])
    row, note = accuracy_records([(two, result([1.0, 1, 1, -1]))])
    assert row.values == {"points": 4, "formula": 0.5, "network": 0.75}
    assert "formula 0.5, network 0.75" in note.text
    logits = [[3.0, 0, 0, 1], [0.0, 2, 0, 2], [1.0, 1, 5, 3]]
    three = [(problem(each, [0, 1, 2, 1]), result(each)) for each in logits]
    row, _ = accuracy_records(three)
    assert row.values == {"points": 4, "formula": 0.75, "network": 0.75}
    assert not [*accuracy_records([(two, result(None))])]
