"""Checks of an equation before it is solved.

They find too few or incompatible conditions, a wrong exact solution, and problems that are too
large for the memory of this machine.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy

from kanrun.engine.equations import (
    Array,
    Contradiction,
    EquationPolicy,
    Face,
    IncompatibleCorner,
    Missed,
    System,
)
from kanrun.engine.equations.system import differentiate, highest_orders, low_discrepancy, on_face
from kanrun.errors import UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.equation_syntax import Derivative
from kanrun.formulas.equations import Relation
from kanrun.formulas.parsing import variable

#: Number of points on each face at which conditions are compared and exact solutions are checked.
#: With fewer points, contradictions in a small part of a face are missed.
_FACE_POINTS = 40


def check_determined(system: System) -> None:
    """Check that an equation has enough conditions, and that they do not contradict each other.

    Raises:
        UsageError: If there are too few conditions, if an unknown or an unknown parameter does not
            occur in the system, or if two conditions prescribe different values on the same face.
    """
    names = system.vocabulary.unknowns
    variables = system.vocabulary.variables
    if not system.conditions and not system.observations:
        raise UsageError(
            "equation.conditions is empty, so the solution is not unique. "
            "Add boundary or initial conditions, or equation.data."
        )
    conditions = [each.relation for each in system.conditions]
    for name in system.vocabulary.constants:
        relations = (*system.equations, *conditions)
        if not any(each.expression.has(variable(name)) for each in relations):
            raise UsageError(
                f"equation.unknown_parameters lists {name}, which no equation or condition "
                f"contains. Remove {name} from equation.unknown_parameters."
            )
    for number, name in enumerate(names):
        contained, given = (
            [d for relation in relations for d in relation.derivatives if d.unknown == number]
            for relations in (system.equations, conditions)
        )
        if not contained:
            raise UsageError(
                f"No equation contains the unknown {name}. Remove it from equation.unknowns."
            )
        if any(sum(d.index) for d in contained) and not given and not system.observations:
            raise UsageError(
                f"No condition contains the unknown {name}. Give its values where {variables[-1]} "
                "begins."
            )
    needed, count = _counted(system)
    needed += len(system.vocabulary.constants)
    if len(variables) == 1 and not system.observations and count < needed:
        parameters = " and its unknown parameters need" if system.vocabulary.constants else " needs"
        raise UsageError(
            f"equation.conditions has {count} conditions (each place counts as one), but an "
            f"equation of this order{parameters} {needed}, so the solution is not unique. "
            f"Given: {'; '.join(each.text for each in conditions)}."
        )
    _check_agreement(system)


def _check_agreement(system: System) -> None:
    """Raise UsageError if two conditions prescribe different values of a derivative on a face."""
    for (first, d, _), (second, e, other) in itertools.combinations(system.given, 2):
        for face in set(first.faces) & set(second.faces) if d == e else ():
            points = on_face(face, system.box, _FACE_POINTS).numpy()
            gap, size = _residual(first.relation, [other], [], points, [points])
            if not gap.max() <= 1e-9 * size:
                place = _place(face, system.vocabulary.variables, " & ")
                raise UsageError(
                    f"Two conditions contradict each other at {place}: "
                    f"{first.relation.text} and {second.relation.text}. Keep one of them."
                )


def _place(face: Face, names: Sequence[str], between: str = ", ") -> str:
    return between.join(f"{names[number]}={value:g}" for number, value in face)


def _counted(system: System) -> tuple[int, int]:
    """Return the number of conditions that ordinary equations need, and the number they have.

    The first number is the sum of the highest orders of the unknowns' derivatives. A condition on
    several faces counts once per face.
    """
    places = (1 if each.periodic is not None else len(each.faces) for each in system.conditions)
    return sum(highest_orders(system.equations, 0)), sum(places)


def condition_warnings(system: System) -> list[str]:
    """Return warnings about too many, too few, and incompatible conditions, one sentence each."""
    names, (needed, count) = system.vocabulary.variables, _counted(system)
    found = missing_conditions(system)
    exact = len(names) == 1 and not system.observations and not system.vocabulary.constants
    if exact and count > needed:
        found.append(
            f"there are {count} conditions for an equation of order {needed}: not all may hold"
        )
    gaps: dict[str, list[tuple[Face, float]]] = {}
    for corner in system.corners:
        gaps.setdefault(corner.relation.text, []).append((corner.face, corner.difference))
    for text, places in gaps.items():
        faces = " and ".join(_place(face, names) for face, _ in places)
        found.append(
            f"{text} differs by {max(gap for _, gap in places):.3g} from the conditions that meet "
            f"it at {faces}: the solution or its slopes jump there, and conditions near it are met "
            "in the mean only"
        )
    return found


def missing_conditions(system: System) -> list[str]:
    """Return a warning for each variable in which the equation has too few conditions.

    There should be as many as the order of the equation in this variable. Ordinary equations,
    systems of several equations and equations with observations get no warning.
    """
    names = system.vocabulary.variables
    if len(names) == 1 or len(system.equations) > 1 or system.observations:
        return []
    found = []
    for number, name in enumerate(names):
        order = max(highest_orders(system.equations, number))
        count = sum(
            each.periodic == number or sum(number in dict(face) for face in each.faces)
            for each in system.conditions
        )
        if count < order:
            found.append(
                f"the equation has order {order} in {name}, but only {count} conditions there: "
                "many functions may satisfy it"
            )
    return found


def incompatible_corners(system: System) -> tuple[IncompatibleCorner, ...]:
    """Return the corners (or edges) of the box at which conditions contradict each other.

    The conditions are those on the faces that meet at the corner.
    A condition that prescribes a value on a face also determines the derivatives along this face,
    so that conditions on derivatives can be compared as well.
    """
    faces = {face for each in system.conditions for face in each.faces}
    corners = {tuple(sorted({*a, *b})) for a, b in itertools.combinations(faces, 2)}
    found = list[IncompatibleCorner]()
    names = system.vocabulary.variables
    for corner in sorted(each for each in corners if len(dict(each)) == len(each)):
        places = (corner, *((each,) for each in corner))
        at, *near = (on_face(face, system.box, _FACE_POINTS).numpy() for face in places)
        there = [
            (each, d, value, face)
            for each, d, value in system.given
            for face in each.faces
            if {*face} < {*corner}
        ]
        for each in system.conditions:
            if not any({*face} < {*corner} for face in each.faces):
                continue
            relation = each.relation
            others = [known for own, *known in there if own is not each]
            values = [_given_value(d, others, names) for d in relation.derivatives]
            unknown = relation.expression.has(*map(variable, relation.vocabulary.constants))
            if unknown or any(value is None for value in values):
                continue
            residual, size = _residual(relation, values, system.guesses().tolist(), at, near)
            if (gap := float(residual.max())) > 1e-4 * size:
                found.append(IncompatibleCorner(corner, relation, gap))
                break
    return tuple(found)


def contradiction_sentence(contradiction: Contradiction, names: Sequence[str]) -> str:
    """Return the message that conditions contradict the equation, with residuals and differences.

    `names` are the names of the variables.
    """
    found = (
        "the conditions contradict the equation: every function that meets them has a residual of "
        f"at least {contradiction.residual:.2g} relative to its terms"
    )
    by_text: dict[str, list[Missed]] = {}
    for each in contradiction.missed:
        by_text.setdefault(each.text, []).append(each)
    missed = [
        f"{text} at {', '.join(_place(each.face, names) for each in misses)} by "
        f"{max(each.difference for each in misses):.2g}"
        for text, misses in by_text.items()
    ]
    return found + bool(missed) * f", and functions that satisfy it miss {' and '.join(missed)}"


def _given_value(wanted: Derivative, given: Sequence[Any], names: Sequence[str]) -> Any:
    """Return the formula of the derivative `wanted` that conditions determine at a corner.

    `given` holds triples (derivative, value, face) of conditions that prescribe a value on a face.
    Use the first condition from which `wanted` follows by differentiation along its face. Return
    None if there is no such condition, or if the formula jumps.
    """
    for derivative, value, face in given:
        more = [a - b for a, b in zip(wanted.index, derivative.index, strict=True)]
        along = min(more) >= 0 and not any(more[number] for number, _ in face)
        if derivative.unknown == wanted.unknown and along:
            found = differentiate(value, names, more)
            jumps = (sympy.Heaviside, sympy.DiracDelta, sympy.Derivative, sympy.Subs)
            return None if found.has(*jumps) else found
    return None


def _residual(
    relation: Relation,
    values: Sequence[Any],
    constants: Sequence[float],
    points: Array,
    near: Sequence[Array],
    sizes: Sequence[float] = (),
) -> tuple[Array, float]:
    """Return |left - right| of a relation at points, and the size of its largest term.

    Args:
        relation: Relation to evaluate.
        values: Formulas of the derivatives in the relation.
        constants: Values of the unknown parameters.
        points: Points at which the residual is evaluated, shape (points, variables).
        near: Arrays of points at which the size of the terms is measured.
        sizes: Typical sizes of the derivatives. Terms of these sizes are considered as well,
            because second derivatives of a straight solution consist of rounding errors only.
    """
    names = relation.vocabulary.variables
    count = len(values)
    functions = [to_numpy(each, names) for each in values]

    def rows(at: Array) -> Array:
        fixed = (np.full(len(at), c) for c in constants)
        return np.stack([*at.T, *(each(at) for each in functions), *fixed], axis=1)

    size = 1e-300
    for each in map(rows, near):
        slopes = relation.slopes(each)[:, :count]
        terms = slopes * each[:, len(names) : len(names) + count]
        usual = slopes * np.array(sizes) if sizes else terms
        for part in (terms, usual, relation.residual(each)):
            size = max(size, float(np.abs(np.nan_to_num(part, posinf=0, neginf=0)).max()))
    return np.abs(np.nan_to_num(relation.residual(rows(points)))), size


def _precise_residual(
    relation: Relation, values: Sequence[Any], constants: Sequence[float], point: Array
) -> float:
    """Return |left - right| of a relation at a point (variables,), evaluated with 50 digits.

    In float64, formulas such as tanh(s + 3) - tanh(s - 3) lose all digits far from s = 0, and the
    derivatives of narrow functions amplify this rounding error.
    """
    digits = 50
    arguments = zip(relation.names, (*point, *values, *constants), strict=True)
    place = dict(zip(map(variable, relation.vocabulary.variables), point, strict=True))
    exact = {name: sympy.Rational(float(value)) for name, value in place.items()}
    derivatives = {
        variable(name): (
            value.evalf(digits, subs=exact)
            if isinstance(value, sympy.Basic)
            else sympy.Rational(float(value))
        )
        for name, value in arguments
    }
    found = relation.expression.evalf(digits, subs=derivatives)
    return abs(float(found)) if found.is_number and found.is_finite else math.inf


def check_exact(
    system: System, formulas: Sequence[sympy.Expr], parameters: Mapping[str, float]
) -> None:
    """Check that an exact solution satisfies the equations and conditions.

    Nothing is checked if the true value of an unknown parameter is missing.

    Args:
        system: The system.
        formulas: Formulas of the exact solution, one per unknown.
        parameters: True values of the unknown parameters by name.

    Raises:
        UsageError: If the solution does not satisfy an equation or a condition.
    """
    names = system.vocabulary.variables
    unknown = system.vocabulary.constants
    if set(unknown) - set(parameters):
        return
    # Constants may be rounded.
    allowed = 1e-6
    constants = [parameters[name] for name in unknown]
    inside = low_discrepancy(system.box, 200, 0).numpy()
    places = [(relation, inside) for relation in system.equations]
    places += [
        (each.relation, on_face(face, system.box, _FACE_POINTS).numpy())
        for each in system.conditions
        for face in each.faces
    ]
    # The size of a derivative is that of the function, divided by the range of the variable for
    # each differentiation.
    ranges = np.diff(system.box.numpy())[:, 0]
    largest = [np.abs(np.nan_to_num(to_numpy(each, names)(inside))).max() for each in formulas]
    for relation, points in places:
        values = [differentiate(formulas[d.unknown], names, d.index) for d in relation.derivatives]
        sizes = [
            largest[each.unknown] / np.prod(ranges ** np.array(each.index))
            for each in relation.derivatives
        ]
        near = [points, inside]
        residual, size = _residual(relation, values, constants, points, near, sizes)
        for at in np.flatnonzero(~(residual <= allowed * size)):
            left = _precise_residual(relation, values, constants, points[at])
            if left <= allowed * size:
                continue
            pairs = zip(names, points[at], strict=True)
            raise UsageError(
                f"equation.exact does not satisfy {relation.text}: left - right is "
                f"{left:.3g} at "
                f"{', '.join(f'{name}={value:.3g}' for name, value in pairs)}. "
                "Correct one of them, or remove equation.exact."
            )


def check_memory(system: System, policy: EquationPolicy, unknowns: int) -> None:
    """Raise UsageError if a least squares problem takes too much of this machine's memory.

    `unknowns` is the number of unknowns of the problem.
    """
    copies = 3  # of the Jacobian, in a step
    share = 0.5
    faces = sum(len(each.faces) or 1 for each in system.conditions)
    rows = len(system.equations) * policy.collocation_points + faces * policy.boundary_points
    rows += sum(len(each.points) for each in system.observations)
    needed = 8 * unknowns * (copies * rows + 2 * unknowns)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > share * available:
        raise UsageError(
            f"{rows} residuals of {unknowns} unknowns need about {needed / 2**30:.1f} GiB, more "
            f"than {share:.0%} of this machine's {available / 2**30:.1f} GiB. Use fewer points, "
            "intervals or terms."
        )
