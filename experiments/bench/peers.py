"""Trainings by other libraries, each in a separate process with its own settings.

`python -m kanrun.experiments.bench.peers NAME` reads a `Race` as JSON and writes one line of JSON
after each step, [seconds, test RMSE], or at last {"failed": type, "module": name}. `curve` starts
it and reads what it wrote. pykan trains by its LBFGS along the schedule of grids, then again and
again on the last of them; jaxkan by optax's Adam or L-BFGS on the last grid (it has no schedule of
its own). Time counts all that training does, compilation included, but not the measuring of test
errors.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.errors import KanrunError

#: (seconds, test RMSE) after each step.
Curve = Iterator[tuple[float, float]]
Array = NDArray[np.float64]
PYKAN, JAX_ADAM, JAX_LBFGS = "pykan LBFGS", "jaxkan Adam", "jaxkan L-BFGS"
#: Steps of pykan on each grid, and of jaxkan between two looks at the test error.
PYKAN_STEPS, JAX_STEPS = 50, 25
#: Seconds over its limit after which a peer's process is ended from outside: imports, and one long
#: step.
GRACE = 120.0


@dataclass(frozen=True)
class Race:
    """Data and stopping criteria that all libraries share."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array
    intervals: tuple[int, ...]
    goal: float
    limit: float
    seed: int
    threads: int


class PeerFailed(KanrunError):
    """A peer broke: the type of its error, and what it could not import."""

    def __init__(self, kind: str, module: str | None) -> None:
        super().__init__(f"failed: {kind}")
        self.module = module


def curve(name: str, track: Race) -> Curve:
    """Yield the training of `name`; raises PeerFailed.

    A training that is too late is stopped, and its points so far count.
    """
    given = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in vars(track).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, name],
                input=json.dumps(given),
                cwd=folder,
                text=True,
                check=False,
                env=os.environ | limits(track.threads),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=track.limit + GRACE,
            )
            said, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as late:
            said, code = bytes(late.stdout or b"").decode(), 0
    yield from points_of(said, code)


def points_of(said: str, code: int) -> Curve:
    """Yield the points that a peer wrote, up to a truncated last line.

    Raises PeerFailed if it failed.
    """
    for line in said.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        point = json.loads(line)
        if isinstance(point, dict):
            raise PeerFailed(point["failed"], point["module"])
        yield point[0], point[1]
    if code:
        raise PeerFailed(f"exit code {code}" if code > 0 else Signals(-code).name, None)


def limits(threads: int) -> dict[str, str]:
    """Return environment variables that limit a library to this many threads."""
    flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if threads == 1 else {}
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")} | flags


class _Over(Exception):
    """Leaves a training, which may offer no other way to stop it."""


class _Watch:
    """A clock that stands still while errors are measured; tells each of them."""

    def __init__(self, track: Race, tell: Callable[[float, float], None]) -> None:
        self._track, self._tell = track, tell
        self._began, self._held = time.perf_counter(), 0.0

    def look(self, predict: Callable[[], Any]) -> None:
        """Raise _Over when the race is: by reaching the goal, by its limit, or by NaN."""
        before = time.perf_counter()
        found = np.asarray(predict(), dtype=np.float64)
        error = float(np.sqrt(np.mean((found - self._track.test_y) ** 2)))
        seconds = before - self._began - self._held
        self._tell(seconds, error)
        self._held += time.perf_counter() - before
        if error <= self._track.goal or seconds > self._track.limit or not np.isfinite(error):
            raise _Over


def _pykan(track: Race, watch: _Watch) -> None:
    import torch
    from kan import KAN  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(track.threads)
    torch.set_default_dtype(torch.float64)
    x, y, test_x = (torch.from_numpy(array) for array in (track.x, track.y, track.test_x))
    # Its own look at test points, after every step, is spared by giving it one.
    data = {"train_input": x, "train_label": y, "test_input": x[:1], "test_label": y[:1]}

    def look() -> torch.Tensor:
        with torch.no_grad():
            watch.look(lambda: model(test_x).numpy())
        return torch.tensor(0.0)

    model = KAN(
        width=[2, 5, 1],
        grid=track.intervals[0],
        k=3,
        seed=track.seed,
        auto_save=False,
        ckpt_path=".",
    )
    for before, intervals in pairwise(
        chain(track.intervals[:1], track.intervals, repeat(track.intervals[-1]))
    ):
        if intervals != before:
            model = model.refine(intervals)
        model.fit(data, opt="LBFGS", steps=PYKAN_STEPS, metrics=(look,), log=PYKAN_STEPS)


def _jaxkan(track: Race, watch: _Watch, *, second_order: bool) -> None:
    import jax  # type: ignore[import-not-found, unused-ignore]
    import optax  # type: ignore[import-not-found, unused-ignore]
    from flax import nnx  # type: ignore[import-not-found, unused-ignore]
    from jaxkan.layers.Spline import SplineLayer as Layer  # type: ignore[import-not-found, unused-ignore]

    jax.config.update("jax_enable_x64", True)
    grid, seed = track.intervals[-1], track.seed
    layers = [
        Layer(n_in=a, n_out=b, k=3, G=grid, seed=seed + i)
        for i, (a, b) in enumerate(pairwise((2, 5, 1)))
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

    predict = jax.jit(run)
    numbers = [part[1].map(lambda _, value: value.astype(at.dtype)) for part in parts]
    state = optimiser.init(numbers)
    while True:
        numbers, state = jax.block_until_ready(steps(numbers, state))
        watch.look(functools.partial(predict, numbers, test))


def main(name: str) -> None:
    """Train once in this process; discard the output of the library."""
    given, out = json.load(sys.stdin), sys.stdout
    values: dict[str, Any] = {
        key: np.array(value) if key[-1] in "xy" else value for key, value in given.items()
    }
    track = Race(**values)

    def say(what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        watch = _Watch(track, lambda seconds, error: say([seconds, error]))
        try:
            if name == PYKAN:
                _pykan(track, watch)
            else:
                _jaxkan(track, watch, second_order=name == JAX_LBFGS)
        except _Over:
            return
        except Exception as error:  # whatever a peer raises is its result
            say({"failed": type(error).__name__, "module": getattr(error, "name", None)})


if __name__ == "__main__":
    main(*sys.argv[1:])
