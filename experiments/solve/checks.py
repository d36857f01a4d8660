"""What can be said of an equation before it is solved: conditions too few or at odds, a wrong solution, its memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.equations import Corner, EquationPolicy, Face, System
from kanrun.engine.equations.system import differentiated, low_discrepancy, on_face
from kanrun.errors import UsageError
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.equations import Derivative, Relation

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
        raise UsageError(
            "equation.conditions is empty: without conditions or data many functions solve the equation."
        )
    names, variables = system.vocabulary.unknowns, system.vocabulary.variables
    conditions = [each.relation for each in system.conditions]
    for name in system.vocabulary.constants:
        if not any(
            each.expression.has(variable(name)) for each in (*system.equations, *conditions)
        ):
            raise UsageError(
                f"equation.unknown_parameters has {name}, which no equation or condition holds; leave it out."
            )
    for number, name in enumerate(names):
        held, given = (
            [d for relation in relations for d in relation.derivatives if d.unknown == number]
            for relations in (system.equations, conditions)
        )
        if not held:
            raise UsageError(
                f"no equation holds the unknown {name}; leave it out of equation.unknowns."
            )
        if any(sum(d.index) for d in held) and not given and not system.measured:
            raise UsageError(
                f"no condition holds the unknown {name}: give its values where {variables[-1]} begins."
            )
    if len(variables) == 1 and not system.measured:
        needed, count = len(system.vocabulary.constants) + _orders(system), _given(system)
        if count < needed:
            sought = " and the sought constants" if system.vocabulary.constants else ""
            raise UsageError(
                f"equation.conditions holds {count} of the {needed} conditions that the equation's order{sought} "
                f"needs (each place counts as one): many functions solve it. Given: "
                f"{'; '.join(each.text for each in conditions)}."
            )
    for first, second in itertools.combinations(system.conditions, 2):
        said = first.said(), second.said()
        for face in set(first.faces) & set(second.faces):
            if said[0] is None or said[1] is None or said[0][0] != said[1][0]:
                continue
            points = on_face(face, system.box, _POINTS).numpy()
            one, other = (to_numpy(each[1], variables)(points) for each in said if each is not None)
            if not np.abs(one - other).max() <= _AGREEMENT * (
                np.abs(one).max() + np.abs(other).max()
            ):
                raise UsageError(
                    f"two conditions contradict each other at {_place(face, variables, ' & ')}: {first.relation.text} "
                    f"and {second.relation.text}; keep one of them."
                )


def _place(face: Face, names: Sequence[str], between: str = ", ") -> str:
    return between.join(f"{names[number]}={value:g}" for number, value in face)


def _orders(system: System) -> int:
    """The sum of the unknowns' orders in one variable."""
    orders = [0] * len(system.vocabulary.unknowns)
    for each in (
        derivative for relation in system.equations for derivative in relation.derivatives
    ):
        orders[each.unknown] = max(orders[each.unknown], each.index[0])
    return sum(orders)


def _given(system: System) -> int:
    return sum(1 if each.periodic is not None else len(each.faces) for each in system.conditions)


