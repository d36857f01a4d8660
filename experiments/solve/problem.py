"""Problems of `kanrun solve`: systems and known solutions.

If no solution is known, networks are compared with a numerical reference solution, which is more
accurate than the networks. For initial value problems of ordinary equations, it is computed by
Runge-Kutta methods. Other systems are solved in slabs of time or on tensor products of splines; the
result is used as reference if its estimated error is small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.checks import check_determined, check_exact, incompatible_corners
from scipy import integrate
from torch import Generator

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
    System,
    evolution_system,
    is_direct,
    solve,
)
from kanrun.engine.equations.system import highest_orders
from kanrun.errors import TrainingFailed, UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.equation_syntax import Vocabulary
from kanrun.formulas.equations import Relation, parse_relation
from kanrun.formulas.parsing import constant, parse_expression, variable
from kanrun.monitoring import finished
from kanrun.study.resources import generator
from kanrun.targets.encoding import read_inputs
from kanrun.targets.table_files import column_names
from kanrun.targets.table_targets import frame_columns, input_rows

from .config import EquationConfig, SolveConfig

#: Known solution; maps points (points, variables) to the unknowns (points, unknowns).
Reference = Callable[[Array], Array]


@dataclass(frozen=True)
class Comparison:
    """Known solution against which errors are measured.

    Attributes:
        what: `exact` (a formula), `recorded` (a table) or `numerical` (another solver).
        values: Function that returns the unknowns, shape (points, unknowns).
        slopes: Function that returns the first derivatives of the unknowns, shape (points, unknowns
            * variables), ordered by unknown and then by variable; None if it is not known.
    """

    what: str
    values: Reference
    slopes: Reference | None = None


@dataclass(frozen=True)
class SolveProblem:
    """System to be solved, with its exact solution and true parameters as far as they are known.

    Attributes:
        name: Name of the equation in tables and figures.
        system: The system.
        exact: Formulas of the exact solution, one per unknown, or None.
        recorded: Points, shape (points, variables), and the known values of the unknowns there,
            shape (points, unknowns); or None.
        truth: True values of the unknown parameters by name; empty if they are not known.
        known: The system with the true parameters, or None if they are not known.
        easier: Systems with the constants of `equation.continuation`, which are solved first, in
            this order.
    """

    name: str
    system: System
    exact: Sequence[sympy.Expr] | None
    recorded: tuple[Array, Array] | None
    truth: Mapping[str, float]
    known: System | None
    easier: Sequence[System]

    @cached_property
    def comparison(self) -> Comparison | None:
        """Known solution, or None: exact, otherwise recorded, otherwise numerical.

        A numerical solution is computed on first use.
        """
        names = self.system.vocabulary.variables
        if self.exact is not None:
            slopes = [sympy.diff(each, variable(name)) for each in self.exact for name in names]
            return Comparison("exact", _stacked(self.exact, names), _stacked(slopes, names))
        if self.recorded is not None:
            from scipy.spatial import KDTree

            values = self.recorded[1]
            tree = KDTree(self.recorded[0])
            return Comparison("recorded", lambda at: values[tree.query(at)[1]])
        found = None if self.known is None else reference_of(self.known)
        return None if found is None else Comparison("numerical", found)

    def compared_for(self, method: Method) -> SolveProblem:
        """Return the problem for a solver, without a numerical reference if the latter is useless.

        It is useless if the solver estimates its error, because the reference would take longer and
        be less accurate than the solution itself. Initial value problems of ordinary equations keep
        their reference.
        """
        ordinary = len(self.system.box) == 1 and self.system.is_evolution
        return self if ordinary or isinstance(method, Ansatz) else replace(self, known=None)


def _stacked(formulas: Sequence[sympy.Expr], names: Sequence[str]) -> Reference:
    functions = [to_numpy(each, names) for each in formulas]
    return lambda points: np.stack([each(points) for each in functions], axis=1)


def make_solve_problem(cfg: SolveConfig, seed: int) -> SolveProblem:
    """Build the problem that `cfg.equation` describes, and check it.

    Args:
        cfg: Settings.
        seed: Seed of observations that are drawn from a reference solution.

    Raises:
        UsageError: If the equation, a condition, the box or a table is not valid.
    """
    equation = cfg.equation
    truth = dict[str, float]()
    parser = EquationParser(equation)
    system = parser.system()
    if (data := equation.data) is not None:
        if isinstance(data, str) or set(data) >= set(system.vocabulary.variables):
            unknowns, columns = read_observations(data, system)
        else:
            unknowns, columns, truth = _draw_observations(data, equation, system, seed)
        system = with_observations(system, unknowns, columns)
    system = _checked(system)
    if (exact := parser.exact()) is not None:
        check_exact(system, exact, truth)
    easier = [
        _checked(EquationParser(replace(equation, constants=values)).system())
        for values in _continued_constants(equation)
    ]
    if any(not torch.equal(each.box, system.box) for each in easier):
        raise UsageError(
            "equation.continuation has a constant that a range of equation.variables contains. "
            "Remove it from equation.continuation."
        )
    recorded = None if equation.reference is None else read_reference(equation.reference, system)
    known = _known(equation, truth)
    return SolveProblem(equation.name, system, exact, recorded, truth, known, easier)


def _checked(system: System) -> System:
    check_determined(system)
    return replace(system, corners=incompatible_corners(system))


def _known(equation: EquationConfig, truth: Mapping[str, float]) -> System | None:
    """Return the system with the true parameters, or None if a parameter is not known."""
    if set(equation.unknown_parameters or ()) - set(truth):
        return None
    constants = {**(equation.constants or {}), **truth}
    known = replace(equation, constants=constants, unknown_parameters=None)
    return _checked(EquationParser(known).system())


def _continued_constants(equation: EquationConfig) -> list[dict[str, Any]]:
    """Return one dictionary of constants for each problem of `equation.continuation`."""
    given = dict(equation.continuation or {})
    constants = dict(equation.constants or {})
    for name, values in given.items():
        if name not in constants:
            raise UsageError(
                f"equation.continuation sets {name}, but equation.constants does not define it. "
                f"Add {name} to equation.constants."
            )
        if not isinstance(values, list | tuple) or len(values) != len(next(iter(given.values()))):
            raise UsageError(
                f"equation.continuation.{name}={values} must be a list, as long as the others."
            )
    rows = zip(*given.values(), strict=True)
    return [{**constants, **dict(zip(given, row, strict=True))} for row in rows]


def _draw_observations(
    data: Any, equation: EquationConfig, system: System, seed: int
) -> tuple[list[str], Array, dict[str, float]]:
    """Draw noisy observations from a reference solution.

    Args:
        data: Setting `equation.data`, a mapping with the keys points, noise and constants. The
            noise is a fraction of the standard deviation of each unknown.
        equation: Settings of the equation.
        system: The system with unknown parameters.
        seed: Seed of the points and the noise.

    Returns:
        Names of the unknowns; columns of the variables and of these unknowns, shape (points,
        variables + unknowns); and the true parameters by name.

    Raises:
        UsageError: If `data` has other keys, or no reference solution can be computed.
    """
    if not isinstance(data, Mapping) or set(data) - {"points", "noise", "constants"}:
        raise UsageError(
            f"equation.data={data} must be a file, or have the keys points, noise and constants."
        )
    truth = {name: constant(value) for name, value in dict(data.get("constants", {})).items()}
    known = _known(equation, truth)
    found = None if known is None or not known.is_evolution else reference_of(known)
    if found is None:
        raise UsageError(
            "equation.data can be drawn for initial value problems only, with all constants given "
            "in it."
        )
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator(seed, "data"))))
    low, high = system.box.numpy().T
    shape = (int(data.get("points", 200)), len(low))
    points = low + rng.random(shape) * (high - low)
    values = found(points)
    noise = constant(data.get("noise", 0.0)) * values.std(axis=0)
    values = values + noise * rng.standard_normal(values.shape)
    return list(system.vocabulary.unknowns), np.concatenate([points, values], axis=1), truth


def reference_of(system: System) -> Reference | None:
    """Solve a system without unknown parameters numerically, as a reference.

    Initial value problems of ordinary equations are integrated by scipy, others by the solvers that
    estimate their error. Return None if no such solver applies or its result is not accurate
    enough.
    """
    evolution = evolution_system(system)
    if len(system.box) == 1 and system.is_evolution:
        return None if evolution is None else _integrate(evolution)
    if system.corners:
        evolution = None
    if evolution is None and not is_direct(system):
        return None
    method = evolution or Grids((8,), grows=True)
    # On tensor products, small tolerances are expensive if derivatives contradict each other.
    tolerance = 1e-5 if evolution is None else 1e-8
    drawn = Generator().manual_seed(0)
    try:
        solution = finished(solve(system, method, EquationPolicy(), drawn, tolerance=tolerance))
    except TrainingFailed:
        return None
    estimate = 1.0 if solution.estimate is None else solution.estimate
    if estimate > 1e-4 or solution.solved_until < float(system.box[-1, 1]):
        return None

    def values(points: Array) -> Array:
        with torch.no_grad():
            found: Array = solution.network(torch.as_tensor(points)).numpy()
        return found

    return values


def _integrate(system: EvolutionSystem) -> Reference | None:
    """Integrate ordinary equations by scipy, as a system of first order.

    The first method that reaches the end of the range is used. Return None if no method does,
    or if sympy cannot solve the equations for the highest derivatives.
    """
    vocabulary = system.vocabulary
    orders = system.orders
    (low, high), (time,) = system.box[0].tolist(), vocabulary.variables
    states = [(unknown, order) for unknown, top in enumerate(orders) for order in range(top)]

    def name(unknown: int, order: int) -> str:
        return f"{vocabulary.unknowns[unknown]}_{time * order}".rstrip("_")

    highest = [variable(name(unknown, order)) for unknown, order in enumerate(orders)]
    found = sympy.solve([each.expression for each in system.equations], highest, dict=True)
    formulas = [found[0].get(each) for each in highest] if len(found) == 1 else [None]
    if any(each is None or each.has(*highest) for each in formulas):
        return None
    right = [to_numpy(each, [time, *(name(*state) for state in states)]) for each in formulas]
    last = np.cumsum(orders) - 1
    start = [system.initial_value(u, (order,), np.array([[low]]))[0] for u, order in states]
    methods: tuple[tuple[Literal["DOP853", "Radau"], float], ...]
    methods = ("DOP853", 1e-13), ("Radau", 1e-10)
    for method, relative in methods:
        calls = iter(range(50_000))

        def slope(t: float, y: Array, calls: Any = calls) -> Array:
            next(calls)
            row = np.concatenate([[t], y])[None]
            rate = np.append(y[1:], 0.0)
            rate[last] = [float(each(row)[0]) for each in right]
            return rate

        # Scipy raises ValueError if a slope is not finite.
        with suppress(ValueError, StopIteration):
            found = integrate.solve_ivp(
                slope, (low, high), start, method, dense_output=True, rtol=relative, atol=1e-12
            )
            if found.success and (dense := found.sol) is not None:
                kept = np.append(0, last[:-1] + 1)
                return lambda points: np.asarray(dense(points[:, 0])[kept].T)
    return None


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
        most = 3
        if not 1 <= len(equation.variables) <= most:
            raise UsageError(
                f"equation.variables has {len(equation.variables)} variables; 1 to {most} "
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
