"""Formulas, tables, figures, exports and messages use the user's names, even unusual ones."""

import runpy

import numpy as np
import pandas as pd
import pytest
import sympy
from cases import cases, refuses
from doors import check_config, run_config, typed
from made_graphs import edge

from kanrun import interpret
from kanrun.engine.symbolic import Graph, SearchData, Spline, fit_expression
from kanrun.engine.symbolic.formula import Formula, rename_variables
from kanrun.engine.symbolic.graph import edge_name
from kanrun.engine.symbolic.problem import titled
from kanrun.formulas.parsing import parse, variable
from kanrun.model.model import LoadedRun

#: Names of two columns, and their a/b^2 as text and in LaTeX.
COLUMNS = r"""
x1 | x0 | x1/x0**2 | \frac{x_{1}}{x_{0}^{2}}
size m2 | rent (EUR) | size_m2/rent_EUR**2 | \frac{size_{m2}}{rent_{EUR}^{2}}
lambda | f1 | lambda_/f1**2 | \frac{\lambda_{}}{f_{1}^{2}}
E | e | E/e**2 | \frac{E}{\mathrm{e}^{2}}
x_1 | x1 | x_1/x1**2 | \frac{\mathrm{x\_1}}{\mathrm{x1}^{2}}
Größe | rebar | Größe/rebar**2 | \frac{Größe}{\mathrm{rebar}^{2}}
"""


def table_of(names):
    x = np.random.default_rng(2).uniform(1, 3, (60, 2))
    return pd.DataFrame({names[0]: x[:, 0], names[1]: x[:, 1], "y": x[:, 0] / x[:, 1] ** 2})


@pytest.mark.parametrize("first, second, text, latex", cases(COLUMNS))
def test_formulas_have_the_names_of_the_columns(first, second, text, latex):
    frame = table_of((first, second))
    found = interpret(frame[[first, second]], frame["y"], budget=2.0)
    assert str(found) == str(found.formula) == text
    forms = found.formula.forms()
    assert (forms["text"], forms["latex"]) == (text, latex)
    assert parse(text, found.formula.names) == found.formula.expression
    own = {}
    exec(forms["python"], own)
    np.testing.assert_allclose(own["formula"](3.0, 2.0), 0.75, rtol=1e-12)


FILES = r"""
f.txt | "Größe" = x1/x0**2
f.tex | Größe = \frac{x_{1}}{x_{0}^{2}}
f.py | def f(x1, x0):
f.c | double f(double x1, double x0)
"""


def test_runs_and_exports_have_the_names_of_the_columns(tmp_path):
    table_of(("x1", "x0")).rename(columns={"y": "Größe"}).to_csv(tmp_path / "t.csv", index=False)
    line = f"target.path={tmp_path}/t.csv target.outputs=[Größe] budget=2"
    done = run_config(typed("interpret", line), tmp_path / "outputs")
    assert set(done.table("summary")["formula"]) == {"x1/x0**2"}
    edges = done.table("edges")
    squared = (edges["symbolic"] == "1/x^2") & edges["input_name"].notna()
    assert set(edges.loc[squared, "input_name"]) == {"x0"}
    for file, content in cases(FILES):
        LoadedRun(done).export("formula", tmp_path / file)
        assert content in (tmp_path / file).read_text()
    assert runpy.run_path(str(tmp_path / "f.py"))["f"](3.0, 2.0) == pytest.approx(0.75)


def test_edges_are_called_by_the_names_of_the_inputs():
    places = ((1, 2), (0, 3), (2, 3))
    edges = tuple(edge(*place, "sin", 1.0, 0.0, 1.0, 0.0) for place in places)
    graph = Graph(2, ("sum", "sum"), edges)
    names = [edge_name(graph, index, ("x1", "size m2")) for index in range(3)]
    assert names == ["size m2 to node 0", "x1 to output", "node 0 to output"]


def test_spline_functions_are_renamed_if_a_column_has_their_name():
    spline = Spline(0.0, 1.0, np.ones(4), 3)
    x = variable("x0")
    y = variable("x1")
    inner = sympy.Function("f1")(x) + y
    partly = Formula(inner, ("x0", "x1"), Graph(2, ("sum",), ()), (("f1", spline),))
    assert str(rename_variables(partly, ("x1", "x0"))) == "x0 + f1(x1)"
    shown = rename_variables(partly, ("f1", "f_2"))
    assert str(shown) == "f_2 + ff1(f1)"
    assert [name for name, _ in shown.splines] == ["ff1"]


def test_groups_are_in_the_names_of_the_inputs():
    x = np.random.default_rng(0).uniform(1, 2, (40, 3))
    data = SearchData(x, x[:, 0], x, x[:, 0])
    group = variable("x2") / (variable("x0") * variable("x1"))
    found = fit_expression("groups", variable("x0") + 1, data, (group,))
    assert titled(found, ("x2", "a", "x0")).name == "groups x0/(a*x2)"


@pytest.mark.parametrize(
    "formula, domain, sentence",
    cases("""
        log(x) | x: [-1,1] | is not finite at x=-1 and
        1/(b-x1) | x1: [-1,1], b: [-1,1] | is not finite at x1=0, b=0 and
        1/(x1-0.123) | x1: [-1,1] | is not finite near x1=0.123, where it divides by zero
        a*x1 | x1: [2,1], a: [0,1] | target.domain of x1 is [2, 1]
    """),
)
def test_refusals_name_the_variables_of_the_formula(formula, domain, sentence):
    with refuses(sentence):
        check_config(typed("interpret", f"target.formula={formula} 'target.domain={{{domain}}}'"))
