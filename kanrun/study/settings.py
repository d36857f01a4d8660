"""The settings that all experiments share: refused at the door, and what `auto` and null stand for."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

from kanrun.config import ExperimentConfig
from kanrun.errors import UsageError

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
PRECISIONS = ("float64", "float32")
_EXECUTORS = ("serial", "local", "dask")


def check_settings(cfg: ExperimentConfig) -> None:
    """Raise UsageError for a common setting that breaks its rule; touches neither torch nor the network."""
    _at_least("seed", cfg.seed, 0)
    _at_least("seeds", cfg.seeds, 1)
    if cfg.seed + cfg.seeds > 2**32:
        raise UsageError(f"seed={cfg.seed} with seeds={cfg.seeds} goes beyond {2**32 - 1}, the largest seed.")
    if cfg.precision not in PRECISIONS:
        raise UsageError(f"precision={cfg.precision} is not one of {', '.join(PRECISIONS)}.")
    if not isinstance(cfg.device, str) or not _DEVICE.fullmatch(cfg.device):
        raise UsageError(f"device={cfg.device} is not one of auto, cpu, cuda, cuda:N, mps.")
    if cfg.device == "mps" and cfg.precision != "float32":
        raise UsageError(f"device=mps has no {cfg.precision}; add precision=float32.")
    if cfg.threads is not None:
        _at_least("threads", cfg.threads, 1)
    executor = cfg.executor
    if executor.kind not in _EXECUTORS:
        raise UsageError(f"executor={executor.kind} is not one of {', '.join(_EXECUTORS)}.")
    if executor.workers is not None:
        _at_least("executor.workers", executor.workers, 1)
        if executor.kind != "local":
            raise UsageError(
                f"executor.workers={executor.workers} is for executor=local, not executor={executor.kind}."
            )
    if executor.kind == "dask" and not (isinstance(executor.address, str) and executor.address.strip()):
        raise UsageError("executor=dask needs executor.address, the scheduler's, such as tcp://10.0.0.1:8786.")
    if executor.kind != "dask" and executor.address is not None:
        raise UsageError(f"executor.address={executor.address} is for executor=dask, not executor={executor.kind}.")


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


def _at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}={value} must be a whole number, at least {least}.")
