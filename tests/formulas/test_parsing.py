"""The parser of formulas: expressions that it reads, and its refusals."""

import math

import numpy as np
import pytest
import sympy
from cases import cases, refuses

from kanrun.errors import UsageError
from kanrun.formulas.conversion import as_variables, to_text
from kanrun.formulas.parsing import constant, parse, variable
from kanrun.formulas.syntax import variables_in

X0 = variable("x0")
X1 = variable("x1")


@pytest.mark.parametrize(
    "text, expected",
    cases(
        r"""
exp(-x0)*sin(3*x1) | exp(-x0)*sin(3*x1)
-x0^2 | -(x0**2)
2^-x0 | 2**(-x0)
x0^2^3 | x0**8
x0/x1/2*3 | 3*x0/(2*x1)
'(\n x0 +\n x1)' | x0 + x1
1e-3*x0 | x0/1000
x0**0.5 | sqrt(x0)
pi*e*E*x0 | pi*E**2*x0
arcsin(x0)+asin(x0) | 2*asin(x0)
ln(x0) | log(x0)
log10(x0) | log(x0)/log(10)
sqrt(x0^2) | Abs(x0)
sigmoid(x0) | 1/(1 + exp(-x0))
gaussian(2*x0) | exp(-4*x0**2)
besselj(3, x0) | besselj(3, x0)
cot(x0) + sec(x0) + csc(x1) | cot(x0) + sec(x0) + csc(x1)
max(x0, x1, 0) | Max(x0, x1, 0)
heaviside(x0 - x1) | (1 + sign(x0 - x1))/2
where(x0 >= x1, 3, 1) | 2 + sign(x0 - x1)
floor(x0) + sign(x1) + erf(x0) | floor(x0) + sign(x1) + erf(x0)
sqrt(2)*x0^1.5/(x1 - 1/2) | sqrt(2)*x0**Rational(3, 2)/(x1 - Rational(1, 2))
sigmoid(x0)*acosh(x1) | acosh(x1)/(1 + exp(-x0))
"""
    ),
)
def test_text_becomes_the_expression_it_writes_whose_text_reads_back(text, expected):
    found = parse(text)
    assert found == sympy.sympify(expected, {"x0": X0, "x1": X1})
    assert parse(str(found)) == found


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


def of_many(function, numbers):
    """Return the maximum of the texts of a function of numbers."""
    return f"max({','.join(map(function, numbers))})"


FEW = of_many("x{}".format, range(18))
OTHERS = of_many("x{}".format, range(18, 31))
REFUSALS += [
    ("9" * 400 + "*x0", "it holds a number of absurd size"),
    ("(" * 5000 + "x0" + ")" * 5000, "it cannot be read"),
    ("sin(" * 30 + "x0" + ")" * 30, "it is nested too deeply (at most 10 functions inside"),
    ("e^-" * 30 + "x0", "it is nested too deeply"),
    ("x0+" * 10_000 + "x0", "it has 30002 characters, at most 20000 are allowed"),
    ("sin(x0)*(" * 60 + "x0" + ")" * 60 + "+sin(x0)" * 1900, "it has too many terms"),
    (of_many("sin({}*x0)".format, range(1, 60)), "it has too many terms in min and max"),
    (f"max({FEW},{OTHERS})", "it has too many terms in min and max"),
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


def test_listed_variables_win_over_constants():
    assert parse("age^2 + e", ["age", "e"]) == variable("age") ** 2 + variable("e")


@pytest.mark.parametrize(
    "text, sentence",
    cases(
        r"""
aeg + size | unknown name 'aeg'; did you mean age ... the variables are age, size
x0 | unknown name 'x0'
'3' | does not depend on any variable; use age
age(2) | the variable age cannot be called
"""
    ),
)
def test_listed_variables_replace_x0(text, sentence):
    with refuses(sentence):
        parse(text, ["age", "size"])


def test_variables_that_cancel_are_counted():
    assert variables_in("1.5*x0 + 0*x2") == ("x0", "x1", "x2")
    assert variables_in("exp(1)") == ()
    with refuses("cannot be read"):
        variables_in("x0 x1")


@pytest.mark.parametrize(
    "value, expected",
    cases(
        r"""
0.4*pi | 1.2566370614359172
-pi/2 | -1.5707963267948966
2 | 2.0
-0.5 | -0.5
'1e-3' | 0.001
e^2 | 7.38905609893065
'0' | 0.0
sqrt(2) | 1.4142135623730951
"""
    ),
)
def test_constant_reads_numbers_and_text(value, expected):
    assert constant(value) == pytest.approx(expected, rel=1e-15)
    assert type(constant(value)) is float
    assert type(constant(np.float64(3))) is float


@pytest.mark.parametrize(
    "value, sentence",
    cases(
        r"""
x0 | number 'x0': unknown name 'x0'; only numbers, pi, e and functions of them are allowed
nan | unknown name 'nan'
10**10**10 | absurd size
True | True is not a number; write one such as 2, -0.5 or 0.4*pi
[1] | [1] is not a number
1e999 | inf is not a finite number
"""
    ),
)
def test_constant_refuses_values_that_are_not_numbers(value, sentence):
    with refuses(sentence):
        constant(value)
    with refuses("nan is not a finite number"):
        constant(float("nan"))


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
