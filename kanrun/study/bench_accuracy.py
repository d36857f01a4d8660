"""Seconds until a test error is reached: exp(sin(pi x0) + x1^2) by a [2, 5, 1] network, on the same points for all.

Each starts once. Ours train by `kanrun fit`'s own loop, Levenberg-Marquardt and LBFGS, along the schedule of grids;
pykan by its LBFGS along the same schedule; jaxkan by optax's Adam and L-BFGS on the last grid (it has no schedule of
its own). Time counts all that training does, compilation included, but not the measuring of test errors.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kanrun.config import BenchConfig, ExperimentConfig, KANConfig, LBFGSSolver, LMSolver, NamedTarget, SamplingConfig
from kanrun.engine.training import Step, train
from kanrun.study.models import factory
from kanrun.study.plans import make_plan
from kanrun.study.problem import make_problem
from kanrun.study.seeds import generator

#: (seconds, test RMSE) after each step.
Curve = Iterator[tuple[float, float]]
Array = NDArray[np.float64]
LM, LBFGS, PYKAN, JAX_ADAM, JAX_LBFGS = "kanrun LM", "kanrun LBFGS", "pykan LBFGS", "jaxkan Adam", "jaxkan L-BFGS"
PACKAGE = {PYKAN: "pykan", JAX_ADAM: "jaxkan", JAX_LBFGS: "jaxkan"}
#: Steps of pykan on each grid, and of jaxkan between two looks at the test error.
PYKAN_STEPS, JAX_STEPS = 50, 25


@dataclass(frozen=True)
class Race:
    """What all train on, and when they stop."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array
    intervals: Sequence[int]
    goal: float
    limit: float


def race(cfg: BenchConfig, seed: int) -> tuple[Race, dict[str, Callable[[], Curve]]]:
    """The race, and its runners."""
    shared = ExperimentConfig(seed=seed, precision="float64", device="cpu", threads=cfg.threads)
    problem = make_problem(shared, NamedTarget("exp_sin_square"), SamplingConfig(), seed)
    dataset = problem.dataset
    parts = [part for part in (dataset.train, dataset.validation) if part is not None]
    assert dataset.test is not None
    track = Race(
        np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]),
        dataset.test.x, dataset.test.y, cfg.intervals, min(cfg.errors), cfg.limit,
    )  # fmt: skip
    model = KANConfig(hidden=[5], intervals=list(cfg.intervals))
    return track, {
        LM: lambda: _ours(model, LMSolver(starts=1, narrow=False), problem, seed, track),
        LBFGS: lambda: _ours(model, LBFGSSolver(starts=1), problem, seed, track),
        PYKAN: lambda: _pykan(track, seed),
        JAX_ADAM: lambda: _jaxkan(track, seed, second_order=False),
        JAX_LBFGS: lambda: _jaxkan(track, seed, second_order=True),
    }


def _ours(model: KANConfig, solver: Any, problem: Any, seed: int, track: Race) -> Curve:
    plan, _ = make_plan(model, solver, problem)
    for event in train(factory(model, problem, plan.solver), problem.data, plan, generator(seed, "training")):
        if isinstance(event, Step) and event.errors.test is not None:
            yield event.seconds, event.errors.test
        if event.seconds > track.limit:
            return


class _Watch:
    """A clock that stands still while errors are measured."""

    def __init__(self) -> None:
        self.began, self.held = time.perf_counter(), 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self.began - self.held

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.held += time.perf_counter() - before


def _rmse(found: Any, true: Array) -> float:
    return float(np.sqrt(np.mean((np.asarray(found, dtype=np.float64) - true) ** 2)))


def _pykan(track: Race, seed: int) -> Curve:
    from kan import KAN  # type: ignore[import-not-found, unused-ignore]

    before, found = torch.get_default_dtype(), []
    numpy_state = np.random.get_state()  # noqa: NPY002 - pykan seeds the global generators
    torch.set_default_dtype(torch.float64)
    try:
        with (
            torch.random.fork_rng(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            tempfile.TemporaryDirectory() as folder,
        ):
            names = ("train_input", "train_label", "test_input", "test_label")
            arrays = (track.x, track.y, track.test_x, track.test_y)
            data = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
            watch = _Watch()
            model = KAN(width=[2, 5, 1], grid=track.intervals[0], k=3, seed=seed, auto_save=False, ckpt_path=folder)

            def look() -> torch.Tensor:
                with watch.stopped(), torch.no_grad():
                    error = _rmse(model(data["test_input"]).numpy(), track.test_y)
                found.append((watch.seconds(), error))
                return torch.tensor(error)

            for intervals in track.intervals:
                if intervals != track.intervals[0]:
                    model = model.refine(intervals)
                model.fit(data, opt="LBFGS", steps=PYKAN_STEPS, metrics=(look,), log=PYKAN_STEPS)
                if watch.seconds() > track.limit:
                    break
    finally:
        torch.set_default_dtype(before)
        np.random.set_state(numpy_state)  # noqa: NPY002
    yield from found


def _jaxkan(track: Race, seed: int, *, second_order: bool) -> Curve:
    import jax  # type: ignore[import-not-found, unused-ignore]
    import optax  # type: ignore[import-not-found, unused-ignore]
    from flax import nnx  # type: ignore[import-not-found, unused-ignore]
    from jaxkan.layers.Spline import SplineLayer as Layer  # type: ignore[import-not-found, unused-ignore]

    watch, widths = _Watch(), (2, 5, 1)
    layers = [
        Layer(n_in=a, n_out=b, k=3, G=track.intervals[-1], seed=seed + i) for i, (a, b) in enumerate(pairwise(widths))
    ]
    parts = [nnx.split(layer, nnx.Param, ...) for layer in layers]
    at, to, test = (jax.numpy.asarray(array) for array in (track.x, track.y, track.test_x))

    def run(numbers: Any, points: Any) -> Any:
        for (definition, _, rest), number in zip(parts, numbers, strict=True):
            points = nnx.merge(definition, number, rest)(points)
        return points

    def loss(numbers: Any) -> Any:
        return ((run(numbers, at) - to) ** 2).mean()

    optimiser = optax.lbfgs() if second_order else optax.adam(1e-2)

    @jax.jit  # type: ignore[untyped-decorator, unused-ignore]
    def steps(numbers: Any, state: Any) -> Any:
        def one(carry: Any, _: Any) -> Any:
            now, state = carry
            value, slope = jax.value_and_grad(loss)(now)
            extra = {"value": value, "grad": slope, "value_fn": loss} if second_order else {}
            change, state = optimiser.update(slope, state, now, **extra)
            return (optax.apply_updates(now, change), state), None

        return jax.lax.scan(one, (numbers, state), None, length=JAX_STEPS)[0]

    look = jax.jit(run)
    numbers = [part[1] for part in parts]
    state = optimiser.init(numbers)
    while watch.seconds() < track.limit:
        numbers, state = jax.block_until_ready(steps(numbers, state))
        with watch.stopped():
            error = _rmse(look(numbers, test), track.test_y)
        yield watch.seconds(), error
        if error <= track.goal or not np.isfinite(error):
            return
