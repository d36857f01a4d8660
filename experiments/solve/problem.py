"""Settings to a system of equations, its networks, and what its solution is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.checks import check_determined, check_exact, differing
from kanrun.experiments.solve.collocation import collocated
from kanrun.experiments.solve.reading import Reader, read_conditions
from kanrun.experiments.solve.reference import Reference, reference_of
from numpy.typing import NDArray
from torch import Generator

from kanrun.config import EquationConfig, SolveConfig
from kanrun.engine.equations import Ansatz, Create, EquationPolicy, Measured, OutputForm, System
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import ACTIVATIONS, KAN, MLP, Network
from kanrun.errors import UsageError
from kanrun.formulas import constant, to_numpy
from kanrun.formulas.equations import Relation, Vocabulary, parse_relation
from kanrun.formulas.parsing import variable
from kanrun.study.resources import generator
from kanrun.targets.tables import column_names, read_inputs

Array = NDArray[np.float64]

_NETWORK_KEYS = {
    "kan": {"kind", "hidden", "terms", "factors", "degree"},
    "mlp": {"kind", "hidden", "terms", "factors", "activation"},
}
_MOST_VARIABLES = 3
#: Terms where the settings name no number; more follow where they help.
_TERMS = 4
#: Grids where the settings name none; finer ones follow where they help.
_INTERVALS = (5, 10, 20, 40)


@dataclass(frozen=True)
class Comparison:
    """What a solution is compared with: its values, and the derivatives in each variable where they are known."""

    what: str  # exact or reference
    values: Reference
    slopes: Reference | None = None  # (points, unknowns * variables), of the exact solution


@dataclass(frozen=True)
class SolveProblem:
    """A system, its exact solution and the true values of sought constants where they are known.

    `easier` are the systems with the constants' values of `equation.continuation`, in that order.
    """

    name: str
    system: System
    reader: Reader
    exact: Sequence[sympy.Expr] | None
    truth: Mapping[str, float]
    easier: Sequence[System] = ()

    @cached_property
    def comparison(self) -> Comparison | None:
        """What the solution is compared with; a reference is integrated when it is first asked for."""
        if self.exact is not None:
            return _compared(self.exact, self.system.vocabulary.variables)
        return _reference(self.system, self.reader, self.truth)


@dataclass(frozen=True)
class NetworkChoice:
    """A network of the settings and its name in tables."""

    label: str
    ansatz: Ansatz
    unknowns: int  # numbers of the network on its finest planned grid


def make_solve_problem(cfg: SolveConfig, seed: int) -> SolveProblem:
    """The problem of `cfg.equation`. Raises UsageError for an equation, condition, box or table that breaks a rule."""
    made = _made(cfg, seed)
    easier = [
        _made(replace(cfg, equation=replace(cfg.equation, constants=values, exact=None)), seed).system
        for values in _continued(cfg.equation)
    ]
    if any(not torch.equal(each.box, made.system.box) for each in easier):
        raise UsageError("equation.continuation has a constant that a range of equation.variables holds; leave it out.")
    return replace(made, easier=easier)


def _continued(equation: EquationConfig) -> list[dict[str, Any]]:
    """The constants of each easier problem."""
    given, constants = dict(equation.continuation or {}), dict(equation.constants or {})
    for name, values in given.items():
        if name not in constants:
            raise UsageError(
                f"equation.continuation has {name}, which equation.constants does not have; give it there."
            )
        if not isinstance(values, list | tuple) or len(values) != len(next(iter(given.values()))):
            raise UsageError(f"equation.continuation.{name}={values} must be a list, as long as those of others.")
    if given and equation.windows not in ("auto", 1, None):
        raise UsageError("equation.continuation solves the whole range at once; leave out equation.windows.")
    return [{**constants, **dict(zip(given, row, strict=True))} for row in zip(*given.values(), strict=True)]


def _made(cfg: SolveConfig, seed: int) -> SolveProblem:
    equation = cfg.equation
    fixed = dict[str, float]()
    for name, value in (equation.constants or {}).items():
        fixed[name] = constant(value, fixed)
    box = _box(equation, fixed)
    unknowns, sought = tuple(equation.unknowns), tuple(equation.find or ())
    vocabulary = Vocabulary(tuple(equation.variables), unknowns, sought)
    read = Reader(vocabulary, fixed)
    formulas = list(equation.formula) if isinstance(equation.formula, list | tuple) else [equation.formula]
    if len(formulas) != len(unknowns):
        raise UsageError(
            f"equation.formula has {len(formulas)} equations for {len(unknowns)} unknowns ({', '.join(unknowns)}); "
            "give one equation for each."
        )
    equations = tuple(read.relation(each) for each in formulas)
    conditions = read_conditions(equation.conditions, read, equations, box)
    guesses = {name: constant(value) for name, value in (equation.find or {}).items()}
    system = System(vocabulary, torch.as_tensor(box), equations, conditions, (), guesses)
    truth: dict[str, float] = {}
    if equation.data is not None:
        system, truth = _with_data(cfg, system, read, seed)
    check_determined(system)
    system = replace(system, corners=tuple(corner for corner, _ in differing(system)))
    known = None if equation.exact is None else _exact(equation.exact, read)
    if known is not None:
        check_exact(system, known, truth)
    return SolveProblem(equation.name, system, read, known, truth)


def network_choices(cfg: SolveConfig, orders: int) -> list[NetworkChoice]:
    """The networks of the settings; `orders` is the highest derivative, which splines must have."""
    return [_network(cfg, dict(entry), orders) for entry in cfg.networks]


def policy_of(cfg: SolveConfig) -> EquationPolicy:
    usual = EquationPolicy()
    return replace(usual, points=cfg.points, face_points=cfg.face_points, stage=replace(usual.stage, steps=cfg.steps))


def windows_of(cfg: SolveConfig, system: System, ansatz: Ansatz) -> int | str | None:
    """The setting `windows`, checked. Raises UsageError where the equation cannot be cut into windows."""
    windows = cfg.equation.windows
    possible = system.evolves and not system.vocabulary.constants and not cfg.equation.continuation
    if windows == "auto":
        return "auto" if possible and ansatz.intervals[0] is not None else None
    if windows is None or windows == 1:
        return None
    if isinstance(windows, bool) or not isinstance(windows, int) or not 1 <= windows <= 1000:
        raise UsageError(f"equation.windows={windows} must be a whole number from 1 to 1000, or auto.")
    if not possible:
        raise UsageError(
            f"equation.windows={windows} needs an equation that evolves from conditions at the lower end of its last "
            "variable, without sought constants; leave it out."
        )
    return windows


def _box(equation: EquationConfig, fixed: Mapping[str, float]) -> Array:
    if not 1 <= len(equation.variables) <= _MOST_VARIABLES:
        raise UsageError(
            f"equation.variables has {len(equation.variables)} variables; 1 to {_MOST_VARIABLES} are possible."
        )
    rows = []
    for name, ends in equation.variables.items():
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


def _exact(given: Any, read: Reader) -> list[sympy.Expr]:
    texts = list(given) if isinstance(given, list | tuple) else [given]
    if len(texts) != len(read.vocabulary.unknowns):
        raise UsageError(f"equation.exact has {len(texts)} formulas for {len(read.vocabulary.unknowns)} unknowns.")
    return [read.formula(text) for text in texts]


def _compared(formulas: Sequence[sympy.Expr], names: Sequence[str]) -> Comparison:
    values = [to_numpy(formula, names) for formula in formulas]
    slopes = [to_numpy(sympy.diff(formula, variable(name)), names) for formula in formulas for name in names]
    return Comparison(
        "exact",
        lambda points: np.stack([each(points) for each in values], axis=1),
        lambda points: np.stack([each(points) for each in slopes], axis=1),
    )


def _reference(system: System, read: Reader, truth: Mapping[str, float]) -> Comparison | None:
    known = _with_truth(system, read, truth) if system.vocabulary.constants else system
    if known is None:
        return None
    known = replace(known, measured=())
    found = reference_of(known) or collocated(known)
    return None if found is None else Comparison("reference", found)


def _with_truth(system: System, read: Reader, truth: Mapping[str, float]) -> System | None:
    """The system with sought constants at their true values; None where one is not known."""
    if set(system.vocabulary.constants) - set(truth):
        return None
    fixed = read.with_constants(truth)

    def put(relation: Relation) -> Relation:
        return replace(relation, expression=fixed.put(relation.expression), vocabulary=fixed.vocabulary)

    return replace(
        system, vocabulary=fixed.vocabulary, constants={},
        equations=tuple(put(each) for each in system.equations),
        conditions=tuple(replace(each, relation=put(each.relation)) for each in system.conditions),
    )  # fmt: skip


def _with_data(cfg: SolveConfig, system: System, read: Reader, seed: int) -> tuple[System, dict[str, float]]:
    """The system with measured values, from a table or drawn from a reference solution with noise."""
    data, vocabulary = cfg.equation.data, system.vocabulary
    names, truth = list(vocabulary.unknowns), dict[str, float]()
    if isinstance(data, str):
        names = [name for name in names if name in column_names(data)] or names
        columns = read_inputs(data, [*vocabulary.variables, *names])
        points, values = columns[:, : len(system.box)], columns[:, len(system.box) :]
    elif isinstance(data, Mapping) and set(data) >= set(vocabulary.variables):
        names = [name for name in names if name in data] or names
        points, values = _columns(data, vocabulary.variables), _columns(data, names)
    else:
        points, values, truth = _drawn(data, system, read, seed)
    low, high = system.box[:, 0].numpy(), system.box[:, 1].numpy()
    outside = ((points < low) | (points > high)).any(axis=1)
    if outside.any():
        raise UsageError(
            f"equation.data has rows outside the box of equation.variables, {int(outside.sum())} of {len(points)}, the "
            f"first at {_place(points[outside][0], vocabulary.variables)}; widen the box or leave them out."
        )
    measured = tuple(
        Measured(parse_relation(f"{name} = 0", vocabulary), torch.as_tensor(points), torch.as_tensor(values[:, i]))
        for i, name in enumerate(names)
    )
    return replace(system, measured=measured), truth


def _place(point: Array, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in zip(names, point, strict=True))


def _columns(data: Mapping[str, Any], names: Sequence[str]) -> Array:
    """These columns side by side. Raises UsageError where one is missing, not finite, or of another length."""
    if missing := [name for name in names if name not in data]:
        raise UsageError(f"equation.data has no column {missing[0]}; its columns are {', '.join(map(str, data))}.")
    try:
        found = np.stack([np.asarray(data[name], dtype=np.float64).reshape(-1) for name in names], axis=1)
    except (TypeError, ValueError):
        raise UsageError("equation.data needs columns of numbers, all of one length.") from None
    if not np.isfinite(found).all():
        raise UsageError("equation.data has values that are not finite; leave these rows out.")
    return found


def _drawn(data: Any, system: System, read: Reader, seed: int) -> tuple[Array, Array, dict[str, float]]:
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
    separated = not plain and not hidden and "factors" not in entry and form.factors is None
    terms = int(entry.get("terms", 1 if plain else form.terms or _TERMS))
    factors = int(entry.get("factors", 1 if plain else form.factors or inputs))
    outputs = OutputForm(unknowns, terms, factors, separated)
    widths = "-".join(map(str, (inputs, *hidden, outputs.outputs)))
    intervals: tuple[int | None, ...] = tuple(cfg.equation.intervals or _INTERVALS)
    if kind == "mlp":
        activation = str(entry.get("activation", "tanh"))
        if activation not in ACTIVATIONS or activation in ("relu", "identity"):
            raise UsageError(
                f"networks has an MLP with the activation {activation}, which has no second derivatives; take tanh."
            )
        create = _mlp(inputs, hidden, activation)
        ansatz = Ansatz(create, outputs, tuple(None for _ in intervals), hard=cfg.conditions == "hard")
        numbers = sum((a + 1) * b for a, b in pairwise((inputs, *hidden, outputs.outputs)))
        return NetworkChoice(f"MLP {widths}", ansatz, numbers)
    degree = int(entry.get("degree", max(5, orders + 2)))
    if not orders < degree <= 20:
        raise UsageError(
            f"networks has a KAN of degree {degree} for an equation of order {orders}; splines need a degree of "
            f"{orders + 1} to 20, better {orders + 3}."
        )
    created = _kan(inputs, hidden, degree, int(intervals[0] or 1))
    label = (
        f"KAN {widths}" + (f" ({terms} products)" if factors > 1 else "") + ("" if degree == 5 else f", k = {degree}")
    )
    widens = not plain and form.terms is None and "terms" not in entry
    grows, hard = cfg.equation.intervals is None, cfg.conditions == "hard"
    functions = int(intervals[-1] or 1) + degree
    edges = pairwise((inputs, *hidden, outputs.outputs))
    numbers = outputs.outputs * functions if separated else sum(a * b * functions for a, b in edges)
    return NetworkChoice(label, Ansatz(created, outputs, intervals, grows, widens, hard), numbers)


def _kan(inputs: int, hidden: list[int], degree: int, intervals: int) -> Create:
    domain = torch.tensor([[-1.0, 1.0]] * inputs, dtype=torch.float64)

    def create(outputs: int, drawn: Generator) -> Network:
        spec = EdgeSpec(degree=degree, base="zero")
        shape = (inputs, *hidden, outputs)
        return KAN.create(shape, intervals, spec, domain=domain, initialisation="spline", generator=drawn)

    return create


def _mlp(inputs: int, hidden: list[int], activation: str) -> Create:
    return lambda outputs, drawn: MLP((inputs, *hidden, outputs), activation, dtype=torch.float64, generator=drawn)
