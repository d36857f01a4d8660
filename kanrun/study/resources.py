"""Devices, threads, cores and random generators of trainings, and the memory that a run would take at least."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np

from kanrun.config import ExperimentConfig
from kanrun.errors import UsageError
from kanrun.monitoring import uninterrupted

if TYPE_CHECKING:
    from torch import Generator


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def threads_of(cfg: ExperimentConfig) -> int:
    """Return the threads of one training: `threads`, or 1.

    The matrices of most trainings are so small that a second thread costs more than it brings. One rule for every
    executor and number of tasks keeps the numbers equal: sums over several threads round differently.
    """
    return cfg.threads or 1


def device_of(cfg: ExperimentConfig) -> str:
    """Return the device to train on, `auto` resolved: cuda, else mps for float32, else cpu.

    Raises UsageError if the device that is asked for is not there, and for float64 on mps, which has none.
    Imports torch unless it is the cpu.
    """
    if cfg.device == "cpu":
        return "cpu"
    with uninterrupted():  # an exception in the middle of this import aborts the process
        import torch

    mps = torch.backends.mps.is_available()
    if cfg.device == "auto":
        return (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if mps and cfg.precision == "float32"
            else "cpu"
        )
    if cfg.device == "mps" and cfg.precision == "float64":
        raise UsageError("device=mps computes in float32 only; add precision=float32.")
    number = int(cfg.device.partition(":")[2] or 0)
    if not (mps if cfg.device == "mps" else number < torch.cuda.device_count()):
        raise UsageError(
            f"device={cfg.device} is not there: torch finds no such device; use device=auto or cpu."
        )
    return cfg.device


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads in the body, then (in the main thread) as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        # A Dask worker may run trainings in several threads: one that ends must not change the others' number.
        if threading.current_thread() is threading.main_thread():
            torch.set_num_threads(before)


def generator(seed: int, purpose: str) -> Generator:
    """A CPU generator for (`seed`, `purpose`) alone, so that no two draws share a stream and none is global.

    The same pair always gives the same numbers.
    """
    import torch

    state = np.random.SeedSequence([seed, crc32(purpose.encode())]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


_GIB = 2**30


@dataclass(frozen=True)
class MemoryPolicy:
    """How numbers become bytes.

    `copies`: of the parameters, a training holds the network, its best state, a gradient and a trial step; of the
    points, and of what reaches each node at them, values, slopes and what a solver keeps of both. Peaks of `kanrun fit`
    lie above these figures, so that a refusal is never mistaken.
    `share`: of the machine's memory that a run may fill. `threads`: at most so many for each core; more end in a crash
    of the system's libraries.
    """

    copies: int = 4
    share: float = 0.9
    threads: int = 16


class Needed(NamedTuple):
    """Numbers of the largest network, points of the largest sample, and the bytes that both take at least."""

    parameters: int
    points: int
    memory: float


def need_of(cfg: ExperimentConfig, policy: MemoryPolicy = MemoryPolicy()) -> Needed:
    """The least size of any training of `cfg`: columns of a table that are not named in it are not counted."""
    parts = [vars(part) for part in _parts(cfg)]
    inputs, outputs = (
        max([1, *(len(part[name]) for part in parts if isinstance(part.get(name), list))])
        for name in ("inputs", "outputs")
    )
    parameters = max((_parameters(part, inputs, outputs) for part in parts), default=0)
    drawn = (
        [part.get(name) for name in ("n_train", "n_test")]
        for part in parts
        if "n_train" in part
    )
    points = max(
        (sum(each for each in sample if isinstance(each, int)) for sample in drawn), default=0
    )
    bytes_each = 4 if cfg.precision == "float32" else 8
    width = inputs + outputs + max((sum(part.get("hidden") or ()) for part in parts), default=0)
    memory = bytes_each * policy.copies * (float(parameters) + float(points) * width)
    return Needed(parameters, points, memory)


def check_memory(
    cfg: ExperimentConfig, *, force: bool = False, policy: MemoryPolicy = MemoryPolicy()
) -> None:
    """Raise UsageError where a training of `cfg` cannot fit into this machine, unless `force`d; names what is large."""
    import psutil  # type: ignore[import-untyped]

    if cfg.threads is not None and cfg.threads > policy.threads * cores():
        raise UsageError(
            f"threads={cfg.threads} is more than {policy.threads} for each of the {cores()} cores here."
        )
    (parameters, points, memory), there = need_of(cfg, policy), psutil.virtual_memory().total
    if memory <= policy.share * there or force:
        return
    large = f"a network of {parameters:.3g} numbers" if parameters > points else f"{points} points"
    raise UsageError(
        f"{large} would take at least {memory / _GIB:.3g} GiB of memory, and this machine has "
        f"{there / _GIB:.3g} GiB; make the model or the sample smaller, or add --force."
    )


def _parts(settings: Any) -> Iterator[Any]:
    """All dataclasses in `settings`, itself included."""
    if is_dataclass(settings) and not isinstance(settings, type):
        yield settings
        for one in fields(settings):
            yield from _parts(getattr(settings, one.name))
    elif isinstance(settings, dict | list | tuple):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _parts(value)


def _parameters(part: Mapping[str, Any], inputs: int, outputs: int) -> int:
    """Numbers of the model that `part` describes; 0 for what is no model."""

    def listed(value: Any) -> list[Any]:
        return list(value) if isinstance(value, list | tuple) else [value]

    degree = int(part.get("degree") or 0)
    if "hidden" in part:
        grids = [int(each) for each in listed(part.get("intervals")) if isinstance(each, int)]
        each = degree + max(grids, default=0) if "intervals" in part else 1
        return sum(
            before * after * each
            for before, after in pairwise((inputs, *(part["hidden"] or ()), outputs))
        )
    functions = part.get("control_points") or (
        degree + 1 if part.get("kind") == "polynomial" else 0
    )
    return sum(map(int, listed(functions))) * outputs
