"""Devices, threads, cores, and random generators of trainings."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from kanrun.config import ExperimentConfig
from kanrun.errors import UsageError

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
    import torch

    mps = torch.backends.mps.is_available()
    if cfg.device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if mps and cfg.precision == "float32" else "cpu"
    if cfg.device == "mps" and cfg.precision == "float64":
        raise UsageError("device=mps computes in float32 only; add precision=float32.")
    number = int(cfg.device.partition(":")[2] or 0)
    if not (mps if cfg.device == "mps" else number < torch.cuda.device_count()):
        raise UsageError(f"device={cfg.device} is not there: torch finds no such device; use device=auto or cpu.")
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
