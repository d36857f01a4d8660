"""Equations read from text: relations, derivatives and refusals."""

import numpy as np
import pytest
from cases import cases, refuses

from kanrun.formulas.equation_syntax import Vocabulary
from kanrun.formulas.equations import parse_relation

PLANE = Vocabulary(("x", "t"), ("u",), ("k",))


#: Text, vocabulary, derivatives as (name, unknown, orders), values of all names, and the residual.
RELATIONS = """
u_t = k*u_xx - u*u_x + sin(x) | (('x', 't'), ('u',), ('k',)) | [('u_t', 0, (0, 1)), ('u_xx', 0, (2, 0)), ('u', 0, (0, 0)), ('u_x', 0, (1, 0))] | [0.3, 0.1, 5.0, 2.0, 0.7, -1.5, 0.25] | 3.1544797933386605
v_xtime + u_timetime = 0 | (('x', 'time'), ('u', 'v')) | [('v_xtime', 1, (1, 1)), ('u_timetime', 0, (0, 2))] | [0.1, 0.2, 1.0, 2.0] | 3.0
e_t = E*e + pi | (('t',), ('e',), ('E',)) | [('e_t', 0, (1,)), ('e', 0, (0,))] | [0.0, 5.0, 2.0, 3.0] | -4.141592653589793
u_t = e | (('t',), ('u',)) | [('u_t', 0, (1,))] | [0.0, 0.0] | -2.718281828459045
"""  # noqa: E501


@pytest.mark.parametrize("text, names, derivatives, row, residual", cases(RELATIONS))
def test_a_relation_is_left_minus_right_and_its_names_win_over_constants(
    text, names, derivatives, row, residual
):
    relation = parse_relation(text, Vocabulary(*names))
    assert [(one.name, one.unknown, one.index) for one in relation.derivatives] == derivatives
    assert relation.residual(np.array([row]))[0] == pytest.approx(residual, rel=1e-14)


def test_a_relation_knows_its_names_slopes_and_order():
    relation = parse_relation("u_t = k*u_xx - u*u_x + sin(x)", PLANE)
    assert relation.names == ("x", "t", "u_t", "u_xx", "u", "u_x", "k")
    slopes = relation.slopes(np.array([[0.3, 0.1, 5.0, 2.0, 0.7, -1.5, 0.25]]))
    np.testing.assert_allclose(slopes, [[1.0, -0.25, -1.5, 0.7, -2.0]], rtol=1e-14)
    assert relation.order == 2


@pytest.mark.parametrize(
    "short, written_out",
    cases(
        """
u_t + (u^2/2)_x = 0 | u_t + u*u_x = 0
((x + k*u^2)*u_x)_x = sin(u)_t | u_x + x*u_xx + 2*k*u*u_x^2 + k*u^2*u_xx = cos(u)*u_t
(u_x + (u_x*u)_x)_t = 1 | u_xt + 2*u_x*u_xt + u_xxt*u + u_xx*u_t = 1
"""
    ),
)
def test_formulas_in_parentheses_are_differentiated(short, written_out):
    found, wanted = (parse_relation(text, PLANE) for text in (short, written_out))
    assert (found.expression - wanted.expression).expand() == 0
    assert {each.index for each in found.derivatives} == {e.index for e in wanted.derivatives}


@pytest.mark.parametrize(
    "text, sentence",
    cases(
        r"""
u_xx + u | two formulas with one = between them
u_xx = 1 = 2 | two formulas with one = between them
x = 1 | does not contain the unknown u
u_y = 0 | only variables may follow the underscore
u_ = 0 | ends in an underscore
u_xxxxxxx = 0 | of order 7; the order can be at most 6
(u^2)_q = 0 | (...)_q is not a derivative
(heaviside(x)*u_x)_x = 1 | a jump cannot be differentiated
u = w | unknown name 'w'
u - u = 0 | the unknown cancels out
u = system('x') | unknown function
u.real = 0 | is not allowed
"""
    ),
)
def test_relations_that_cannot_be_read_are_refused(text, sentence):
    with refuses(sentence):
        parse_relation(text, PLANE)


@pytest.mark.parametrize(
    "variables, sentence",
    cases(
        """
('x', 'x') | is used twice
('sin',) | is the name of a function
('x_1',) | is not a valid name
"""
    ),
)
def test_unsuitable_names_of_variables_are_refused(variables, sentence):
    with refuses(sentence):
        Vocabulary(variables, ("u",))
