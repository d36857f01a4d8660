"""Conversion of settings to a system of equations, and to the networks and solvers for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.checks import check_memory

from kanrun.engine.equations import (
    Ansatz,
    Array,
    Condition,
    EquationPolicy,
    EvolutionSystem,
    Face,
    Grids,
    Method,
    Observations,
    OutputForm,
    System,
    evolution_system,
    is_direct,
)
from kanrun.engine.equations.space import DEGREE as SPLINE_DEGREE
from kanrun.engine.equations.system import highest_orders
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.errors import UsageError
from kanrun.formulas.equation_syntax import Vocabulary
from kanrun.formulas.equations import Relation, parse_relation
from kanrun.formulas.parsing import constant, parse_expression, variable
from kanrun.targets.encoding import read_inputs
from kanrun.targets.table_files import column_names
from kanrun.targets.table_targets import frame_columns, input_rows

from .config import EquationConfig, SolveConfig

_NETWORK_KEYS = {
    "kan": {"kind", "hidden", "terms", "factors", "degree"},
}
#: Default number of products that are summed, for a KAN in several variables.
_TERMS = 8
#: Default numbers of intervals of successive grids; finer ones follow if they help.
_INTERVALS = (5, 10, 20, 40)
#: Default number of intervals of the first grid on tensor products of splines.
_TENSOR_INTERVALS = 8
#: Default degree of a KAN.
_DEGREE = 5
#: Highest allowed degree of a KAN.
_MAX_DEGREE = 20

MAX_VARIABLES = 3
#: Patterns of conditions as sentences: "[FORMULA] periodic in VARIABLE" and "EQUATION at PLACES".
_SENTENCES = (
    r"((?P<formula>.+?)\s+)?periodic\s+in\s+(?P<periodic>\w+)",
    r"(?P<formula>.+=.+?)\s+at\s+(?P<at>.+)",
)
_FACE = re.compile(r"\s*(\w+)\s*=\s*(.+?)\s*")


class EquationParser:
    """Parser of the settings of an equation. Known constants are replaced by their values.

    Attributes:
        equation: The settings.
        fixed: Values of the known constants by name.
        box: Range of each variable, shape (variables, 2).
        vocabulary: Names of variables, unknowns and unknown parameters.
    """

    def __init__(self, equation: EquationConfig) -> None:
        self.equation, self.fixed = equation, dict[str, float]()
        for name, value in (equation.constants or {}).items():
            self.fixed[name] = constant(value, self.fixed)
        if not 1 <= len(equation.variables) <= MAX_VARIABLES:
            raise UsageError(
                f"equation.variables has {len(equation.variables)} variables; 1 to {MAX_VARIABLES} "
                "are possible."
            )
        rows = []
        for name, ends in equation.variables.items():
            where = f"equation.variables.{name}"
            if not isinstance(ends, list | tuple) or len(ends) != 2:
                raise UsageError(f"{where}={ends} is not a valid range. Give [low, high].")
            try:
                low, high = (constant(end, self.fixed) for end in ends)
            except UsageError as error:
                raise UsageError(f"{where}={list(ends)}: {error}.") from None
            if not low < high:
                raise UsageError(
                    f"{where}=[{low:g}, {high:g}] is empty; the first end must be the lower."
                )
            rows.append((low, high))
        self.box = np.array(rows, dtype=np.float64)
        self.vocabulary = Vocabulary(
            tuple(equation.variables),
            tuple(equation.unknowns),
            tuple(equation.unknown_parameters or ()),
        )

    def system(self) -> System:
        """Return the system of equations and conditions, without observations."""
        equations = tuple(map(self.relation, self.each_unknown("formula", "equation")))
        named = _conditions_by_name(self.equation.conditions, equations).items()
        conditions = tuple(self._condition(f"equation.conditions.{n}", each) for n, each in named)
        given = (self.equation.unknown_parameters or {}).items()
        guesses = {name: constant(value) for name, value in given}
        box = torch.as_tensor(self.box)
        return System(self.vocabulary, box, equations, conditions, constants=guesses)

    def exact(self) -> list[sympy.Expr] | None:
        """Return the formulas of the exact solution, one per unknown; None if it is not known."""
        if self.equation.exact is None:
            return None
        return [self.formula(text) for text in self.each_unknown("exact", "formula")]

    def formula(self, text: str) -> sympy.Expr:
        """Parse a formula in the variables, and substitute the known constants."""
        names = (*self.vocabulary.variables, *self.fixed)
        return self._substitute(parse_expression(text, names))

    def each_unknown(self, key: str, noun: str) -> list[str]:
        """Return the value of a setting that must have one string per unknown.

        Args:
            key: Name of the setting, such as formula.
            noun: What the error message calls one string, such as "equation".

        Raises:
            UsageError: If the number of strings is not the number of unknowns.
        """
        given = getattr(self.equation, key)
        unknowns = self.vocabulary.unknowns
        texts = list(map(str, given if isinstance(given, list | tuple) else [given]))
        if len(texts) != len(unknowns):
            counts = [(len(texts), noun), (len(unknowns), "unknown")]
            said = " for ".join(f"{count} {each}{'s' * (count != 1)}" for count, each in counts)
            raise UsageError(
                f"equation.{key} has {said} ({', '.join(unknowns)}). Give one {noun} for each "
                "unknown."
            )
        return texts

    def relation(self, text: str) -> Relation:
        """Parse an equation, or a condition without its place, and substitute known constants."""
        known = replace(self.vocabulary, constants=(*self.vocabulary.constants, *self.fixed))
        found = parse_relation(text, known)
        expression = self._substitute(found.expression)
        return replace(found, expression=expression, vocabulary=self.vocabulary)

    def _substitute(self, expression: sympy.Expr) -> sympy.Expr:
        values = self.fixed.items()
        return expression.subs({variable(name): sympy.Rational(repr(v)) for name, v in values})

    def _condition(self, where: str, given: Any) -> Condition:
        is_mapping = isinstance(given, Mapping) and "formula" in given
        if not is_mapping or ("at" in given) == ("periodic" in given):
            raise UsageError(
                f'{where}={given} must be {{at: "x=0", formula: "u = 0"}} or '
                '{periodic: x, formula: "u = 0"}.'
            )
        if unknown := set(given) - {"at", "periodic", "formula"}:
            raise UsageError(
                f"{where} has the key {sorted(unknown)[0]}; the keys are at, periodic, formula."
            )
        relation = self.relation(str(given["formula"]))
        variables = self.vocabulary.variables
        if "at" in given:
            faces = (self._face(where, part) for part in str(given["at"]).split(","))
            return Condition(relation, tuple(faces))
        if given["periodic"] not in variables:
            raise UsageError(
                f"{where}.periodic={given['periodic']} is not one of the variables "
                f"{', '.join(variables)}."
            )
        return Condition(relation, periodic=variables.index(given["periodic"]))

    def _face(self, where: str, text: str) -> Face:
        fixed = []
        variables = self.vocabulary.variables
        where = f"{where}.at={text.strip()!r}"
        for part in text.split("&"):
            match = _FACE.fullmatch(part)
            if match is None or match[1] not in variables:
                raise UsageError(
                    f"{where} is not a valid place. Write {variables[0]}=VALUE, several with "
                    f"commas, and {variables[0]}=VALUE & {variables[-1]}=VALUE where both hold."
                )
            number = variables.index(match[1])
            value = constant(match[2], self.fixed)
            low, high = self.box[number]
            if not low <= value <= high:
                raise UsageError(
                    f"{where} lies outside the box, where {match[1]} is {low:g} to {high:g}."
                )
            fixed.append((number, value))
        return tuple(sorted(fixed))


def _conditions_by_name(given: Any, equations: Sequence[Relation]) -> dict[str, Any]:
    """Return all conditions as mappings such as {at: x=0, formula: u = 0}, by name.

    Conditions that are written as sentences are parsed, and their names are made from the
    sentences. The sentence "periodic in x" without a formula is replaced by one condition for every
    unknown and for each of its derivatives with respect to x below the highest one in the
    equations.
    """
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    found: dict[str, Any] = {}
    for text in given:
        matches = (re.fullmatch(pattern, str(text).strip()) for pattern in _SENTENCES)
        match = next((each for each in matches if each is not None), None)
        if match is None:
            raise UsageError(
                f"equation.conditions has {str(text)!r}. "
                'Write "u = 0 at x=0, x=1" or "u periodic in x".'
            )
        entry = match.groupdict()
        if "at" in entry:
            found[f"[{text}]"] = entry
            continue
        ring = entry["periodic"]
        names = [entry["formula"]]
        vocabulary = equations[0].vocabulary
        if names == [None]:
            if ring not in vocabulary.variables:
                variables = ", ".join(vocabulary.variables)
                raise UsageError(f"periodic in {ring}: the variables are {variables}.")
            orders = highest_orders(equations, vocabulary.variables.index(ring))
            names = [
                f"{unknown}_{ring * order}".rstrip("_")
                for unknown, highest in zip(vocabulary.unknowns, orders, strict=True)
                for order in range(max(highest, 1))
            ]
        for name in names:
            found[f"[{name} periodic in {ring}]"] = {"formula": f"{name} = 0", "periodic": ring}
    return found


def read_observations(data: Any, system: System) -> tuple[list[str], Array]:
    """Read observations of a system.

    Args:
        data: Name of a file, or a mapping from names to columns.
        system: System whose variables and unknowns are columns of the data.

    Returns:
        Names of the observed unknowns; and an array with one column per variable, then one per
        observed unknown, shape (rows, variables + unknowns).

    Raises:
        UsageError: If a column is missing or not valid.
    """
    names = system.vocabulary.variables
    unknowns = list(system.vocabulary.unknowns)
    known = column_names(data) if isinstance(data, str) else data
    unknowns = [name for name in unknowns if name in known] or unknowns
    return unknowns, _columns("data", data, [*names, *unknowns])


def _columns(key: str, data: Any, names: Sequence[str]) -> Array:
    """Return the columns `names` of a file or a mapping, shape (rows, names).

    `key` is the name of the setting, for error messages.
    """
    if isinstance(data, str):
        return read_inputs(data, names)
    return input_rows(frame_columns(data, names, f"equation.{key}"), names)[0]


def with_observations(system: System, unknowns: Sequence[str], columns: Array) -> System:
    """Return the system with observations of `unknowns`; for `columns` see `read_observations`."""
    points, values = map(torch.as_tensor, _points_and_values("data", system, columns))
    observations = (
        Observations(parse_relation(f"{name} = 0", system.vocabulary), points, column)
        for name, column in zip(unknowns, values.T.contiguous(), strict=True)
    )
    return replace(system, observations=tuple(observations))


def _points_and_values(key: str, system: System, columns: Array) -> tuple[Array, Array]:
    """Split columns into points, shape (rows, variables), and values, shape (rows, unknowns).

    `key` is the name of the setting, for the error message.

    Raises:
        UsageError: If a point lies outside the box.
    """
    points, values = np.split(columns, [len(system.box)], axis=1)
    low, high = system.box.numpy().T
    outside = ((points < low) | (points > high)).any(axis=1)
    if outside.any():
        pairs = zip(system.vocabulary.variables, points[outside][0], strict=True)
        raise UsageError(
            f"equation.{key} has {int(outside.sum())} of {len(points)} rows outside the box of "
            "equation.variables, "
            f"the first at {', '.join(f'{name}={value:g}' for name, value in pairs)}. "
            "Widen the box or remove these rows."
        )
    return points, values


def read_reference(given: Any, system: System) -> tuple[Array, Array]:
    """Read a known solution, given by its values at some points.

    Args:
        given: Name of a table bundled with kanrun, name of a file, or mapping from names to
            columns.
        system: System whose variables and unknowns are columns of the table.

    Returns:
        Points, shape (rows, variables), and values of all unknowns, shape (rows, unknowns).
    """
    wanted = [*system.vocabulary.variables, *system.vocabulary.unknowns]
    if isinstance(given, str):
        own = files("kanrun.experiments.solve").joinpath("references", f"{given}.csv")
        given = str(own) if own.is_file() else given
    return _points_and_values("reference", system, _columns("reference", given, wanted))


class NetworkChoice(NamedTuple):
    """Network that solves a system.

    Attributes:
        label: Name of the network in tables and figures.
        method: Settings of the solver.
    """

    label: str
    method: Method


def policy_of(cfg: SolveConfig) -> EquationPolicy:
    """Return the solver's default numbers of points and steps, with the budget of `cfg`."""
    return EquationPolicy(budget=cfg.budget)


