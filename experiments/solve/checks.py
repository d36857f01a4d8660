"""What can be said of an equation before it is solved: conditions too few or at odds, a wrong solution, its memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.equations import Condition, Corner, EquationPolicy, Face, System
from kanrun.engine.equations.system import on_face
from kanrun.errors import UsageError
from kanrun.formulas import to_numpy
from kanrun.formulas.equations import Derivative, Relation
from kanrun.formulas.parsing import variable

Array = NDArray[np.float64]

#: Points of a face at which conditions are compared, and how far they may differ, relative to their size.
_POINTS = 40
_AGREEMENT = 1e-9
#: Difference of conditions where faces meet, relative to their size, that is remarked on.
_REMARKABLE = 1e-4
#: Largest residual of an exact solution, relative to the largest term, and the points at which it is measured.
_EXACT = 1e-6
_EXACT_POINTS = 200
#: Share of the machine's memory that the rows of one problem may take, and how many copies of them a step makes.
_MEMORY, _COPIES = 0.5, 3


def check_determined(system: System) -> None:
    """Refuse an equation that obviously many functions solve, and conditions that contradict each other."""
    if not system.conditions and not system.measured:
        raise UsageError("equation.conditions is empty: without conditions or data many functions solve the equation.")
    names, variables = system.vocabulary.unknowns, system.vocabulary.variables
    relations = [*system.equations, *(each.relation for each in system.conditions)]
    for name in system.vocabulary.constants:
        if not any(each.expression.has(variable(name)) for each in relations):
            raise UsageError(f"equation.find has {name}, which no equation or condition holds; leave it out.")
    measured = {each.relation.derivatives[0].unknown for each in system.measured}
    for number, name in enumerate(names):
        if not any(d.unknown == number for relation in system.equations for d in relation.derivatives):
            raise UsageError(f"no equation holds the unknown {name}; leave it out of equation.unknowns.")
        held = any(d.unknown == number for each in system.conditions for d in each.relation.derivatives)
        varied = any(sum(d.index) for relation in system.equations for d in relation.derivatives if d.unknown == number)
        if varied and not held and number not in measured and not system.measured:
            raise UsageError(f"no condition holds the unknown {name}: give its values where {variables[-1]} begins.")
    if len(variables) == 1 and not system.measured:
        _check_count(system)
    for first, second in itertools.combinations(system.conditions, 2):
        for face in set(first.faces) & set(second.faces):
            _check_pair(system, first, second, face)


def _check_count(system: System) -> None:
    """In one variable the number of conditions is the sum of the orders, and one more for each sought constant."""
    needed, given = len(system.vocabulary.constants) + _orders(system), _given(system)
    if given < needed:
        sought = " and the sought constants" if system.vocabulary.constants else ""
        raise UsageError(
            f"equation.conditions holds {given} of the {needed} conditions that the equation's order{sought} "
            f"needs (each place counts as one): many functions solve it. Given: "
            f"{'; '.join(each.relation.text for each in system.conditions)}."
        )


def _orders(system: System) -> int:
    """The sum of the unknowns' orders in one variable."""
    orders = [0] * len(system.vocabulary.unknowns)
    for each in (derivative for relation in system.equations for derivative in relation.derivatives):
        orders[each.unknown] = max(orders[each.unknown], each.index[0])
    return sum(orders)


def _given(system: System) -> int:
    return sum(1 if each.periodic is not None else len(each.faces) for each in system.conditions)


def _said(condition: Condition) -> tuple[Derivative, sympy.Expr] | None:
    """The condition's one derivative and what it says this is; None where it holds several, or sought constants."""
    held = condition.relation.derivatives
    if len(held) != 1 or condition.periodic is not None:
        return None
    name, expression = variable(held[0].name), condition.relation.expression
    slope = sympy.diff(expression, name)
    if slope.has(name) or any(expression.has(variable(each)) for each in condition.relation.vocabulary.constants):
        return None
    return held[0], -expression.subs(name, 0) / slope


