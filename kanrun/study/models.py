"""A model's configuration to a function that makes fresh networks; what it says is checked here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Generator

from kanrun.config import BezierConfig, BSplineConfig, KANConfig, MLPConfig, PolynomialConfig
from kanrun.engine.layers import BASES, SCHEMES, EdgeSpec
from kanrun.engine.networks import ACTIVATIONS, KAN, MLP, Bezier, BSpline, Network, Polynomial
from kanrun.errors import UsageError
from kanrun.study.problem import Problem

#: Grids of `model.intervals=auto`, as far as size allows and validation gains; each contains the one before.
AUTO_INTERVALS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: Largest number of coefficients that a grid of the automatic schedule may have.
AUTO_COEFFICIENTS = 2000

Create = Callable[[Generator], Network]


def refuse_unused(model: Any, instead: Mapping[str, str]) -> None:
    """Raise UsageError for a setting of the KAN that the experiment takes from elsewhere, which `instead` names."""
    usual = KANConfig()
    for name, place in instead.items():
        if isinstance(model, KANConfig) and getattr(model, name) != getattr(usual, name):
            raise UsageError(f"model.{name}={getattr(model, name)} is not used here; give it as {place}.")


def network_shape(model: Any, inputs: int, outputs: int) -> tuple[int, ...]:
    """Widths of the network, inputs first."""
    return (inputs, *(getattr(model, "hidden", ()) or ()), outputs)


def factory(model: Any, problem: Problem, solver: str = "lm") -> Create:
    """A function from a generator to a fresh network for `problem`, to be trained by `solver`.

    `model.initialisation=auto` is `spline` for solver lm, which moves the coefficients alone, and `paper` for others.
    Raises UsageError as `check_model` does.
    """
    check_model(model, problem.inputs)
    if isinstance(model, KANConfig) and model.initialisation == "auto":
        model = replace(model, initialisation="spline" if solver == "lm" else "paper")
    shape = network_shape(model, problem.inputs, problem.outputs)
    if isinstance(model, KANConfig):
        return partial(_kan, model, shape, problem)
    if isinstance(model, MLPConfig):
        return partial(_mlp, model, shape, problem)
    return partial(_curve, model, problem)


def _kan(model: KANConfig, shape: Sequence[int], problem: Problem, generator: Generator) -> Network:
    spec = EdgeSpec(model.degree, model.base, model.scale, model.outside, not model.frozen_scales)  # type: ignore[arg-type]
    return KAN.create(
        shape, intervals_of(model)[0], spec,
        domain=problem.domain, initialisation=model.initialisation, generator=generator,
    )  # fmt: skip


def _mlp(model: MLPConfig, shape: Sequence[int], problem: Problem, generator: Generator) -> Network:
    network = MLP.create(shape, model.activation, dtype=problem.domain.dtype, generator=generator)
    return network.to(problem.domain.device)


def _curve(model: Any, problem: Problem, generator: Generator) -> Network:
    if isinstance(model, PolynomialConfig):
        return Polynomial(model.degree + 1, problem.outputs, problem.domain)
    if isinstance(model, BezierConfig):
        return Bezier(model.control_points, problem.outputs, problem.domain)
    return BSpline(model.control_points, problem.outputs, problem.domain, degree=model.degree)


def intervals_of(model: Any) -> tuple[int, ...]:
    """The grid schedule, empty for models without grids."""
    if not isinstance(model, KANConfig):
        return ()
    if model.intervals == "auto":
        return AUTO_INTERVALS
    given = [model.intervals] if isinstance(model.intervals, int) else list(model.intervals)
    return tuple(int(g) for g in given)


def check_model(model: Any, inputs: int) -> None:
    """Raise UsageError for the first setting of `model` that breaks a rule."""
    if getattr(model, "hidden", ()) is None:
        raise UsageError("model.hidden=null is for kanrun interpret, which searches the shape; give the widths here.")
    for width in getattr(model, "hidden", ()):
        if width < 1:
            raise UsageError(f"model.hidden={list(model.hidden)} has a layer of {width}; each needs at least 1 node.")
    if isinstance(model, KANConfig):
        _check_kan(model)
    elif isinstance(model, MLPConfig):
        _one_of("model.activation", model.activation, ACTIVATIONS)
    else:
        _check_curve(model, inputs)


def _check_kan(model: KANConfig) -> None:
    if not 0 <= model.degree <= 20:
        raise UsageError(f"model.degree={model.degree} is out of range; a spline's degree is 0 to 20.")
    _check_intervals(model.intervals)
    _one_of("model.base", model.base, BASES)
    _one_of("model.scale", model.scale, ("separate", "single"))
    _one_of("model.outside", model.outside, ("linear", "constant", "zero"))
    _one_of("model.initialisation", model.initialisation, ("auto", *SCHEMES))
    if not 0 <= model.adapt <= 1:
        raise UsageError(
            f"model.adapt={model.adapt} is out of range; it is a share, from 0 (uniform) to 1 (quantiles)."
        )


def _check_intervals(intervals: Any) -> None:
    if intervals == "auto":
        return
    given = intervals if isinstance(intervals, list) else [intervals]
    if not given or not all(isinstance(g, int) and not isinstance(g, bool) for g in given):
        raise UsageError(f"model.intervals={intervals} must be a whole number, a list of them, or auto.")
    if min(given) < 1:
        raise UsageError(f"model.intervals={intervals} has a grid of {min(given)}; a grid needs at least 1 interval.")
    if any(b <= a for a, b in itertools.pairwise(given)):
        raise UsageError(f"model.intervals={given} must increase: a schedule refines the grid, it never shrinks it.")


def _check_curve(model: Any, inputs: int) -> None:
    if inputs != 1:
        raise UsageError(
            f"model={model.kind} is a curve of one input, and the target has {inputs}; use model=kan or mlp."
        )
    if isinstance(model, PolynomialConfig):
        if not 0 <= model.degree <= 500:
            raise UsageError(f"model.degree={model.degree} is out of range; a polynomial's degree here is 0 to 500.")
        return
    least = 2 if isinstance(model, BezierConfig) else model.degree + 1
    if isinstance(model, BSplineConfig) and not 0 <= model.degree <= 20:
        raise UsageError(f"model.degree={model.degree} is out of range; a B-spline's degree is 0 to 20.")
    if model.control_points < least:
        raise UsageError(f"model.control_points={model.control_points} is too few; this curve needs at least {least}.")


def _one_of(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise UsageError(f"{name}={value} is not known; choose one of {', '.join(known)}.")
