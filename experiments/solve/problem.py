"""Settings to a system of equations, its networks, and what its solution is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.checks import (
    check_agreement,
    check_determined,
    check_exact,
    differing,
)
from kanrun.experiments.solve.collocation import collocated
from kanrun.experiments.solve.reading import Reader, read_box, read_conditions
from kanrun.experiments.solve.reference import Reference, reference_of
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Generator

from kanrun.config import EquationConfig, SolveConfig
from kanrun.engine.equations import Ansatz, Create, EquationPolicy, Measured, OutputForm, System
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import ACTIVATIONS, KAN, MLP, Network
from kanrun.errors import UsageError
from kanrun.formulas import constant, to_numpy, variable
from kanrun.formulas.equations import Vocabulary, parse_relation
from kanrun.study.resources import generator
from kanrun.study.suite import with_cell
from kanrun.targets.tables import column_names, read_inputs

Array = NDArray[np.float64]

_NETWORK_KEYS = {
    "kan": {"kind", "hidden", "terms", "factors", "degree"},
    "mlp": {"kind", "hidden", "terms", "factors", "activation"},
}
#: Terms where the settings name no number; more follow where they help.
_TERMS = 4
#: Grids where the settings name none; finer ones follow where they help.
_INTERVALS = (5, 10, 20, 40)


@dataclass(frozen=True)
class Comparison:
    """What a solution is compared with: its values, and the derivatives in each variable where they are known."""

    what: str  # exact or numerical
    values: Reference
    slopes: Reference | None = None  # (points, unknowns * variables), of the exact solution


@dataclass(frozen=True)
class SolveProblem:
    """A system, its exact solution and the true values of sought constants where they are known.

    `known` is the system with these constants, None where one is not known; `easier` are the systems with the
    constants' values of `equation.continuation`, in that order.
    """

    name: str
    system: System
    exact: Sequence[sympy.Expr] | None
    truth: Mapping[str, float]
    known: System | None
    easier: Sequence[System] = ()

    @cached_property
    def comparison(self) -> Comparison | None:
        """What the solution is compared with; a reference is integrated when it is first asked for."""
        names = self.system.vocabulary.variables
        if self.exact is not None:
            values = [to_numpy(formula, names) for formula in self.exact]
            slopes = [
                to_numpy(sympy.diff(each, variable(name)), names)
                for each in self.exact
                for name in names
            ]
            return Comparison("exact", _side_by_side(values), _side_by_side(slopes))
        found = None if self.known is None else reference_of(self.known) or collocated(self.known)
        return None if found is None else Comparison("numerical", found)


def _side_by_side(functions: Sequence[Reference]) -> Reference:
    return lambda points: np.stack([each(points) for each in functions], axis=1)


@dataclass(frozen=True)
class NetworkChoice:
    """A network of the settings and its name in tables."""

    label: str
    ansatz: Ansatz
    unknowns: int  # numbers of the network on its finest planned grid


def settings_of(cfg: SolveConfig, cell: Mapping[str, Any]) -> SolveConfig:
    """The settings of one cell of a suite, such as {equation: heat, name: heat, bounds: {l2: 1e-6}, points: 500}: an
    equation of the group by its name, and further differences from `cfg`.

    Raises UsageError for an equation that the group does not have and for settings against their rules.
    """
    if "equation" in cell:
        entry = files("kanrun.conf").joinpath("equation", f"{cell['equation']}.yaml")
        if not entry.is_file():
            raise UsageError(
                f"suite names the equation {cell['equation']}, which the group does not have."
            )
        merged = OmegaConf.merge(
            OmegaConf.structured(EquationConfig), OmegaConf.create(entry.read_text())
        )
        equation: Any = OmegaConf.to_object(merged)
        cfg = replace(cfg, equation=equation)
    return with_cell(
        cfg,
        {name: each for name, each in cell.items() if name not in ("network", "name", "equation")},
    )


def make_solve_problem(cfg: SolveConfig, seed: int) -> SolveProblem:
    """The problem of `cfg.equation`. Raises UsageError for an equation, condition, box or table that breaks a rule."""
    equation, truth = cfg.equation, dict[str, float]()
    system, read = _system(equation)
    if equation.data is not None:
        system, truth = _with_data(equation, system, seed)
    system = _checked(system)
    exact = None
    if equation.exact is not None:
        texts = (
            list(equation.exact) if isinstance(equation.exact, list | tuple) else [equation.exact]
        )
        if len(texts) != len(equation.unknowns):
            raise UsageError(
                f"equation.exact has {len(texts)} formulas for {len(equation.unknowns)} unknowns."
            )
        exact = [read.formula(text) for text in texts]
        check_exact(system, exact, truth)
    easier = [
        _checked(_system(replace(equation, constants=values))[0]) for values in _continued(equation)
    ]
    if any(not torch.equal(each.box, system.box) for each in easier):
        raise UsageError(
            "equation.continuation has a constant that a range of equation.variables holds; leave it out."
        )
    return SolveProblem(equation.name, system, exact, truth, _known(equation, truth), easier)


def _checked(system: System) -> System:
    check_determined(system)
    return replace(system, corners=tuple(corner for corner, _ in differing(system)))


def _known(equation: EquationConfig, truth: Mapping[str, float]) -> System | None:
    """The system with sought constants at their true values; None where one is not known."""
    if set(equation.unknown_parameters or ()) - set(truth):
        return None
    return _system(
        replace(
            equation, constants={**(equation.constants or {}), **truth}, unknown_parameters=None
        )
    )[0]


def _continued(equation: EquationConfig) -> list[dict[str, Any]]:
    """The constants of each easier problem."""
    given, constants = dict(equation.continuation or {}), dict(equation.constants or {})
    for name, values in given.items():
        if name not in constants:
            raise UsageError(
                f"equation.continuation has {name}, which equation.constants does not have; give it there."
            )
        if not isinstance(values, list | tuple) or len(values) != len(next(iter(given.values()))):
            raise UsageError(
                f"equation.continuation.{name}={values} must be a list, as long as those of others."
            )
    if given and equation.time_windows not in ("auto", 1, None):
        raise UsageError(
            "equation.continuation solves the whole range at once; leave out equation.time_windows."
        )
    return [
        {**constants, **dict(zip(given, row, strict=True))}
        for row in zip(*given.values(), strict=True)
    ]


def _system(equation: EquationConfig) -> tuple[System, Reader]:
    """The system without measured values."""
    fixed = dict[str, float]()
    for name, value in (equation.constants or {}).items():
        fixed[name] = constant(value, fixed)
    box, unknowns = read_box(equation.variables, fixed), tuple(equation.unknowns)
    vocabulary = Vocabulary(
        tuple(equation.variables), unknowns, tuple(equation.unknown_parameters or ())
    )
    read = Reader(vocabulary, fixed)
    formulas = (
        list(equation.formula) if isinstance(equation.formula, list | tuple) else [equation.formula]
    )
    if len(formulas) != len(unknowns):
        raise UsageError(
            f"equation.formula has {len(formulas)} equations for {len(unknowns)} unknowns ({', '.join(unknowns)}); "
            "give one equation for each."
        )
    equations = tuple(read.relation(each) for each in formulas)
    conditions = read_conditions(equation.conditions, read, equations, box)
    guesses = {name: constant(value) for name, value in (equation.unknown_parameters or {}).items()}
    return System(vocabulary, torch.as_tensor(box), equations, conditions, (), guesses), read


def policy_of(cfg: SolveConfig) -> EquationPolicy:
    usual = EquationPolicy()
    return replace(
        usual,
        points=cfg.collocation_points,
        face_points=cfg.boundary_points,
        stage=replace(usual.stage, steps=cfg.steps),
    )


def windows_of(cfg: SolveConfig, system: System, ansatz: Ansatz) -> int | str | None:
    """The setting `windows`, checked. Raises UsageError where the equation cannot be cut into windows, and where
    conditions that are to be built in contradict each other."""
    windows: int | str | None = cfg.equation.time_windows
    possible = system.evolves and not system.vocabulary.constants and not cfg.equation.continuation
    if windows == "auto":
        windows = "auto" if possible and ansatz.intervals[0] is not None else None
    elif windows is None or windows == 1:
        windows = None
    elif isinstance(windows, bool) or not isinstance(windows, int) or not 1 <= windows <= 1000:
        raise UsageError(
            f"equation.time_windows={windows} must be a whole number from 1 to 1000, or auto."
        )
    elif not possible:
        raise UsageError(
            f"equation.time_windows={windows} needs an equation that evolves from conditions at the lower end of its last "
            "variable, without sought constants; leave it out."
        )
    if ansatz.hard:
        check_agreement(system, last=windows is None)
    return windows


def _with_data(
    equation: EquationConfig, system: System, seed: int
) -> tuple[System, dict[str, float]]:
    """The system with measured values, from a table or drawn from a reference solution with noise."""
    data, names, unknowns = (
        equation.data,
        system.vocabulary.variables,
        list(system.vocabulary.unknowns),
    )
    truth = dict[str, float]()
    if isinstance(data, str):
        unknowns = [name for name in unknowns if name in column_names(data)] or unknowns
        columns = read_inputs(data, [*names, *unknowns])
    elif isinstance(data, Mapping) and set(data) >= set(names):
        unknowns = [name for name in unknowns if name in data] or unknowns
        columns = _columns(data, [*names, *unknowns])
    else:
        columns, truth = _drawn(data, equation, system, seed)
    points, values = columns[:, : len(names)], columns[:, len(names) :]
    low, high = system.box.numpy().T
    outside = ((points < low) | (points > high)).any(axis=1)
    if outside.any():
        first = ", ".join(
            f"{name}={value:g}" for name, value in zip(names, points[outside][0], strict=True)
        )
        raise UsageError(
            f"equation.data has rows outside the box of equation.variables, {int(outside.sum())} of {len(points)}, the "
            f"first at {first}; widen the box or leave them out."
        )
    at = torch.as_tensor(points)
    measured = tuple(
        Measured(
            parse_relation(f"{name} = 0", system.vocabulary), at, torch.as_tensor(values[:, i])
        )
        for i, name in enumerate(unknowns)
    )
    return replace(system, measured=measured), truth


def _columns(data: Mapping[str, Any], names: Sequence[str]) -> Array:
    """These columns side by side. Raises UsageError where one is missing, not finite, or of another length."""
    if missing := [name for name in names if name not in data]:
        raise UsageError(
            f"equation.data has no column {missing[0]}; its columns are {', '.join(map(str, data))}."
        )
    try:
        found = np.stack(
            [np.asarray(data[name], dtype=np.float64).reshape(-1) for name in names], axis=1
        )
    except (TypeError, ValueError):
        raise UsageError("equation.data needs columns of numbers, all of one length.") from None
    if not np.isfinite(found).all():
        raise UsageError("equation.data has values that are not finite; leave these rows out.")
    return found


def _drawn(
    data: Any, equation: EquationConfig, system: System, seed: int
) -> tuple[Array, dict[str, float]]:
    if not isinstance(data, Mapping) or set(data) - {"points", "noise", "constants"}:
        raise UsageError(
            f"equation.data={data} must be a file, or have the keys points, noise and constants."
        )
    truth = {name: constant(value) for name, value in dict(data.get("constants", {})).items()}
    known = _known(equation, truth)
    found = None if known is None else reference_of(known)
    if found is None:
        raise UsageError(
            "equation.data can be drawn for initial value problems only, with all constants given in it."
        )
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator(seed, "data"))))
    box = system.box.numpy()
    points = box[:, 0] + rng.random((int(data.get("points", 200)), len(box))) * (
        box[:, 1] - box[:, 0]
    )
    values = found(points)
    noise = constant(data.get("noise", 0.0)) * values.std(axis=0)
    return np.concatenate(
        [points, values + noise * rng.standard_normal(values.shape)], axis=1
    ), truth


def network_choices(cfg: SolveConfig, orders: int) -> list[NetworkChoice]:
    """The networks of the settings; `orders` is the highest derivative, which splines must have."""
    return [_network(cfg, dict(entry), orders) for entry in cfg.networks]


def _network(cfg: SolveConfig, entry: dict[str, Any], orders: int) -> NetworkChoice:
    kind, equation = entry.get("kind"), cfg.equation
    if kind not in _NETWORK_KEYS:
        raise UsageError(f"networks has {entry}, whose kind is none of {', '.join(_NETWORK_KEYS)}.")
    if unknown := set(entry) - _NETWORK_KEYS[kind]:
        keys = ", ".join(sorted(_NETWORK_KEYS[kind]))
        raise UsageError(
            f"networks has {entry} with the key {sorted(unknown)[0]}; the keys of a {kind} are {keys}."
        )
    inputs, mlp, form = len(equation.variables), kind == "mlp", equation.ansatz
    hidden = [int(width) for width in entry.get("hidden", [16, 16] if mlp else [])]
    if any(width < 1 for width in hidden):
        raise UsageError(f"networks has {entry} with a layer of less than 1 node.")
    plain = inputs == 1 or mlp
    separated = not plain and not hidden and "factors" not in entry and form.factors is None
    terms = int(entry.get("terms", 1 if plain else form.terms or _TERMS))
    factors = int(entry.get("factors", 1 if plain else form.factors or inputs))
    outputs = OutputForm(len(equation.unknowns), terms, factors, separated)
    shape, intervals = (inputs, *hidden, outputs.outputs), tuple(equation.intervals or _INTERVALS)
    widths, hard = "-".join(map(str, shape)), cfg.constraints == "hard"
    if mlp:
        activation = str(entry.get("activation", "tanh"))
        if activation not in ACTIVATIONS or activation in ("relu", "identity"):
            raise UsageError(
                f"networks has an MLP with the activation {activation}, which has no second derivatives; take tanh."
            )
        create, numbers = (
            _mlps(inputs, hidden, activation),
            sum((a + 1) * b for a, b in pairwise(shape)),
        )
        return NetworkChoice(
            f"MLP {widths}", Ansatz(create, outputs, (None,) * len(intervals), hard=hard), numbers
        )
    degree = int(entry.get("degree", max(5, orders + 2)))
    if not orders < degree <= 20:
        raise UsageError(
            f"networks has a KAN of degree {degree} for an equation of order {orders}; splines need a degree of "
            f"{orders + 1} to 20, better {orders + 3}."
        )
    widens = not plain and form.terms is None and "terms" not in entry
    grows, create = equation.intervals is None, _kans(inputs, hidden, degree, intervals[0])
    products, power = f" ({terms} products)" * (factors > 1), f", k = {degree}" * (degree != 5)
    edges = outputs.outputs if separated else sum(a * b for a, b in pairwise(shape))
    ansatz = Ansatz(create, outputs, intervals, grows, widens, hard)
    return NetworkChoice(f"KAN {widths}{products}{power}", ansatz, edges * (intervals[-1] + degree))


def _mlps(inputs: int, hidden: list[int], activation: str) -> Create:
    return lambda outputs, drawn: MLP(
        (inputs, *hidden, outputs), activation, dtype=torch.float64, generator=drawn
    )


def _kans(inputs: int, hidden: list[int], degree: int, intervals: int) -> Create:
    domain = torch.tensor([[-1.0, 1.0]] * inputs, dtype=torch.float64)
    spec = EdgeSpec(degree=degree, base="zero")

    def create(outputs: int, drawn: Generator) -> Network:
        shape = (inputs, *hidden, outputs)
        return KAN.create(
            shape, intervals, spec, domain=domain, initialisation="spline", generator=drawn
        )

    return create
