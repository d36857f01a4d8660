"""Export of formulas; their text is parsed again, because run folders may be manipulated."""

import runpy

import numpy as np
import pytest
from cases import cases
from processes import run
from scipy.interpolate import BSpline

from kanrun.errors import UsageError
from kanrun.exports import formula_bytes


def stored(text="0.12345678901234567*sin(pi*x0) + exp(-x1**2)/3", **more):
    return {
        "formula": {"text": text},
        "variables": ["x0", "x1"],
        "inputs": ["x0", "b c"],
        "output": "y",
        **more,
    }


def value(x0, x1):
    return 0.12345678901234567 * np.sin(np.pi * x0) + np.exp(-(x1**2)) / 3


def run_c(folder, text, body):
    """Compile a formula in C with a main function, and return the numbers that it prints."""
    text += f"#include <stdio.h>\nint main(void) {{ {body} return 0; }}\n"
    (folder / "f.c").write_text(text)
    command = ["cc", "-Wall", "-Werror", "-std=c99", "f.c", "-o", "f", "-lm"]
    run(command, cwd=folder)
    return [float(word) for word in run([folder / "f"]).stdout.split()]


def test_python_has_the_formulas_numbers(tmp_path):
    (tmp_path / "f.py").write_bytes(formula_bytes([stored()], "formula", "f.py", "area"))
    x = np.linspace(-2, 2, 50)
    np.testing.assert_allclose(
        runpy.run_path(str(tmp_path / "f.py"))["area"](x, x / 2), value(x, x / 2), rtol=1e-14
    )


def test_c_has_the_formulas_numbers(tmp_path):
    text = formula_bytes([stored(), stored("x1 + 1")], "c", "f.c", "f").decode()
    found = run_c(tmp_path, text, 'printf("%.17g %g", f_0(0.3, 0.7), f_1(5, 2));')
    np.testing.assert_allclose(found, [value(0.3, 0.7), 3.0], rtol=1e-15)


def test_text_and_latex_name_the_inputs():
    assert (
        formula_bytes([stored("x0 + x1")], "formula", "f.txt", "f") == b'"y" = x0 + x1\nx1: "b c"\n'
    )
    assert (
        formula_bytes([stored("x0/x1^2")], "formula", "f.tex", "f")
        == b'% x1: "b c"\ny = \\frac{x_{0}}{x_{1}^{2}}\n'
    )


def test_formula_files_state_names_units_and_domain():
    one = stored("m*v^2/2", output="E")
    one |= {"variables": ["m", "v"], "inputs": ["m", "v"], "domain": [[1, 2], [0, 30.5]]}
    one |= {"units": {"v": "m/s", "E": "J"}}
    lines = ['m: "m", from 1 to 2', 'v: "v", in m/s, from 0 to 30.5', '"E": in J']
    assert formula_bytes([one], "formula", "f.txt", "f").decode().splitlines()[1:] == lines
    latex = formula_bytes([one], "formula", "f.tex", "f").decode().splitlines()
    assert latex == [*(f"% {line}" for line in lines), r"E = \frac{m v^{2}}{2}"]
    assert "def f(m, v):" in formula_bytes([one], "python", "f.py", "f").decode()
    text = formula_bytes(
        [one | {"variables": ["int", "v"], "formula": {"text": "int*v"}}], "c", "f", "f"
    )
    assert b"double f(double int_, double v)" in text
    assert b'// int_: "m", from 1 to 2' in text


SPLINE = BSpline(np.arange(-3, 9) / 5 + 2.0, [1.0, -2, 0.5, 3, 1, -1, 2, 0.3], 3)


def partly_numeric():
    splines = {"f1": (SPLINE.t.tolist(), SPLINE.c.tolist())}
    return stored("2*f1(x0*x1) + x1", splines=splines)


def numeric_value(x0, x1):
    t = np.asarray(x0) * x1
    held = np.clip(t, 2, 3)
    return 2 * (SPLINE(held) + (t - held) * SPLINE(held, nu=1)) + x1


def test_partly_numeric_formulas_are_complete_in_python_and_c(tmp_path):
    x0 = np.linspace(1.5, 3.5, 200)
    x1 = np.linspace(1.2, 0.9, 200)
    (tmp_path / "f.py").write_bytes(formula_bytes([partly_numeric()], "python", "f.py", "f"))
    f = runpy.run_path(str(tmp_path / "f.py"))["f"]
    np.testing.assert_allclose(f(x0, x1), numeric_value(x0, x1), rtol=1e-12)
    text = formula_bytes([partly_numeric()], "c", "f.c", "f").decode()
    found = run_c(tmp_path, text, 'printf("%.17g", f(2.2, 1.1));')
    assert found == pytest.approx([numeric_value(2.2, 1.1)], rel=1e-12)


def test_partly_numeric_formulas_in_latex_have_their_splines():
    latex = formula_bytes([partly_numeric()], "formula", "f.tex", "f").decode()
    assert r"y = x_{1} + 2 f_{1}{\left(x_{0} x_{1} \right)}" in latex
    assert r"f_{1}{\left(t \right)} = \begin{cases}" in latex


@pytest.mark.parametrize(
    "text",
    cases(
        r"""
__import__('os').system('id')
x0); import os; (x1
f1(x0) + x1
x0.__class__
lambda: x0
"""
    ),
)
@pytest.mark.parametrize("form", ["python", "c"])
def test_expressions_that_are_no_formula_are_not_exported(text, form):
    with pytest.raises(UsageError, match="can only be exported as text"):
        formula_bytes([stored(text)], form, "f", "f")


def test_formulas_are_not_exported_to_onnx():
    with pytest.raises(UsageError, match="formula, python or c"):
        formula_bytes([stored()], "onnx", "f.onnx", "f")