def network_choices(cfg: SolveConfig, system: System) -> list[NetworkChoice]:
    """Return the networks of the setting `networks`, in order, for a system."""
    return [_network_choice(cfg, dict(entry), system) for entry in cfg.networks]


def _direct(cfg: SolveConfig, system: System) -> NetworkChoice | None:
    """Return the KAN of a solver that estimates its error, or None if no such solver applies.

    Slabs of time are preferred to tensor products of splines. They cannot be used if the settings
    contain planned grids (`equation.intervals`) or parameter continuation.
    """
    given = cfg.equation
    count = len(system.vocabulary.unknowns)
    variables = len(system.box)
    whole = given.intervals or given.continuation
    shape = f"1-{count}"
    terms = SPLINE_DEGREE + 1
    method: EvolutionSystem | Grids
    if not whole and (evolution := evolution_system(system)) is not None:
        method = evolution
        several = f"2-{2 * count * terms} ({terms} products)"
    elif is_direct(system):
        method = Grids(tuple(given.intervals or (_TENSOR_INTERVALS,)), given.intervals is None)
        several = "2-2r (r products)"
        unknowns = count * (method.intervals[-1] + SPLINE_DEGREE) ** variables
        check_memory(system, policy_of(cfg), unknowns)
    else:
        return None
    return NetworkChoice(f"KAN {several if variables == 2 else shape}, k = {SPLINE_DEGREE}", method)


