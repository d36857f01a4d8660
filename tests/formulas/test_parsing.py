"""The parser of formulas: expressions that it reads, and its refusals."""

import math

import numpy as np
import pytest
import sympy
from cases import cases

from kanrun.errors import UsageError
from kanrun.formulas import as_variables, constant, parse, to_text, variable, variables_in

X0, X1 = variable("x0"), variable("x1")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("exp(-x0)*sin(3*x1)", sympy.exp(-X0) * sympy.sin(3 * X1)),
        ("-x0^2", -(X0**2)),
        ("2^-x0", 2 ** (-X0)),
        ("x0^2^3", X0**8),
        ("x0/x1/2*3", 3 * X0 / (2 * X1)),
        ("(\n x0 +\n x1)", X0 + X1),
        ("1e-3*x0", X0 / 1000),
        ("x0**0.5", sympy.sqrt(X0)),
        ("pi*e*E*x0", sympy.pi * sympy.E**2 * X0),
        ("arcsin(x0)+asin(x0)", 2 * sympy.asin(X0)),
        ("ln(x0)", sympy.log(X0)),
        ("log10(x0)", sympy.log(X0) / sympy.log(10)),
        ("sqrt(x0^2)", sympy.Abs(X0)),
        ("sigmoid(x0)", 1 / (1 + sympy.exp(-X0))),
        ("gaussian(2*x0)", sympy.exp(-4 * X0**2)),
        ("besselj(3, x0)", sympy.besselj(3, X0)),
        ("cot(x0) + sec(x0) + csc(x1)", sympy.cot(X0) + sympy.sec(X0) + sympy.csc(X1)),
        ("max(x0, x1, 0)", sympy.Max(X0, X1, 0)),
        ("heaviside(x0 - x1)", (1 + sympy.sign(X0 - X1)) / 2),
        ("where(x0 >= x1, 3, 1)", 2 + sympy.sign(X0 - X1)),
        ("floor(x0) + sign(x1) + erf(x0)", sympy.floor(X0) + sympy.sign(X1) + sympy.erf(X0)),
    ],
)
def test_text_becomes_the_expression_it_writes(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *[
            "exp(sin(pi*x0) + x1^2)",
            "j0(20*x0)/3 + 1e-3",
            "sqrt(2)*x0^1.5/(x1 - 0.3)",
            "e^(2*x0)*max(x0, 1/2)",
        ],
        *[
            "abs(x0) + sign(x1)*floor(x0)",
            "log10(x0)*asin(x1)",
            "sigmoid(x0)*acosh(x1)",
            "2^x0 - erf(x1)^2",
        ],
    ],
)
def test_the_text_of_an_expression_reads_back_as_it(text):
    assert parse(str(parse(text))) == parse(text)


def test_decimals_are_exact_and_keep_all_digits_of_a_constant():
    assert parse("0.1*x0 + 0.2*x0") == parse("0.3*x0")
    assert float(sympy.N(parse("sqrt(2)*x0"), 17).args[0]) == math.sqrt(2)


REFUSALS = cases(r"""
x | unknown name 'x'; use x0, x1, ... for variables
pie*x0 | unknown name 'pie'; did you mean pi
sine(x0) | unknown function 'sine'; did you mean sin
qq(x0) | formula 'qq(x0)': unknown function 'qq'; known are sin, cos
__import__('os') | unknown function '__import__'
sin | sin is a function; write sin(...)
x0(1) | the variable x0 cannot be called; write products with *
x0.__class__ | 'x0.__class__' is not allowed
x0[0] | 'x0[0]' is not allowed
lambda x0: x0 | is not allowed
x0 if x0 else 1 | is not allowed
x0, x1 | is not allowed
f'{x0}' | is not allowed
sin(*x0) | is not allowed
[x0 for x0 in x1] | is not allowed
"'a'" | 'a' is not a number
True*x0 | True is not a number
'...' | is not a number
2x0 | a name follows the number 2 at once; write a product as 2*...
x0 x1 | it cannot be read from 'x1' on
x0^2 + x1^3 ++* 3 | it cannot be read from '* 3' on
x0*x1**2 + | it cannot be read at its end, after '+'
x0*(x1 | it cannot be read from '(x1' on
x0 = 1 | it cannot be read
'x0\x00' | it cannot be read
'' | a text such as exp(-x0)*sin(3*x1) is needed
sin(x0, x1) | sin takes 1 argument, not 2
besselj(x0) | besselj takes 2 arguments, not 1
sin(a=x0) | sin takes no named arguments
besselj(0.5, x0) | the order of besselj must be a whole number from 0 to 8
3 + 4 | does not depend on any variable; use x0, x1, ...
x99999 | the variable x99999 has too high a number; at most x9999
x0/0 | it is not finite and real
sqrt(-1)*x0 | it is not finite and real
log(-1)*x0 | it is not finite and real
tan(pi/2)*x0 | it is not finite and real
asin(2)*x0 | asin(2) is not a real number
(-2)^0.3*x0 | (-2)**(3/10) is not a real number
10**10**10 | it holds a number of absurd size
x0**10**10 | the exponent 1e+10 is too large; at most 1000 is allowed
(x0^1000)^1000 | the exponent 1e+06 is too large
1.0000001^1000000000*x0 | it holds a number of absurd size
1e999*x0 | it holds a number of absurd size
exp(exp(exp(exp(9))))*x0 | it holds a number of absurd size
""")
REFUSALS += [
    ("9" * 400 + "*x0", "it holds a number of absurd size"),
    ("(" * 5000 + "x0" + ")" * 5000, "it cannot be read"),
    (
        "sin(" * 30 + "x0" + ")" * 30,
        "it is nested too deeply (at most 10 functions inside each other)",
    ),
    ("e^-" * 30 + "x0", "it is nested too deeply"),
    ("x0+" * 10_000 + "x0", "it has 30002 characters, at most 20000 are allowed"),
    ("sin(x0)*(" * 60 + "x0" + ")" * 60 + "+sin(x0)" * 1900, "it has too many terms"),
    (
        f"max({','.join(f'sin({i}*x0)' for i in range(1, 60))})",
        "it has too many terms in min and max",
    ),
    (
        "max({},{})".format(
            *(f"max({','.join(f'x{i}' for i in part)})" for part in (range(18), range(18, 31)))
        ),
        "it has too many terms in min and max",
    ),
]