def _check_pair(system: System, first: Condition, second: Condition, face: Face) -> None:
    """Refuse two values of one derivative on one face."""
    said = _said(first), _said(second)
    if said[0] is None or said[1] is None or said[0][0] != said[1][0]:
        return
    points, names = on_face(face, system.box, _POINTS).numpy(), system.vocabulary.variables
    one, other = (to_numpy(each[1], names)(points) for each in said if each is not None)
    if not np.abs(one - other).max() <= _AGREEMENT * (np.abs(one).max() + np.abs(other).max()):
        where = " & ".join(f"{names[number]}={value:g}" for number, value in face)
        raise UsageError(
            f"two conditions contradict each other at {where}: {first.relation.text} and {second.relation.text}; "
            "keep one of them."
        )


def notes(system: System) -> list[str]:
    """Sentences about conditions that differ where their faces meet, and about more of them than the order has."""
    found, names = [], system.vocabulary.variables
    if len(names) == 1 and not system.measured and not system.vocabulary.constants:
        needed, given = _orders(system), _given(system)
        if given > needed:
            found.append(f"{given} conditions are given where the order of the equation has {needed}: not all may hold")
    found += lacking(system)
    gaps = [(corner, gap) for corner, gap in differing(system) if corner.relation not in system.equations]
    for text in dict.fromkeys(corner.relation.text for corner, _ in gaps):
        alike = [(corner.face, gap) for corner, gap in gaps if corner.relation.text == text]
        places = (", ".join(f"{names[number]}={value:g}" for number, value in face) for face, _ in alike)
        found.append(
            f"{text} differs by {max(gap for _, gap in alike):.3g} from what the conditions that meet it at "
            f"{' and '.join(places)} say: the solution or its slopes jump there, and residuals weigh less around it"
        )
    return found


def lacking(system: System) -> list[str]:
    """Sentences about variables in which one unknown has fewer conditions than the equation's order asks for."""
    names = system.vocabulary.variables
    if len(names) == 1 or len(system.equations) > 1 or system.measured:
        return []
    found = []
    for number, name in enumerate(names):
        order = max(each.index[number] for each in system.equations[0].derivatives)
        given = sum(
            each.periodic == number or sum(number in dict(face) for face in each.faces) for each in system.conditions
        )
        if given < order:
            found.append(
                f"the equation's order in {name} is {order}, and of as many conditions there {given} are given: many "
                "functions may satisfy it"
            )
    return found


def differing(system: System) -> list[tuple[Corner, float]]:
    """For each corner where faces meet and a condition or equation differs from what other conditions say: its gap.

    A condition on a face says what the derivatives along the face are, too.
    """
    said = [(each, *it) for each in system.conditions if (it := _said(each)) is not None]
    faces = {face for each in system.conditions for face in each.faces}
    corners = {tuple(sorted({*a, *b})) for a, b in itertools.combinations(faces, 2)}
    found = list[tuple[Corner, float]]()
    for corner in sorted(each for each in corners if len(dict(each)) == len(each)):
        there = [(each, d, value, face) for each, d, value in said for face in each.faces if {*face} < {*corner}]
        held = [each for each in system.conditions if any({*face} < {*corner} for face in each.faces)]
        for own, relation in [*((each, each.relation) for each in held), *((None, e) for e in system.equations)]:
            others = [known for each, *known in there if each is not own]
            values = [_known(wanted, others, system.vocabulary.variables) for wanted in relation.derivatives]
            gap, share = _gap(system, relation, corner, [each for each in values if each is not None])
            if None not in values and share > _REMARKABLE:
                found.append((Corner(corner, relation, min(share, 1.0)), gap))
                break
    return found


def _known(wanted: Derivative, said: Sequence[Any], names: Sequence[str]) -> sympy.Expr | None:
    """The first of (derivative, value, face) that gives the wanted derivative along its face, differentiated."""
    for derivative, value, face in said:
        more = [want - held for want, held in zip(wanted.index, derivative.index, strict=True)]
        if derivative.unknown == wanted.unknown and min(more) >= 0 and not any(more[number] for number, _ in face):
            found = sympy.diff(value, *((variable(name), times) for name, times in zip(names, more, strict=True)))
            return None if found.has(sympy.Heaviside, sympy.DiracDelta, sympy.Derivative, sympy.Subs) else found
    return None


