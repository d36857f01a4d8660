"""Other programs that search for formulas, and the accuracy of formulas of logits."""

from types import SimpleNamespace

import numpy as np
import pytest
from doors import typed
from kanrun.experiments.interpret import backends, check, run
from kanrun.experiments.interpret.tables import accuracy_records

from kanrun.errors import UsageError
from kanrun.formulas import parse, to_numpy

TRUTH = "x0^3 + 2*sin(x1)"


def settings(line):
    target = f"'target.formula={TRUTH}' target.domain=[[0.1,1],[0.1,1]] sampling.n_train=200"
    return typed("interpret", target, line)


@pytest.mark.parametrize(
    "found, outcome",
    [
        (["1.7*x0", "0.9*x0^3 + 1.9*sin(x1)"], "exact"),  # its constants are refitted, as ours are
        (["x0 + x1"], "formula"),
        ([], "failed"),
    ],
)
def test_what_a_peer_finds_has_our_judge(found, outcome, monkeypatch):
    seen = {}

    def other(x, y, seconds, seed):
        seen.update(x=x, y=y, seconds=seconds)
        return [parse(text, ["x0", "x1"]) for text in found]

    monkeypatch.setitem(backends.BACKENDS, "operon", ("sympy", other))
    records = list(run(settings("backend=operon budget=8 simplify_budget=0"), {}, 0))
    (row,) = [record.values for record in records if getattr(record, "table", "") == "summary"]
    assert (row["outcome"], row["backend"]) == (outcome, "operon")
    np.testing.assert_allclose(to_numpy(parse(TRUTH), ["x0", "x1"])(seen["x"]), seen["y"])
    assert len(seen["y"]) == 200
    assert 4 < seen["seconds"] < 8


def test_a_program_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(
        backends.BACKENDS, "gplearn", ("a_module_that_nobody_has", backends.BACKENDS["gplearn"][1])
    )
    with pytest.raises(
        UsageError, match=r"a_module_that_nobody_has, which is not installed.*kanrun\[peers\]"
    ):
        check(settings("backend=gplearn"))


def test_a_list_of_functions_in_prefix_order_is_read():
    def node(name, arity):
        return SimpleNamespace(name=name, arity=arity)

    text = [node("sub", 2), node("mul", 2), 0, np.float64(2.5), node("log", 1), 1]
    read = to_numpy(backends._from_prefix(iter(text)), ["x0", "x1"])
    np.testing.assert_allclose(read(np.array([[2.0, -np.e]])), 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["operon", "gplearn"])
def test_peers_run_for_their_seconds(backend):
    package, search = backends.BACKENDS[backend]
    pytest.importorskip(package)
    x = np.random.default_rng(0).uniform(-1, 1, (100, 1))
    names = [to_numpy(found, ["x0"]) for found in search(x, x[:, 0] ** 2, 2.0, 0)]
    assert min(np.sqrt(np.mean((f(x) - x[:, 0] ** 2) ** 2)) for f in names) < 0.05


def problem(logits, labels):
    scaling = SimpleNamespace(invert=lambda x: x)
    held_out = SimpleNamespace(x=np.arange(4.0)[:, None], y=np.array(logits))
    return SimpleNamespace(
        labels=np.array(labels), held_out=held_out, scaling=scaling, unit=1.0, shift=0.0
    )


def result(values):
    return SimpleNamespace(formula=values and (lambda x: np.array(values)))


def test_two_classes_are_told_by_the_sign_and_more_by_the_largest_logit():
    two = problem([-1.0, 2, 3, -4], [0, 1, 0, 0])
    row, note = accuracy_records([(two, result([1.0, 1, 1, -1]))])
    assert row.values == {"points": 4, "formula": 0.5, "network": 0.75}
    assert "formula 0.5, network 0.75" in note.text
    logits = [[3.0, 0, 0, 1], [0.0, 2, 0, 2], [1.0, 1, 5, 3]]
    three = [(problem(each, [0, 1, 2, 1]), result(each)) for each in logits]
    row, _ = accuracy_records(three)
    assert row.values == {"points": 4, "formula": 0.75, "network": 0.75}
    assert not [*accuracy_records([(two, result(None))])]