@pytest.mark.parametrize("text, sentence", REFUSALS, ids=[text[:20] for text, _ in REFUSALS])
def test_refusals_say_what_and_why(text, sentence):
    with pytest.raises(UsageError) as caught:
        parse(text)
    message = str(caught.value)
    assert sentence in message
    assert len(message) < 500
    assert "\n" not in message


def test_long_sums_are_read():
    expression = parse("+".join(f"sin(pi*x{i}/2)^2" for i in range(100)))
    assert len(expression.args) == 100
    assert expression.free_symbols == {variable(f"x{i}") for i in range(100)}


def test_listed_variables_replace_x0_and_win_over_constants():
    age = variable("age")
    e = variable("e")
    assert parse("age^2 + e", ["age", "e"]) == age**2 + e
    with pytest.raises(
        UsageError, match=r"unknown name 'aeg'; did you mean age.*the variables are age, size"
    ):
        parse("aeg + size", ["age", "size"])
    with pytest.raises(UsageError, match="unknown name 'x0'"):
        parse("x0", ["age"])
    with pytest.raises(UsageError, match="does not depend on any variable; use age"):
        parse("3", ["age"])
    with pytest.raises(UsageError, match="the variable age cannot be called"):
        parse("age(2)", ["age"])


def test_variables_that_cancel_are_counted():
    assert variables_in("1.5*x0 + 0*x2") == ("x0", "x1", "x2")
    assert variables_in("exp(1)") == ()
    with pytest.raises(UsageError, match="cannot be read"):
        variables_in("x0 x1")


@pytest.mark.parametrize(
    "value, expected",
    [
        *[
            ("0.4*pi", 0.4 * math.pi),
            ("-pi/2", -math.pi / 2),
            (2, 2.0),
            (-0.5, -0.5),
            ("1e-3", 1e-3),
        ],
        *[("e^2", math.e**2), (np.float64(3), 3.0), ("0", 0.0), ("sqrt(2)", math.sqrt(2))],
    ],
)
def test_constant_reads_numbers_and_text(value, expected):
    assert constant(value) == pytest.approx(expected, rel=1e-15)
    assert type(constant(value)) is float


@pytest.mark.parametrize(
    "value, sentence",
    [
        (
            "x0",
            "number 'x0': unknown name 'x0'; only numbers, pi, e and functions of them are allowed",
        ),
        ("nan", "unknown name 'nan'"),
        ("10**10**10", "absurd size"),
        (True, "True is not a number; write one such as 2, -0.5 or 0.4*pi"),
        ([1], r"[1] is not a number"),
        (float("inf"), "inf is not a finite number"),
        (float("nan"), "nan is not a finite number"),
    ],
)
def test_constant_refuses_values_that_are_not_numbers(value, sentence):
    with pytest.raises(UsageError) as caught:
        constant(value)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "names, variables",
    cases(
        r"""
['length', 'g'] | ('length', 'g')
['x0', 'x1'] | ('x0', 'x1')
['x1', 'x0', 'f1', 'e'] | ('x1', 'x0', 'f1', 'e')
['length (m)', 'Größe', 'm²', '2nd', '$'] | ('length_m', 'Größe', 'm2', 'x_2nd', 'x')
['lambda', 'sin', 'numpy'] | ('lambda_', 'sin_', 'numpy_')
['a b', 'a_b', 'a.b', 'a_b_'] | ('a_b__', 'a_b', 'a_b___', 'a_b_')
"""
    ),
)
def test_names_of_columns_become_different_variables(names, variables):
    assert as_variables(names) == variables


def test_variables_of_c_are_ascii_and_no_keywords():
    assert as_variables(["größe", "int"], ["int"], ascii_only=True) == ("groe", "int_")


def test_a_constant_is_a_number_where_a_variable_has_its_name():
    energy = variable("E")
    assert to_text(energy * sympy.E + sympy.pi, ["E"]) == "2.7182818284590452*E + pi"
