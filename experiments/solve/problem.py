"""Problems of `kanrun solve`: systems, networks that solve them, and known solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
import torch
from kanrun.experiments.solve.checks import (
    check_determined,
    check_exact,
    check_hard,
    incompatible_corners,
)
from kanrun.experiments.solve.equation_parsing import (
    EquationParser,
    read_observations,
    read_reference,
    with_observations,
)
from kanrun.experiments.solve.reference import Reference, reference_of
from numpy.typing import NDArray
from omegaconf import OmegaConf

from kanrun.config import EquationConfig, SolveConfig
from kanrun.engine.equations import (
    Ansatz,
    EquationPolicy,
    EvolutionSystem,
    Grids,
    Method,
    OutputForm,
    System,
    evolution_system,
    is_direct,
)
from kanrun.engine.equations.space import DEGREE as SPLINE_DEGREE
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import ACTIVATIONS, KAN, MLP
from kanrun.errors import UsageError
from kanrun.formulas import constant, to_numpy, variable
from kanrun.study.resources import generator
from kanrun.study.suite import with_cell

Array = NDArray[np.float64]

_NETWORK_KEYS = {
    "kan": {"kind", "hidden", "terms", "factors", "degree"},
    "mlp": {"kind", "hidden", "terms", "factors", "activation"},
}
#: Default number of terms.
_TERMS = 8
#: Default grids; finer ones follow if they help.
_INTERVALS = (5, 10, 20, 40)
#: Default first grid of tensor products.
_TENSOR_INTERVALS = 8
#: Default hidden widths of an MLP, default and highest degree of a KAN.
_MLP_HIDDEN, _DEGREE, _MAX_DEGREE = [16, 16], 5, 20
#: Observations that are drawn from a reference solution by default.
_OBSERVATIONS = 200


@dataclass(frozen=True)
class Comparison:
    """Known solution: `exact`, `recorded` or `numerical`, its values, and its slopes if known.

    Values have the shape (points, unknowns), slopes (points, unknowns * variables).
    """

    what: str
    values: Reference
    slopes: Reference | None = None


@dataclass(frozen=True)
class SolveProblem:
    """System with its exact solution and true parameters, as far as they are known.

    Attributes:
        recorded: Points (points, variables) and known values there (points, unknowns), or None.
        known: The system with the true parameters, or None.
        easier: The systems with the constants of `equation.continuation`, in that order.
    """

    name: str
    system: System
    exact: Sequence[sympy.Expr] | None
    recorded: tuple[Array, Array] | None
    truth: Mapping[str, float]
    known: System | None
    easier: Sequence[System] = ()

    @cached_property
    def comparison(self) -> Comparison | None:
        """Known solution; a numerical reference is computed on first use."""
        names = self.system.vocabulary.variables
        if self.exact is not None:
            slopes = [sympy.diff(each, variable(name)) for each in self.exact for name in names]
            return Comparison("exact", _stacked(self.exact, names), _stacked(slopes, names))
        if self.recorded is not None:
            from scipy.spatial import KDTree

            values, tree = self.recorded[1], KDTree(self.recorded[0])
            return Comparison("recorded", lambda at: values[tree.query(at)[1]])
        found = None if self.known is None else reference_of(self.known)
        return None if found is None else Comparison("numerical", found)

    def compared_for(self, choice: NetworkChoice) -> SolveProblem:
        """Return the problem without a numerical reference where the solver estimates its error.

        A reference takes longer than such a solution, and is less accurate, except for ordinary
        initial value problems.
        """
        ordinary = len(self.system.box) == 1 and self.system.is_evolution
        kept = ordinary or isinstance(choice.method, Ansatz)
        return self if kept else replace(self, known=None)


def _stacked(formulas: Sequence[sympy.Expr], names: Sequence[str]) -> Reference:
    functions = [to_numpy(each, names) for each in formulas]
    return lambda points: np.stack([each(points) for each in functions], axis=1)


@dataclass(frozen=True)
class NetworkChoice:
    """Network of the settings: its name in tables, and its unknowns on the finest grid."""

    label: str
    method: Method
    unknowns: int


def settings_of(cfg: SolveConfig, cell: Mapping[str, Any]) -> SolveConfig:
    """Return the settings of one cell of a suite.

    A cell is for example {equation: heat, name: heat, bounds: {l2: 1e-6}}.

    The cell names an equation of the group, and may have further differences from `cfg`. Raises
    UsageError for an unknown equation and for settings against their rules.
    """
    if "equation" in cell:
        entry = files("kanrun.conf").joinpath("equation", f"{cell['equation']}.yaml")
        if not entry.is_file():
            raise UsageError(
                f"suite names the equation {cell['equation']}, which the group does not have."
            )
        schema = OmegaConf.structured(EquationConfig)
        equation: Any = OmegaConf.to_object(
            OmegaConf.merge(schema, OmegaConf.create(entry.read_text()))
        )
        cfg = replace(cfg, equation=equation)
    named = ("network", "name", "equation")
    return with_cell(cfg, {name: each for name, each in cell.items() if name not in named})


def make_solve_problem(cfg: SolveConfig, seed: int) -> SolveProblem:
    """Return the problem of `cfg.equation`.

    Raises UsageError for an invalid equation, condition, box or table.
    """
    equation, truth = cfg.equation, dict[str, float]()
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
    """Return the system with the true parameters, or None if one is not known."""
    if set(equation.unknown_parameters or ()) - set(truth):
        return None
    constants = {**(equation.constants or {}), **truth}
    known = replace(equation, constants=constants, unknown_parameters=None)
    return _checked(EquationParser(known).system())


def _continued_constants(equation: EquationConfig) -> list[dict[str, Any]]:
    """Return the constants of each easier problem."""
    given, constants = dict(equation.continuation or {}), dict(equation.constants or {})
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


def policy_of(cfg: SolveConfig) -> EquationPolicy:
    """Return the constants of a solution with the settings of `cfg`."""
    return EquationPolicy(cfg.collocation_points, cfg.boundary_points, steps=cfg.steps)


def _draw_observations(
    data: Any, equation: EquationConfig, system: System, seed: int
) -> tuple[list[str], Array, dict[str, float]]:
    """Return noisy observations of a reference solution, and the true parameters."""
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
    shape = (int(data.get("points", _OBSERVATIONS)), len(low))
    points = low + rng.random(shape) * (high - low)
    values = found(points)
    noise = constant(data.get("noise", 0.0)) * values.std(axis=0)
    values = values + noise * rng.standard_normal(values.shape)
    unknowns = list(system.vocabulary.unknowns)
    return unknowns, np.concatenate([points, values], axis=1), truth


def network_choices(cfg: SolveConfig, system: System) -> list[NetworkChoice]:
    """Return the networks of the settings, for this system."""
    return [_network_choice(cfg, dict(entry), system) for entry in cfg.networks]


def _direct(cfg: SolveConfig, system: System) -> NetworkChoice | None:
    """Return the network of a direct solver, in windows of time or on tensor products of splines.

    None if there is none, or a setting asks for another.
    """
    given, count, variables = cfg.equation, len(system.vocabulary.unknowns), len(system.box)
    whole = given.intervals or given.continuation
    method: EvolutionSystem | Grids
    if not whole and (evolution := evolution_system(system)) is not None:
        method, terms = evolution, SPLINE_DEGREE + 1
        shape = f"2-{2 * count * terms} ({terms} products)" if variables == 2 else f"1-{count}"
    elif is_direct(system) and cfg.constraints == "soft":
        method = Grids(tuple(given.intervals or (_TENSOR_INTERVALS,)), given.intervals is None)
        shape = "2-2r (r products)" if variables == 2 else f"1-{count}"
        terms = (method.intervals[-1] + SPLINE_DEGREE) ** variables
    else:
        return None
    return NetworkChoice(f"KAN {shape}, k = {SPLINE_DEGREE}", method, count * terms)


def _network_choice(cfg: SolveConfig, entry: dict[str, Any], system: System) -> NetworkChoice:
    kind, equation, inputs = entry.get("kind"), cfg.equation, len(system.box)
    if kind not in _NETWORK_KEYS:
        raise UsageError(f"networks has {entry}, whose kind is none of {', '.join(_NETWORK_KEYS)}.")
    if unknown := set(entry) - _NETWORK_KEYS[kind]:
        keys = ", ".join(sorted(_NETWORK_KEYS[kind]))
        raise UsageError(
            f"networks has {entry} with the key {sorted(unknown)[0]}; the keys of a {kind} are "
            f"{keys}."
        )
    given = equation.ansatz
    default = entry == {"kind": "kan"} and not (given.terms or given.factors)
    if default and (direct := _direct(cfg, system)) is not None:
        return direct
    hidden = [int(width) for width in entry.get("hidden", _MLP_HIDDEN if kind == "mlp" else [])]
    if any(width < 1 for width in hidden):
        raise UsageError(f"networks has {entry} with a layer of less than 1 node.")
    plain = inputs == 1 or kind == "mlp"
    form = OutputForm(
        len(equation.unknowns),
        int(entry.get("terms", 1 if plain else given.terms or _TERMS)),
        int(entry.get("factors", 1 if plain else given.factors or inputs)),
        separated=not plain and not hidden and "factors" not in entry and given.factors is None,
    )
    if cfg.constraints == "hard":
        check_hard(system)
    return _KINDS[kind](cfg, entry, form, [inputs, *hidden, form.outputs], system.order)


def _mlp(
    cfg: SolveConfig, entry: dict[str, Any], form: OutputForm, shape: list[int], _: int
) -> NetworkChoice:
    activation = str(entry.get("activation", "tanh"))
    if activation not in ACTIVATIONS or activation in ("relu", "identity"):
        raise UsageError(
            f"networks has an MLP with the activation {activation}, which has no second "
            "derivatives. Write activation: tanh."
        )
    create = partial(MLP, tuple(shape), activation, dtype=torch.float64)
    rounds = (None,) * len(cfg.equation.intervals or _INTERVALS)
    ansatz = Ansatz(create, form, rounds, hard=cfg.constraints == "hard")
    parameters = sum((a + 1) * b for a, b in pairwise(shape))
    return NetworkChoice(f"MLP {'-'.join(map(str, shape))}", ansatz, parameters)


def _kan(
    cfg: SolveConfig, entry: dict[str, Any], form: OutputForm, shape: list[int], order: int
) -> NetworkChoice:
    degree = int(entry.get("degree", max(_DEGREE, order + 2)))
    if not order < degree <= _MAX_DEGREE:
        raise UsageError(
            f"networks has a KAN of degree {degree} for an equation of order {order}. "
            f"Splines need a degree of {order + 1} to {_MAX_DEGREE}, better {order + 3}."
        )
    label = f"KAN {'-'.join(map(str, shape))}" + f" ({form.terms} products)" * (form.factors > 1)
    label += f", k = {degree}" * (degree != _DEGREE)
    given, intervals = cfg.equation, tuple(cfg.equation.intervals or _INTERVALS)
    free_terms = shape[0] > 1 and given.ansatz.terms is None and "terms" not in entry
    spec = EdgeSpec(degree=degree, base="zero")
    domain = torch.tensor([[-1.0, 1.0]] * shape[0], dtype=torch.float64)
    create = partial(KAN.create, shape, intervals[0], spec, domain=domain, initialisation="spline")
    hard = cfg.constraints == "hard"
    ansatz = Ansatz(create, form, intervals, given.intervals is None, free_terms, hard)
    edges = form.outputs if form.separated else sum(a * b for a, b in pairwise(shape))
    return NetworkChoice(label, ansatz, edges * (intervals[-1] + degree))


_KINDS = {"kan": _kan, "mlp": _mlp}