def notes(system: System) -> list[str]:
    """Sentences about conditions that differ where their faces meet, and about more of them than the order has."""
    found, names = [], system.vocabulary.variables
    if len(names) == 1 and not system.measured and not system.vocabulary.constants:
        needed, given = _orders(system), _given(system)
        if given > needed:
            found.append(
                f"{given} conditions are given where the order of the equation has {needed}: not all may hold"
            )
    found += lacking(system)
    gaps = [
        (corner, gap)
        for corner, gap in differing(system)
        if corner.relation not in system.equations
    ]
    for text in dict.fromkeys(corner.relation.text for corner, _ in gaps):
        alike = [(corner.face, gap) for corner, gap in gaps if corner.relation.text == text]
        found.append(
            f"{text} differs by {max(gap for _, gap in alike):.3g} from what the conditions that meet it at "
            f"{' and '.join(_place(face, names) for face, _ in alike)} say: the solution or its slopes jump there, and "
            "residuals weigh less around it"
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
            each.periodic == number or sum(number in dict(face) for face in each.faces)
            for each in system.conditions
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
    said = [(each, *it) for each in system.conditions if (it := each.said()) is not None]
    faces = {face for each in system.conditions for face in each.faces}
    corners = {tuple(sorted({*a, *b})) for a, b in itertools.combinations(faces, 2)}
    found, names = list[tuple[Corner, float]](), system.vocabulary.variables
    for corner in sorted(each for each in corners if len(dict(each)) == len(each)):
        there = [
            (each, d, value, face)
            for each, d, value in said
            for face in each.faces
            if {*face} < {*corner}
        ]
        held = [
            each for each in system.conditions if any({*face} < {*corner} for face in each.faces)
        ]
        at, *near = (
            on_face(face, system.box, _POINTS).numpy()
            for face in (corner, *((each,) for each in corner))
        )
        for own, relation in [
            *((each, each.relation) for each in held),
            *((None, e) for e in system.equations),
        ]:
            others = [known for each, *known in there if each is not own]
            values = [
                value
                for d in relation.derivatives
                if (value := _known(d, others, names)) is not None
            ]
            if len(values) < len(relation.derivatives) or relation.expression.has(
                *map(variable, relation.vocabulary.constants)
            ):
                continue
            left, size = _left(relation, values, system.guesses().tolist(), at, near)
            if left.max() > _REMARKABLE * size:
                found.append(
                    (
                        Corner(corner, relation, min(float(left.max()) / size, 1.0)),
                        float(left.max()),
                    )
                )
                break
    return found


def check_agreement(system: System, *, last: bool) -> None:
    """Refuse to build in conditions that contradict each other where their faces meet; at the beginning of the `last`
    variable only where its conditions are built in too."""
    for corner in system.corners:
        if corner.relation not in system.equations and (
            last or corner.face[-1][0] < len(system.box) - 1
        ):
            raise UsageError(
                f"constraints=hard: at {_place(corner.face, system.vocabulary.variables)} {corner.relation.text} "
                "differs from the conditions of the faces that meet there; make them agree, or take constraints=soft."
            )


def _known(wanted: Derivative, said: Sequence[Any], names: Sequence[str]) -> sympy.Expr | None:
    """The first of (derivative, value, face) that gives the wanted derivative along its face, differentiated."""
    for derivative, value, face in said:
        more = [want - held for want, held in zip(wanted.index, derivative.index, strict=True)]
        if (
            derivative.unknown == wanted.unknown
            and min(more) >= 0
            and not any(more[number] for number, _ in face)
        ):
            found = differentiated(value, names, more)
            return (
                None
                if found.has(sympy.Heaviside, sympy.DiracDelta, sympy.Derivative, sympy.Subs)
                else found
            )
    return None


def _left(
    relation: Relation,
    values: Sequence[sympy.Expr],
    constants: Sequence[float],
    points: Array,
    near: Sequence[Array],
) -> tuple[Array, float]:
    """|left - right| at points for these formulas of its derivatives, and the largest term at the points `near`."""
    names, count = relation.vocabulary.variables, len(values)
    functions = [to_numpy(each, names) for each in values]

    def rows(at: Array) -> Array:
        return np.stack(
            [*at.T, *(each(at) for each in functions), *(np.full(len(at), c) for c in constants)],
            axis=1,
        )

    size = 1e-300
    for each in map(rows, near):
        terms = relation.slopes(each)[:, :count] * each[:, len(names) : len(names) + count]
        for part in (terms, relation.residual(each)):
            size = max(size, float(np.abs(np.nan_to_num(part, posinf=0, neginf=0)).max()))
    return np.abs(np.nan_to_num(relation.residual(rows(points)))), size


def check_exact(
    system: System, formulas: Sequence[sympy.Expr], constants: Mapping[str, float]
) -> None:
    """Refuse an exact solution that does not satisfy the equations and conditions."""
    names, sought = system.vocabulary.variables, system.vocabulary.constants
    if set(sought) - set(constants):
        return
    inside = low_discrepancy(system.box, _EXACT_POINTS, 0).numpy()
    places = [(relation, inside) for relation in system.equations]
    places += [
        (each.relation, on_face(face, system.box, _POINTS).numpy())
        for each in system.conditions
        for face in each.faces
    ]
    for relation, points in places:
        values = [differentiated(formulas[d.unknown], names, d.index) for d in relation.derivatives]
        left, size = _left(
            relation, values, [constants[name] for name in sought], points, [points, inside]
        )
        if not left.max() <= _EXACT * size:
            at = int(left.argmax())
            where = ", ".join(
                f"{name}={value:.3g}" for name, value in zip(names, points[at], strict=True)
            )
            raise UsageError(
                f"equation.exact does not satisfy {relation.text}: left - right is {left[at]:.3g} at {where}; correct "
                "one of them, or leave equation.exact out."
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