def _network_choice(cfg: SolveConfig, entry: dict[str, Any], system: System) -> NetworkChoice:
    kind = entry.get("kind")
    equation = cfg.equation
    inputs = len(system.box)
    if kind not in _NETWORK_KEYS:
        raise UsageError(f"networks has {entry}, whose kind is not {', '.join(_NETWORK_KEYS)}.")
    if unknown := set(entry) - _NETWORK_KEYS[kind]:
        keys = ", ".join(sorted(_NETWORK_KEYS[kind]))
        raise UsageError(
            f"networks has {entry} with the key {sorted(unknown)[0]}; the keys of a {kind} are "
            f"{keys}."
        )
    if entry == {"kind": "kan"} and (direct := _direct(cfg, system)) is not None:
        return direct
    hidden = [int(width) for width in entry.get("hidden", [])]
    if any(width < 1 for width in hidden):
        raise UsageError(f"networks has {entry} with a layer of less than 1 node.")
    plain = inputs == 1
    form = OutputForm(
        len(equation.unknowns),
        int(entry.get("terms", 1 if plain else _TERMS)),
        int(entry.get("factors", 1 if plain else inputs)),
        separated=not plain and not hidden and "factors" not in entry,
    )
    choice, unknowns = _network(cfg, entry, form, [inputs, *hidden, form.outputs], system.order)
    check_memory(system, policy_of(cfg), unknowns)
    return choice


