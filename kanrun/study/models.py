"""A model's configuration to a function that makes fresh networks; what it says is checked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Generator

from kanrun.config import MODELS, BezierConfig, BSplineConfig, KANConfig, MLPConfig, PolynomialConfig, check
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.layers.spline_layer import TrainedScales
from kanrun.engine.networks import KAN, MLP, Bezier, BSpline, Network, Polynomial
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

    `model.initialisation=auto` is `spline` for solver lm, which starts from splines alone, and `paper` for others.
    Raises UsageError as `check_model` does.
    """
    check_model(model, problem.inputs)
    if isinstance(model, KANConfig) and model.initialisation == "auto":
        model = replace(model, initialisation="spline" if solver == "lm" else "paper")
    create = partial(MODELS[model.kind].build(), model, problem)
    return partial(_of_second_order, create) if solver == "lm" else create


def _of_second_order(create: Create, generator: Generator) -> Network:
    return create(generator).for_second_order()


def create_kan(model: KANConfig, problem: Problem, generator: Generator) -> Network:
    return KAN.create(
        network_shape(model, problem.inputs, problem.outputs), intervals_of(model)[0], edge_spec(model, "adam"),
        domain=problem.domain, initialisation=model.initialisation, generator=generator,
    )  # fmt: skip


def edge_spec(model: KANConfig, solver: str) -> EdgeSpec:
    """The edges of a KAN once `solver` trains it; `auto` counts as lm, as `KAN.for_second_order` says."""
    trained: TrainedScales = "none" if model.frozen_scales else "base" if solver in ("lm", "auto") else "all"
    return EdgeSpec(model.degree, model.base, model.scale, model.extrapolation, trained)  # type: ignore[arg-type]


def create_mlp(model: MLPConfig, problem: Problem, generator: Generator) -> Network:
    shape = network_shape(model, problem.inputs, problem.outputs)
    network = MLP.create(shape, model.activation, dtype=problem.domain.dtype, generator=generator)
    return network.to(problem.domain.device)


def create_polynomial(model: PolynomialConfig, problem: Problem, _: Generator) -> Network:
    return Polynomial(model.degree + 1, problem.outputs, problem.domain)


def create_bezier(model: BezierConfig, problem: Problem, _: Generator) -> Network:
    return Bezier(model.control_points, problem.outputs, problem.domain)


def create_bspline(model: BSplineConfig, problem: Problem, _: Generator) -> Network:
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
    """Raise UsageError for the first setting of `model` that breaks a rule, or if it does not take so many inputs."""
    if getattr(model, "hidden", ()) is None:
        raise UsageError("model.hidden=null is for kanrun interpret, which searches the shape; give the widths here.")
    check(model, "model.")
    takes = MODELS[model.kind].inputs
    if takes is not None and inputs != takes:
        raise UsageError(
            f"model={model.kind} is a curve of one input, and the target has {inputs}; use model=kan or mlp."
        )
