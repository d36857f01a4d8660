"""Settings to a system of equations, its networks, and what its solution is compared with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.reference import Reference, reference_of
from numpy.typing import NDArray
from torch import Generator

from kanrun.config import EquationConfig, SolveConfig
from kanrun.engine.equations import Ansatz, Condition, Create, EquationPolicy, Face, Measured, OutputForm, System
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import ACTIVATIONS, KAN, MLP, Network
from kanrun.errors import UsageError
from kanrun.formulas import constant, to_numpy
from kanrun.formulas.equations import Relation, Vocabulary, parse_relation
from kanrun.formulas.functions import variable
from kanrun.formulas.parsing import parse_expression
from kanrun.study.resources import generator
from kanrun.targets.tables import read_inputs

Array = NDArray[np.float64]

_NETWORK_KEYS = {
    "kan": {"kind", "hidden", "terms", "factors", "degree"},
    "mlp": {"kind", "hidden", "terms", "factors", "activation"},
}
_MOST_VARIABLES = 3
_FACE = re.compile(r"\s*(\w+)\s*=\s*(.+?)\s*")


@dataclass(frozen=True)
class Comparison:
    """What a solution is compared with: its values, and the derivatives in each variable where they are known."""

    what: str  # exact or reference
    values: Reference
    slopes: Reference | None = None  # (points, unknowns * variables), of the exact solution


@dataclass(frozen=True)
class SolveProblem:
    """A system, what its solution is compared with, and the true values of sought constants where they are known."""

    name: str
    system: System
    comparison: Comparison | None
    truth: Mapping[str, float]


@dataclass(frozen=True)
class NetworkChoice:
    """A network of the settings and its name in tables."""

    label: str
    ansatz: Ansatz


def make_solve_problem(cfg: SolveConfig, seed: int) -> SolveProblem:
    """The problem of `cfg.equation`. Raises UsageError for an equation, condition, box or table that breaks a rule."""
    equation = cfg.equation
    box = _box(equation)
    unknowns, sought = tuple(equation.unknowns), tuple(equation.find or ())
    vocabulary = Vocabulary(tuple(equation.variables), unknowns, sought)
    fixed = {name: constant(value) for name, value in (equation.constants or {}).items()}
    read = _Reader(vocabulary, fixed)
    formulas = list(equation.formula) if isinstance(equation.formula, list | tuple) else [equation.formula]
    if len(formulas) != len(unknowns):
        raise UsageError(
            f"equation.formula has {len(formulas)} equations for {len(unknowns)} unknowns ({', '.join(unknowns)}); "
            "give one equation for each."
        )
    equations = tuple(read.relation(each) for each in formulas)
    conditions = tuple(_condition(name, each, read, box) for name, each in (equation.conditions or {}).items())
    guesses = {name: constant(value) for name, value in (equation.find or {}).items()}
    system = System(vocabulary, torch.as_tensor(box), equations, conditions, (), guesses)
    truth: dict[str, float] = {}
    if equation.data is not None:
        system, truth = _with_data(cfg, system, read, seed)
    _check_determined(system)
    exact = None if equation.exact is None else _exact(equation.exact, read)
    comparison = exact or _reference(system, read, truth)
    return SolveProblem(equation.name, system, comparison, truth)


def network_choices(cfg: SolveConfig, orders: int) -> list[NetworkChoice]:
    """The networks of the settings; `orders` is the highest derivative, which splines must have."""
    return [_network(cfg, dict(entry), orders) for entry in cfg.networks]


def policy_of(cfg: SolveConfig) -> EquationPolicy:
    usual = EquationPolicy()
    return replace(usual, points=cfg.points, face_points=cfg.face_points, stage=replace(usual.stage, steps=cfg.steps))


def windows_of(cfg: SolveConfig, system: System) -> int | str | None:
    """The setting `windows`, checked. Raises UsageError where the equation cannot be cut into windows."""
    windows = cfg.equation.windows
    if windows is None or windows == 1:
        return None
    if windows != "auto" and (isinstance(windows, bool) or not isinstance(windows, int) or not 1 <= windows <= 1000):
        raise UsageError(f"equation.windows={windows} must be a whole number from 1 to 1000, or auto.")
    if not system.evolves or system.vocabulary.constants:
        raise UsageError(
            f"equation.windows={windows} needs an equation that evolves from conditions at the lower end of its last "
            "variable, without sought constants; leave it out."
        )
    chosen: int | str = windows
    return chosen


class _Reader:
    """Reads formulas with the fixed constants put in."""

    def __init__(self, vocabulary: Vocabulary, fixed: Mapping[str, float]) -> None:
        self.vocabulary, self.fixed = vocabulary, dict(fixed)

    def with_constants(self, more: Mapping[str, float]) -> _Reader:
        """The same, with sought constants at given values."""
        left = tuple(name for name in self.vocabulary.constants if name not in more)
        return _Reader(replace(self.vocabulary, constants=left), {**self.fixed, **more})

    def relation(self, text: Any) -> Relation:
        widened = replace(self.vocabulary, constants=(*self.vocabulary.constants, *self.fixed))
        found = parse_relation(str(text), widened)
        return replace(found, expression=self._put(found.expression), vocabulary=self.vocabulary)

    def formula(self, text: Any) -> sympy.Expr:
        names = (*self.vocabulary.variables, *self.fixed)
        return self._put(parse_expression(str(text), names))

    def _put(self, expression: sympy.Expr) -> sympy.Expr:
        return expression.subs({variable(name): sympy.Rational(repr(value)) for name, value in self.fixed.items()})


def _box(equation: EquationConfig) -> Array:
    if not 1 <= len(equation.variables) <= _MOST_VARIABLES:
        raise UsageError(
            f"equation.variables has {len(equation.variables)} variables; 1 to {_MOST_VARIABLES} are possible."
        )
    rows = []
    for name, ends in equation.variables.items():
        if not isinstance(ends, list | tuple) or len(ends) != 2:
            raise UsageError(f"equation.variables.{name}={ends} is no range; give [low, high].")
        low, high = map(constant, ends)
        if not low < high:
            raise UsageError(
                f"equation.variables.{name}=[{low:g}, {high:g}] is empty; the first end must be the lower."
            )
        rows.append((low, high))
    return np.array(rows, dtype=np.float64)


def _condition(name: str, given: Any, read: _Reader, box: Array) -> Condition:
    where = f"equation.conditions.{name}"
    if not isinstance(given, Mapping) or "formula" not in given or ("at" in given) == ("periodic" in given):
        raise UsageError(
            f'{where}={given} must be {{at: "x=0", formula: "u = 0"}} or {{periodic: x, formula: "u = 0"}}.'
        )
    if unknown := set(given) - {"at", "periodic", "formula"}:
        raise UsageError(f"{where} has the key {sorted(unknown)[0]}; the keys are at, periodic, formula.")
    relation = read.relation(given["formula"])
    variables = read.vocabulary.variables
    if "periodic" in given:
        if given["periodic"] not in variables:
            raise UsageError(f"{where}.periodic={given['periodic']} is none of the variables {', '.join(variables)}.")
        return Condition(name, relation, (), variables.index(given["periodic"]))
    faces = tuple(_face(where, part, variables, box) for part in str(given["at"]).split(","))
    return Condition(name, relation, faces)


def _face(where: str, text: str, variables: tuple[str, ...], box: Array) -> Face:
    fixed = []
    for part in text.split("&"):
        match = _FACE.fullmatch(part)
        if match is None or match[1] not in variables:
            raise UsageError(
                f"{where}.at={text.strip()!r} is no place; write {variables[0]}=VALUE, several with commas, and "
                f"{variables[0]}=VALUE & {variables[-1]}=VALUE for where both hold."
            )
        number, value = variables.index(match[1]), constant(match[2])
        low, high = box[number]
        if not low <= value <= high:
            raise UsageError(
                f"{where}.at={text.strip()!r} lies outside the box, where {match[1]} is {low:g} to {high:g}."
            )
        fixed.append((number, value))
    return tuple(sorted(fixed))


def _check_determined(system: System) -> None:
    """Refuse an equation that obviously many functions solve: one without conditions and without measured values."""
    if system.conditions or system.measured:
        return
    raise UsageError("equation.conditions is empty: without conditions or data many functions solve the equation.")


def _exact(given: Any, read: _Reader) -> Comparison:
    texts = list(given) if isinstance(given, list | tuple) else [given]
    if len(texts) != len(read.vocabulary.unknowns):
        raise UsageError(f"equation.exact has {len(texts)} formulas for {len(read.vocabulary.unknowns)} unknowns.")
    names = read.vocabulary.variables
    formulas = [read.formula(text) for text in texts]
    values = [to_numpy(formula, names) for formula in formulas]
    slopes = [to_numpy(sympy.diff(formula, variable(name)), names) for formula in formulas for name in names]
    return Comparison(
        "exact",
        lambda points: np.stack([each(points) for each in values], axis=1),
        lambda points: np.stack([each(points) for each in slopes], axis=1),
    )


def _reference(system: System, read: _Reader, truth: Mapping[str, float]) -> Comparison | None:
    known = _with_truth(system, read, truth) if system.vocabulary.constants else system
    found = None if known is None else reference_of(replace(known, measured=()))
    return None if found is None else Comparison("reference", found)


def _with_truth(system: System, read: _Reader, truth: Mapping[str, float]) -> System | None:
    """The system with sought constants at their true values; None where one is not known."""
    if set(system.vocabulary.constants) - set(truth):
        return None
    fixed = read.with_constants(truth)

    def put(relation: Relation) -> Relation:
        return replace(relation, expression=fixed._put(relation.expression), vocabulary=fixed.vocabulary)

    return replace(
        system, vocabulary=fixed.vocabulary, constants={},
        equations=tuple(put(each) for each in system.equations),
        conditions=tuple(replace(each, relation=put(each.relation)) for each in system.conditions),
    )  # fmt: skip


def _with_data(cfg: SolveConfig, system: System, read: _Reader, seed: int) -> tuple[System, dict[str, float]]:
    """The system with measured values, from a table or drawn from a reference solution with noise."""
    data, vocabulary = cfg.equation.data, system.vocabulary
    if isinstance(data, str):
        columns = read_inputs(data, [*vocabulary.variables, *vocabulary.unknowns])
        points, values = columns[:, : len(system.box)], columns[:, len(system.box) :]
        low, high = system.box[:, 0].numpy(), system.box[:, 1].numpy()
        outside = ((points < low) | (points > high)).any(axis=1)
        if outside.any():
            raise UsageError(f"{data} has {int(outside.sum())} rows outside the box of equation.variables; widen it.")
        truth: dict[str, float] = {}
    else:
        points, values, truth = _drawn(data, system, read, seed)
    measured = tuple(
        Measured(parse_relation(f"{name} = 0", vocabulary), torch.as_tensor(points), torch.as_tensor(values[:, i]))
        for i, name in enumerate(vocabulary.unknowns)
    )
    return replace(system, measured=measured), truth


def _drawn(data: Any, system: System, read: _Reader, seed: int) -> tuple[Array, Array, dict[str, float]]:
    if not isinstance(data, Mapping) or set(data) - {"points", "noise", "constants"}:
        raise UsageError(f"equation.data={data} must be a file, or have the keys points, noise and constants.")
    truth = {name: constant(value) for name, value in dict(data.get("constants", {})).items()}
    known = _with_truth(system, read, truth)
    found = None if known is None else reference_of(known)
    if found is None:
        raise UsageError("equation.data can be drawn for initial value problems only, with all constants given in it.")
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator(seed, "data"))))
    box = system.box.numpy()
    points = box[:, 0] + rng.random((int(data.get("points", 200)), len(box))) * (box[:, 1] - box[:, 0])
    values = found(points)
    noise = constant(data.get("noise", 0.0)) * values.std(axis=0)
    return points, values + noise * rng.standard_normal(values.shape), truth


def _network(cfg: SolveConfig, entry: dict[str, Any], orders: int) -> NetworkChoice:
    kind = entry.get("kind")
    if kind not in _NETWORK_KEYS:
        raise UsageError(f"networks has {entry}, whose kind is none of {', '.join(_NETWORK_KEYS)}.")
    if unknown := set(entry) - _NETWORK_KEYS[kind]:
        keys = ", ".join(sorted(_NETWORK_KEYS[kind]))
        raise UsageError(f"networks has {entry} with the key {sorted(unknown)[0]}; the keys of a {kind} are {keys}.")
    inputs, unknowns = len(cfg.equation.variables), len(cfg.equation.unknowns)
    hidden = [int(width) for width in entry.get("hidden", [] if kind == "kan" else [16, 16])]
    if any(width < 1 for width in hidden):
        raise UsageError(f"networks has {entry} with a layer of less than 1 node.")
    plain = inputs == 1 or kind == "mlp"
    form = cfg.equation.form
    terms = int(entry.get("terms", 1 if plain else form.terms or 3))
    factors = int(entry.get("factors", 1 if plain else form.factors or 2))
    outputs = OutputForm(unknowns, terms, factors)
    widths = "-".join(map(str, (inputs, *hidden, outputs.outputs)))
    intervals: tuple[int | None, ...] = tuple(cfg.equation.intervals)
    if kind == "mlp":
        activation = str(entry.get("activation", "tanh"))
        if activation not in ACTIVATIONS or activation in ("relu", "identity"):
            raise UsageError(
                f"networks has an MLP with the activation {activation}, which has no second derivatives; take tanh."
            )
        create = _mlp(inputs, hidden, activation)
        return NetworkChoice(f"MLP {widths}", Ansatz(create, outputs, tuple(None for _ in intervals)))
    degree = int(entry.get("degree", 5))
    if not orders < degree <= 20:
        raise UsageError(
            f"networks has a KAN of degree {degree} for an equation of order {orders}; splines need a degree of "
            f"{orders + 1} to 20, better {orders + 3}."
        )
    created = _kan(inputs, hidden, degree, int(cfg.equation.intervals[0]))
    label = (
        f"KAN {widths}" + (f" ({terms} products)" if factors > 1 else "") + ("" if degree == 5 else f", k = {degree}")
    )
    return NetworkChoice(label, Ansatz(created, outputs, intervals))


def _kan(inputs: int, hidden: list[int], degree: int, intervals: int) -> Create:
    domain = torch.tensor([[-1.0, 1.0]] * inputs, dtype=torch.float64)

    def create(outputs: int, drawn: Generator) -> Network:
        spec = EdgeSpec(degree=degree, base="zero")
        shape = (inputs, *hidden, outputs)
        return KAN.create(shape, intervals, spec, domain=domain, initialisation="spline", generator=drawn)

    return create


def _mlp(inputs: int, hidden: list[int], activation: str) -> Create:
    return lambda outputs, drawn: MLP((inputs, *hidden, outputs), activation, dtype=torch.float64, generator=drawn)