def _gap(system: System, relation: Relation, corner: Face, values: Sequence[sympy.Expr]) -> tuple[float, float]:
    """The largest left - right in a corner for these values of the derivatives, and its share of the largest term."""
    names, count = system.vocabulary.variables, len(values)
    if count < len(relation.derivatives) or any(
        relation.expression.has(variable(each)) for each in relation.vocabulary.constants
    ):
        return 0.0, 0.0

    def rows(points: Array) -> Array:
        constants = system.guesses().expand(len(points), -1).numpy()
        return np.concatenate([points, *(to_numpy(each, names)(points)[:, None] for each in values), constants], axis=1)

    at, near = (
        rows(on_face(corner, system.box, _POINTS).numpy()),
        [rows(on_face((fixed,), system.box, _POINTS).numpy()) for fixed in corner],
    )
    sizes = [
        float(np.abs(np.nan_to_num(part)).max())
        for each in near
        for part in (
            relation.slopes(each)[:, :count] * each[:, len(names) : len(names) + count],
            relation.residual(each),
        )
    ]
    gap = float(np.abs(np.nan_to_num(relation.residual(at))).max())
    return gap, gap / max(*sizes, 1e-300)


def check_exact(system: System, formulas: Sequence[sympy.Expr], constants: Mapping[str, float]) -> None:
    """Refuse an exact solution that does not satisfy the equations and conditions."""
    if set(system.vocabulary.constants) - set(constants):
        return
    box, drawn = system.box.numpy(), np.random.default_rng(0)
    inside = box[:, 0] + drawn.random((_EXACT_POINTS, len(box))) * (box[:, 1] - box[:, 0])
    for relation in system.equations:
        _check_residual(relation, inside, inside, formulas, constants)
    for condition in system.conditions:
        for face in condition.faces:
            points = on_face(face, system.box, _POINTS).numpy()
            _check_residual(condition.relation, points, inside, formulas, constants)


def _check_residual(
    relation: Relation, points: Array, inside: Array, formulas: Sequence[sympy.Expr], constants: Mapping[str, float]
) -> None:
    """Measured against the size of the terms at the points and inside the box."""
    names, functions = relation.vocabulary.variables, []
    for each in relation.derivatives:
        expression = formulas[each.unknown]
        for name, times in zip(names, each.index, strict=True):
            expression = sympy.diff(expression, variable(name), times) if times else expression
        functions.append(to_numpy(expression, names))

    def rows(at: Array) -> Array:
        fixed = [np.full(len(at), constants[name]) for name in relation.vocabulary.constants]
        return np.stack([*at.T, *(function(at) for function in functions), *fixed], axis=1)

    sizes, count = [1e-300], len(functions)
    for arguments in (rows(points), rows(inside)):
        held = arguments[:, len(names) : len(names) + count]
        sizes += [
            float(np.nanmax(np.abs(each), initial=0.0)) for each in (held, relation.slopes(arguments)[:, :count] * held)
        ]
    left = np.abs(relation.residual(rows(points)))
    if not float(np.nanmax(left)) <= _EXACT * max(sizes):
        at = int(np.nanargmax(left))
        where = ", ".join(f"{name}={value:.3g}" for name, value in zip(names, points[at], strict=True))
        raise UsageError(
            f"equation.exact does not satisfy {relation.text}: left - right is {left[at]:.3g} at {where}; correct one "
            "of them, or leave equation.exact out."
        )


def check_memory(system: System, policy: EquationPolicy, unknowns: int) -> None:
    """Refuse a problem whose rows this machine's memory would not hold."""
    faces = sum(len(each.faces) or 1 for each in system.conditions)
    rows = len(system.equations) * policy.points + faces * policy.face_points
    rows += sum(len(each.points) for each in system.measured)
    needed = 8 * unknowns * (_COPIES * rows + 2 * unknowns)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > _MEMORY * there:
        raise UsageError(
            f"{rows} residuals of {unknowns} unknowns need about {needed / 2**30:.1f} GiB, more than half of this "
            f"machine's {there / 2**30:.1f} GiB; take fewer points, intervals or terms."
        )
