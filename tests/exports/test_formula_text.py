"""Export of formulas; their text is parsed again, because run folders may be manipulated."""

import runpy

import numpy as np
import pytest
from cases import cases
from processes import run
from scipy.interpolate import BSpline

from kanrun.errors import UsageError
from kanrun.exports import formula_bytes

SPLINE = BSpline(np.arange(-3, 9) / 5 + 2.0, [1.0, -2, 0.5, 3, 1, -1, 2, 0.3], 3)


def stored(text="0.12345678901234567*sin(pi*x0) + exp(-x1**2)/3", **more):
    names = {"variables": ["x0", "x1"], "inputs": ["x0", "b c"], "output": "y"}
    return {"formula": {"text": text}} | names | more


PARTLY_NUMERIC = stored("2*f1(x0*x1) + x1", splines={"f1": (SPLINE.t.tolist(), SPLINE.c.tolist())})


def text_of(one, form="formula", file="f"):
    return formula_bytes([one], form, file, "f").decode()


def value(x0, x1):
    return 0.12345678901234567 * np.sin(np.pi * x0) + np.exp(-(x1**2)) / 3


def numeric_value(x0, x1):
    """Return the value of PARTLY_NUMERIC, whose spline continues linearly."""
    t = x0 * x1
    held = np.clip(t, 2, 3)
    return 2 * (SPLINE(held) + (t - held) * SPLINE(held, nu=1)) + x1


@pytest.mark.parametrize("one, value", [(stored(), value), (PARTLY_NUMERIC, numeric_value)])
def test_python_and_c_have_the_numbers_of_formulas(one, value, tmp_path):
    (tmp_path / "f.py").write_text(text_of(one, file="f.py"))
    x0 = np.linspace(1.5, 3.5, 200)
    x1 = np.linspace(1.2, 0.9, 200)
    f = runpy.run_path(str(tmp_path / "f.py"))["f"]
    np.testing.assert_allclose(f(x0, x1), value(x0, x1), rtol=1e-12)
    source = formula_bytes([one, stored("x1 + 1")], "c", "f.c", "f").decode()
    body = 'printf("%.17g %g", f_0(2.2, 1.1), f_1(5, 2));'
    source += f"#include <stdio.h>\nint main(void) {{ {body} return 0; }}\n"
    (tmp_path / "f.c").write_text(source)
    run(["cc", "-Wall", "-Werror", "-std=c99", "f.c", "-o", "f", "-lm"], cwd=tmp_path)
    found = list(map(float, run([tmp_path / "f"]).stdout.split()))
    np.testing.assert_allclose(found, [value(2.2, 1.1), 3.0], rtol=1e-12)


def test_text_and_latex_name_the_inputs():
    assert text_of(stored("x0 + x1"), file="f.txt") == '"y" = x0 + x1\nx1: "b c"\n'
    latex = '% x1: "b c"\ny = \\frac{x_{0}}{x_{1}^{2}}\n'
    assert text_of(stored("x0/x1^2"), file="f.tex") == latex


def test_formula_files_state_names_units_and_domain():
    names = {"variables": ["m", "v"], "inputs": ["m", "v"], "output": "E"}
    units = {"domain": [[1, 2], [0, 30.5]], "units": {"v": "m/s", "E": "J"}}
    one = stored("m*v^2/2", **names, **units)
    lines = ['m: "m", from 1 to 2', 'v: "v", in m/s, from 0 to 30.5', '"E": in J']
    assert text_of(one, file="f.txt").splitlines()[1:] == lines
    latex = text_of(one, file="f.tex").splitlines()
    assert latex == [*(f"% {line}" for line in lines), r"E = \frac{m v^{2}}{2}"]
    assert "def f(m, v):" in text_of(one, "python")
    text = text_of(stored("int*v", **units, **names | {"variables": ["int", "v"]}), "c")
    assert "double f(double int_, double v)" in text
    assert '// int_: "m", from 1 to 2' in text


def test_partly_numeric_formulas_in_latex_have_their_splines():
    latex = text_of(PARTLY_NUMERIC, file="f.tex")
    assert r"y = x_{1} + 2 f_{1}{\left(x_{0} x_{1} \right)}" in latex
    assert r"f_{1}{\left(t \right)} = \begin{cases}" in latex


@pytest.mark.parametrize(
    "text, form, sentence",
    cases(
        r"""
__import__('os').system('id') | python | can only be exported as text
__import__('os').system('id') | c | can only be exported as text
x0); import os; (x1 | python | can only be exported as text
f1(x0) + x1 | python | can only be exported as text
f1(x0) + x1 | c | can only be exported as text
x0.__class__ | python | can only be exported as text
lambda: x0 | c | can only be exported as text
x0 | onnx | formula, python or c
"""
    ),
)
def test_texts_that_are_no_formula_and_other_formats_are_refused(text, form, sentence):
    with pytest.raises(UsageError, match=sentence):
        text_of(stored(text), form)
