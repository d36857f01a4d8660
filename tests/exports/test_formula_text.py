"""The formula of a run folder is read by the whitelist again before it becomes a source."""

import runpy
import subprocess

import numpy as np
import pytest

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


def test_python_has_the_formulas_numbers(tmp_path):
    (tmp_path / "f.py").write_bytes(formula_bytes([stored()], "formula", "f.py", "area"))
    x = np.linspace(-2, 2, 50)
    np.testing.assert_allclose(
        runpy.run_path(str(tmp_path / "f.py"))["area"](x, x / 2), value(x, x / 2), rtol=1e-14
    )


def test_c_has_the_formulas_numbers(tmp_path):
    text = formula_bytes([stored(), stored("x1 + 1")], "c", "f.c", "f").decode()
    text += "#include <stdio.h>\n"
    text += 'int main(void) { printf("%.17g %g", f_0(0.3, 0.7), f_1(5, 2)); return 0; }\n'
    (tmp_path / "f.c").write_text(text)
    command = ["cc", "-Wall", "-Werror", "-std=c99", "f.c", "-o", "f", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run(
        [tmp_path / "f"], capture_output=True, text=True, check=True
    ).stdout.split()
    np.testing.assert_allclose([float(word) for word in said], [value(0.3, 0.7), 3.0], rtol=1e-15)


def test_text_and_latex_name_the_inputs():
    assert (
        formula_bytes([stored("x0 + x1")], "formula", "f.txt", "f") == b'"y" = x0 + x1\nx1: "b c"\n'
    )
    assert (
        formula_bytes([stored("x0/x1^2")], "formula", "f.tex", "f") == b"\\frac{x_{0}}{x_{1}^{2}}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "x0); import os; (x1",
        "f1(x0) + x1",
        "x0.__class__",
        "lambda: x0",
    ],
)
@pytest.mark.parametrize("form", ["python", "c"])
def test_what_is_no_formula_becomes_no_source(text, form):
    with pytest.raises(UsageError, match="is text alone"):
        formula_bytes([stored(text)], form, "f", "f")


def test_other_forms_are_refused():
    with pytest.raises(UsageError, match="formula, python or c"):
        formula_bytes([stored()], "onnx", "f.onnx", "f")
