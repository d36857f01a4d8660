"""Measuring side by side: each competitor in turn, round after round, so that a busy machine slows all alike.

The order rotates, and each turn begins with a step that is not timed, so that no competitor pays for what the one
before left in the caches.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Step = Callable[[], None]

#: Seconds that one competitor's share of a round should last, and the fewest and most steps in it.
SHARE, FEWEST_STEPS, MOST_STEPS = 0.05, 3, 100
#: A competitor whose step takes longer than this many seconds has this many rounds.
SLOW, SLOW_ROUNDS = 1.0, 3
WARM_UP = 3


def in_turn(steps: Mapping[str, Step], rounds: int, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Seconds per step of each competitor, one number per round; NaN in rounds that it sat out."""
    expected = {name: _warm(step) for name, step in steps.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    for number in range(rounds):
        if number >= SLOW_ROUNDS and time.perf_counter() - began > seconds:
            break
        names = list(steps)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            idle = expected[name] > SLOW and number >= SLOW_ROUNDS
            found[name].append(float("nan") if idle else _median(steps[name], expected[name]))
    return {name: np.array(values) for name, values in found.items()}


def _warm(step: Step) -> float:
    taken = [_time(step)]
    while len(taken) < WARM_UP and taken[-1] < SLOW:
        taken.append(_time(step))
    return taken[-1]


def _median(step: Step, expected: float) -> float:
    if expected > SLOW:
        return _time(step)
    step()
    count = int(np.clip(SHARE / max(expected, 1e-9), FEWEST_STEPS, MOST_STEPS))
    return float(np.median([_time(step) for _ in range(count)]))


def _time(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def peak_bytes(step: Step) -> int:
    """The most bytes that a step holds at once beside what was there before.

    In a thread of its own: memory that a thread keeps for its next step is then made, and counted, in this one.
    """
    found: list[int] = []

    def measure() -> None:
        with LiveBytes() as live:
            step()
        found.append(live.peak)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    return found[0]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside it and still live; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
