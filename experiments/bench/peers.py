"""Trainings by other libraries, each in a process of its own: their seeds, default types and settings stay there.

`python -m kanrun.experiments.bench.peers NAME FILE` trains on the arrays of FILE (.npz) and writes one line of JSON
after each step, [seconds, test RMSE], or at last {"failed": type, "module": name}. `curve` starts it and reads it.
pykan trains by its LBFGS along the schedule of grids, then again and again on the last of them; jaxkan by optax's Adam
or L-BFGS on the last grid (it has no schedule of its own). Time counts all that training does, compilation included,
but not the measuring of test errors.
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
from threading import Event, Timer
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
#: Seconds over its limit after which a peer's process is ended from outside: imports, and one long step.
GRACE = 120.0


@dataclass(frozen=True)
class Race:
    """What all train on, and when they stop."""

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
    """A peer broke: `kind` is the type of its error, `module` what it could not import."""

    def __init__(self, kind: str, module: str | None) -> None:
        super().__init__(f"failed: {kind}")
        self.kind, self.module = kind, module


def curve(name: str, track: Race) -> Curve:
    """The training of `name`, as it goes; raises PeerFailed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "race.npz"
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in vars(track).items()}
        np.savez(file, **arrays)
        peer = subprocess.Popen(
            [sys.executable, "-m", __name__, name, str(file)],
            cwd=folder, env=os.environ | limits(track.threads), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        late = Event()

        def give_up() -> None:
            late.set()
            peer.kill()

        end = Timer(track.limit + GRACE, give_up)
        end.start()
        try:
            yield from points_of(peer, late)
        finally:
            end.cancel()
            peer.kill()
            peer.wait()


def points_of(peer: subprocess.Popen[str], late: Event) -> Curve:
    """What the peer says, to its end. Raises PeerFailed where it broke, or ended otherwise than by being `late`."""
    assert peer.stdout is not None
    for line in peer.stdout:
        if not line.endswith("\n"):
            break  # cut off in the middle
        said = json.loads(line)
        if isinstance(said, dict):
            raise PeerFailed(said["failed"], said["module"])
        yield said[0], said[1]
    code = peer.wait()
    if code and not late.is_set():
        raise PeerFailed(f"exit code {code}" if code > 0 else Signals(-code).name, None)


def limits(threads: int) -> dict[str, str]:
    """Environment variables that keep a library to so many threads, where it reads them before it starts."""
    flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if threads == 1 else {}
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")} | flags


class _Watch:
    """A clock that stands still while errors are measured; tells each of them, and says when it is over."""

    def __init__(self, track: Race, tell: Callable[[float, float], None]) -> None:
        self._track, self._tell = track, tell
        self._began, self._held = time.perf_counter(), 0.0

    def look(self, predict: Callable[[], Any]) -> bool:
        """Whether the race is over: by reaching the goal, by its limit, or by a number that is none."""
        before = time.perf_counter()
        found = np.asarray(predict(), dtype=np.float64)
        error = float(np.sqrt(np.mean((found - self._track.test_y) ** 2)))
        seconds = before - self._began - self._held
        self._tell(seconds, error)
        self._held += time.perf_counter() - before
        return error <= self._track.goal or seconds > self._track.limit or not np.isfinite(error)


class _Over(Exception):
    """Leaves a training that offers no way to stop it."""


def _pykan(track: Race, tell: Callable[[float, float], None]) -> None:
    import torch
    from kan import KAN  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(track.threads)
    x, y, test_x = (torch.from_numpy(array) for array in (track.x, track.y, track.test_x))
    # Its own look at test points, after every step, is spared by giving it one.
    data = {"train_input": x, "train_label": y, "test_input": x[:1], "test_label": y[:1]}
    watch = _Watch(track, tell)

    def look() -> torch.Tensor:
        with torch.no_grad():
            over = watch.look(lambda: model(test_x).numpy())
        if over:
            raise _Over
        return torch.tensor(0.0)

    with _default_type(torch.float64), contextlib.suppress(_Over):
        model = KAN(width=[2, 5, 1], grid=track.intervals[0], k=3, seed=track.seed, auto_save=False, ckpt_path=".")
        for before, intervals in pairwise(chain(track.intervals[:1], track.intervals, repeat(track.intervals[-1]))):
            if intervals != before:
                model = model.refine(intervals)
            model.fit(data, opt="LBFGS", steps=PYKAN_STEPS, metrics=(look,), log=PYKAN_STEPS)


@contextlib.contextmanager
def _default_type(dtype: Any) -> Iterator[None]:
    """torch's default type in the body, which pykan takes its numbers from."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _jaxkan(track: Race, tell: Callable[[float, float], None], *, second_order: bool) -> None:
    import jax  # type: ignore[import-not-found, unused-ignore]
    import optax  # type: ignore[import-not-found, unused-ignore]
    from flax import nnx  # type: ignore[import-not-found, unused-ignore]
    from jaxkan.layers.Spline import SplineLayer as Layer  # type: ignore[import-not-found, unused-ignore]

    jax.config.update("jax_enable_x64", True)
    watch, grid, seed = _Watch(track, tell), track.intervals[-1], track.seed
    layers = [Layer(n_in=a, n_out=b, k=3, G=grid, seed=seed + i) for i, (a, b) in enumerate(pairwise((2, 5, 1)))]
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
    over = False
    while not over:
        numbers, state = jax.block_until_ready(steps(numbers, state))
        over = watch.look(functools.partial(predict, numbers, test))


def _train(name: str, track: Race, tell: Callable[[float, float], None]) -> None:
    if name == PYKAN:
        _pykan(track, tell)
    else:
        _jaxkan(track, tell, second_order=name == JAX_LBFGS)


def main(name: str, file: str) -> None:
    """One training in this process; what the library itself prints goes nowhere."""
    with np.load(file, allow_pickle=False) as kept:
        values: dict[str, Any] = {key: kept[key] for key in kept.files}
    track = Race(**{key: value if value.ndim > 1 else value.tolist() for key, value in values.items()})
    out = sys.stdout

    def say(what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            _train(name, track, lambda seconds, error: say([seconds, error]))
        except Exception as error:  # whatever a peer raises is its result
            say({"failed": type(error).__name__, "module": getattr(error, "name", None)})


if __name__ == "__main__":
    main(*sys.argv[1:])