def _network(
    cfg: SolveConfig, entry: dict[str, Any], form: OutputForm, shape: list[int], order: int
) -> tuple[NetworkChoice, int]:
    """Return a network and its number of coefficients; for a KAN, on the finest planned grid.

    Args:
        cfg: Settings.
        entry: Entry of the setting `networks`.
        form: How the outputs are combined into the unknowns.
        shape: Number of nodes of each layer, including inputs and outputs.
        order: Highest order of a derivative in the equations.
    """
    given = cfg.equation
    widths = "-".join(map(str, shape))
    intervals = tuple(given.intervals or _INTERVALS)
    degree = int(entry.get("degree", max(_DEGREE, order + 2)))
    if not order < degree <= _MAX_DEGREE:
        raise UsageError(
            f"networks has a KAN of degree {degree} for an equation of order {order}. "
            f"Splines need a degree of {order + 1} to {_MAX_DEGREE}, better {order + 3}."
        )
    label = f"KAN {widths}" + f" ({form.terms} products)" * (form.factors > 1)
    label += f", k = {degree}" * (degree != _DEGREE)
    spec = EdgeSpec(degree=degree, base="zero")
    domain = torch.tensor([[-1.0, 1.0]] * shape[0], dtype=torch.float64)
    kan = partial(KAN.create, shape, intervals[0], spec, domain=domain, initialisation="spline")
    ansatz = Ansatz(kan, form, intervals, given.intervals is None, "terms" not in entry)
    edges = form.outputs if form.separated else sum(a * b for a, b in pairwise(shape))
    return NetworkChoice(label, ansatz), edges * (intervals[-1] + degree)
