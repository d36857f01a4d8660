"""Formulas and conditions of the settings as relations: mappings by name, or sentences such as "u = 0 at x=0, x=1"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.equations import Condition, Face
from kanrun.errors import UsageError
from kanrun.formulas import constant, variable
from kanrun.formulas.equations import Relation, Vocabulary, parse_relation
from kanrun.formulas.parsing import parse_expression

Array = NDArray[np.float64]

_MOST_VARIABLES = 3
_FACE = re.compile(r"\s*(\w+)\s*=\s*(.+?)\s*")


class Reader:
    """Reads formulas with the fixed constants put in."""

    def __init__(self, vocabulary: Vocabulary, fixed: Mapping[str, float]) -> None:
        self.vocabulary, self.fixed = vocabulary, dict(fixed)

    def relation(self, text: Any) -> Relation:
        widened = replace(self.vocabulary, constants=(*self.vocabulary.constants, *self.fixed))
        found = parse_relation(str(text), widened)
        return replace(found, expression=self.put(found.expression), vocabulary=self.vocabulary)

    def formula(self, text: Any) -> sympy.Expr:
        names = (*self.vocabulary.variables, *self.fixed)
        return self.put(parse_expression(str(text), names))

    def put(self, expression: sympy.Expr) -> sympy.Expr:
        return expression.subs(
            {variable(name): sympy.Rational(repr(value)) for name, value in self.fixed.items()}
        )


def read_box(variables: Mapping[str, Any], fixed: Mapping[str, float]) -> Array:
    """The ranges of the variables, (variables, 2). Raises UsageError for one that is none."""
    if not 1 <= len(variables) <= _MOST_VARIABLES:
        raise UsageError(
            f"equation.variables has {len(variables)} variables; 1 to {_MOST_VARIABLES} are possible."
        )
    rows = []
    for name, ends in variables.items():
        if not isinstance(ends, list | tuple) or len(ends) != 2:
            raise UsageError(f"equation.variables.{name}={ends} is no range; give [low, high].")
        try:
            low, high = (constant(end, fixed) for end in ends)
        except UsageError as error:
            raise UsageError(f"equation.variables.{name}={list(ends)}: {error}.") from None
        if not low < high:
            raise UsageError(
                f"equation.variables.{name}=[{low:g}, {high:g}] is empty; the first end must be the lower."
            )
        rows.append((low, high))
    return np.array(rows, dtype=np.float64)


def read_conditions(
    given: Any, read: Reader, equations: Sequence[Relation], box: Array
) -> tuple[Condition, ...]:
    """The conditions of the setting `equation.conditions`. Raises UsageError for one that breaks a rule."""
    return tuple(
        _condition(name, each, read, box) for name, each in _by_name(given, equations).items()
    )


def _by_name(given: Any, equations: Sequence[Relation]) -> dict[str, Any]:
    """Conditions as mappings by name, those that are sentences too: "u = 0 at x=0, x=1", "u_x periodic in x".

    "periodic in x" alone is said of every unknown and of its derivatives in x below the highest in the equations.
    """
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    found: dict[str, Any] = {}
    for text in given:
        if match := re.fullmatch(r"\s*periodic\s+in\s+(\w+)\s*", str(text)):
            for name in _periodic(match[1], equations):
                found[f"[{name} {text}]"] = {"periodic": match[1], "formula": f"{name} = 0"}
        elif match := re.fullmatch(r"(.+?)\s+periodic\s+in\s+(\w+)\s*", str(text)):
            found[f"[{text}]"] = {"periodic": match[2], "formula": f"{match[1]} = 0"}
        elif match := re.fullmatch(r"(.+=.+?)\s+at\s+(.+)", str(text)):
            found[f"[{text}]"] = {"at": match[2], "formula": match[1]}
        else:
            raise UsageError(
                f'equation.conditions has {str(text)!r}; write "u = 0 at x=0, x=1" or "u periodic in x".'
            )
    return found


def _periodic(variable_name: str, equations: Sequence[Relation]) -> list[str]:
    vocabulary = equations[0].vocabulary
    if variable_name not in vocabulary.variables:
        raise UsageError(
            f"periodic in {variable_name}: the variables are {', '.join(vocabulary.variables)}."
        )
    number, highest = vocabulary.variables.index(variable_name), [1] * len(vocabulary.unknowns)
    for each in (derivative for relation in equations for derivative in relation.derivatives):
        highest[each.unknown] = max(highest[each.unknown], each.index[number])
    return [
        f"{unknown}_{variable_name * order}" if order else unknown
        for unknown, most in zip(vocabulary.unknowns, highest, strict=True)
        for order in range(most)
    ]


def _condition(name: str, given: Any, read: Reader, box: Array) -> Condition:
    where = f"equation.conditions.{name}"
    if (
        not isinstance(given, Mapping)
        or "formula" not in given
        or ("at" in given) == ("periodic" in given)
    ):
        raise UsageError(
            f'{where}={given} must be {{at: "x=0", formula: "u = 0"}} or {{periodic: x, formula: "u = 0"}}.'
        )
    if unknown := set(given) - {"at", "periodic", "formula"}:
        raise UsageError(
            f"{where} has the key {sorted(unknown)[0]}; the keys are at, periodic, formula."
        )
    relation = read.relation(given["formula"])
    variables = read.vocabulary.variables
    if "periodic" in given:
        if given["periodic"] not in variables:
            raise UsageError(
                f"{where}.periodic={given['periodic']} is none of the variables {', '.join(variables)}."
            )
        return Condition(name, relation, (), variables.index(given["periodic"]))
    faces = tuple(_face(where, part, read, box) for part in str(given["at"]).split(","))
    return Condition(name, relation, faces)


def _face(where: str, text: str, read: Reader, box: Array) -> Face:
    fixed, variables = [], read.vocabulary.variables
    for part in text.split("&"):
        match = _FACE.fullmatch(part)
        if match is None or match[1] not in variables:
            raise UsageError(
                f"{where}.at={text.strip()!r} is no place; write {variables[0]}=VALUE, several with commas, and "
                f"{variables[0]}=VALUE & {variables[-1]}=VALUE for where both hold."
            )
        number, value = variables.index(match[1]), constant(match[2], read.fixed)
        low, high = box[number]
        if not low <= value <= high:
            raise UsageError(
                f"{where}.at={text.strip()!r} lies outside the box, where {match[1]} is {low:g} to {high:g}."
            )
        fixed.append((number, value))
    return tuple(sorted(fixed))
