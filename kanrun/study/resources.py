"""Resources of trainings: cores, threads, devices, CPU time, memory, random generators."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from kanrun.config import ExperimentConfig, SamplingConfig
from kanrun.errors import UsageError
from kanrun.model.settings import widths_of
from kanrun.monitoring import uninterrupted

if TYPE_CHECKING:
    import torch

    from kanrun.model.planning import LearningProblem

#: Fraction of a time limit that training runs and the reserved seconds may use, since the last step
#: ends a little later. With a larger fraction, commands may exceed the limit.
STEPS_FRACTION = 0.98
#: Fraction of a time limit that training runs may always use, even if less is left after the
#: reserved seconds. With a larger fraction, commands with a short limit exceed it by more.
LEAST_FRACTION = 1 / 3
#: CPU seconds reserved for figures and claims: loading matplotlib takes 0.7 s, and drawing six
#: figures at most 1.2 s. With fewer reserved seconds, commands may exceed the limit; with more,
#: training ends earlier.
RESULTS_SECONDS = 2.5
#: CPU seconds reserved for the program before the command is read and after its results are shown.
#: With fewer reserved seconds, commands may exceed the limit; with more, training ends earlier.
PROGRAM_SECONDS = 0.8
#: Smallest number of copies of all parameters and points that a training run holds in memory. For
#: the parameters these are the network, its best state, a gradient and a trial step. `kanrun fit`
#: needs more than this estimate, so no run is rejected by mistake.
COPIES = 4
BYTES = {"float32": 4, "float64": 8}
#: Largest fraction of the machine's memory that a training run may need.
MEMORY_FRACTION = 0.9
#: Largest number of threads per core; more crash the system's libraries.
THREADS_PER_CORE = 16
_GIB = 2**30


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def threads_of(cfg: ExperimentConfig) -> int:
    """Return the number of threads of one training run: the setting `threads`, or 1 by default.

    The matrices of most training runs are so small that a second thread costs more than it saves.
    All executors use this rule, so they produce equal numbers: rounding depends on the number of
    threads.
    """
    return cfg.threads or 1


def workers_of(cfg: ExperimentConfig) -> int:
    """Return how many processes of this machine train at once: `n_jobs`, or one per core."""
    return cfg.n_jobs or max(1, cores() // threads_of(cfg))


def device_of(cfg: ExperimentConfig) -> str:
    """Return the device to train on.

    `device=auto` selects cuda if it is available, otherwise mps if the precision is float32,
    otherwise cpu. torch is imported unless `device=cpu`. Raises UsageError if the device is not
    available, or for float64 on mps.
    """
    if cfg.device == "cpu":
        return "cpu"
    with uninterrupted():  # an exception in the middle of this import aborts the process
        import torch

    mps = torch.backends.mps.is_available()
    if cfg.device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if mps and cfg.precision == "float32" else "cpu"
    if cfg.device == "mps" and cfg.precision == "float64":
        raise UsageError("device=mps computes in float32 only; add precision=float32.")
    number = int(cfg.device.partition(":")[2] or 0)
    if not (mps if cfg.device == "mps" else number < torch.cuda.device_count()):
        raise UsageError(
            f"device={cfg.device} is not there: torch finds no such device; use device=auto or cpu."
        )
    return cfg.device


def make_problem(
    cfg: ExperimentConfig, target: Any, sampling: SamplingConfig, seed: int
) -> LearningProblem:
    """Return the learning problem of a target, with points sampled for `seed`.

    `target` is a `Target` or the settings of one. Raises UsageError if the target cannot be built
    or sampled as the settings ask.
    """
    import torch

    from kanrun.model.planning import PRECISIONS, problem_on
    from kanrun.targets.datasets import Target, build_target, check_gaussian, make_dataset

    known = target if isinstance(target, Target) else build_target(target)
    check_gaussian(known)
    dataset = make_dataset(known, sampling, seed)
    return problem_on(dataset, PRECISIONS[cfg.precision], torch.device(device_of(cfg)))


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Limit torch to `threads` threads in the body.

    In the main thread, the former number is restored afterwards.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        # A Dask worker may run several training runs in threads; the end of one must not change the
        # number of threads of the others.
        if threading.current_thread() is threading.main_thread():
            torch.set_num_threads(before)


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a torch generator on the CPU, seeded by `seed` and `purpose`.

    The same pair always gives the same numbers. Different purposes give independent numbers.
    """
    import numpy as np
    import torch

    state = np.random.SeedSequence([seed, crc32(purpose.encode())]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@dataclass(frozen=True)
class TimeLimit:
    """CPU time limit of a run.

    Attributes:
        seconds: Limit of the run's CPU time, in seconds.
        began: CPU time of the process when the run began, in seconds.
        reserved: CPU seconds reserved for everything but training.
    """

    seconds: float
    began: float
    reserved: float = RESULTS_SECONDS + PROGRAM_SECONDS

    @property
    def end(self) -> float:
        """CPU time of the process at which training runs stop, in seconds.

        Training runs get at least a third of the limit.
        """
        left = STEPS_FRACTION * self.seconds - self.reserved
        return self.began + max(left, self.seconds * LEAST_FRACTION)


class MemoryEstimate(NamedTuple):
    """Numbers of parameters of the largest network and of points of the largest sample.

    `memory` is the estimated memory for both, in bytes.
    """

    parameters: int
    points: int
    memory: float


def estimate_memory(cfg: ExperimentConfig) -> MemoryEstimate:
    """Return a lower bound of the memory for training, ignoring columns not named in `cfg`."""
    groups = [vars(settings) for settings in _groups(cfg)]
    inputs, outputs = (
        max([1, *(len(group[name]) for group in groups if isinstance(group.get(name), list))])
        for name in ("inputs", "outputs")
    )
    parameters = max(_parameters(group, inputs, outputs) for group in groups)
    points = max((group.get("n_train") or 0) + (group.get("n_test") or 0) for group in groups)
    width = inputs + outputs + max(sum(widths_of(group.get("hidden", ()))) for group in groups)
    numbers = COPIES * (float(parameters) + float(points) * width)
    return MemoryEstimate(parameters, points, numbers * BYTES[cfg.precision])


def check_memory(cfg: ExperimentConfig, *, force: bool = False) -> None:
    """Raise UsageError if a training run of `cfg` cannot fit into the memory of this machine.

    With `force`, memory is not checked. The number of threads is checked in any case.
    """
    import psutil  # type: ignore[import-untyped]

    if cfg.threads is not None and cfg.threads > (allowed := THREADS_PER_CORE * cores()):
        raise UsageError(
            f"threads={cfg.threads} exceeds the limit of {THREADS_PER_CORE} per core ({cores()} "
            f"cores). Use at most {allowed} threads."
        )
    parameters, points, memory = estimate_memory(cfg)
    there = psutil.virtual_memory().total
    if memory <= MEMORY_FRACTION * there or force:
        return
    large = f"a network of {parameters:.3g} numbers" if parameters > points else f"{points} points"
    raise UsageError(
        f"{large} would take at least {memory / _GIB:.3g} GiB of memory, and this machine has "
        f"{there / _GIB:.3g} GiB. Make the model or the sample smaller, or add --force."
    )


def _groups(settings: Any) -> Iterator[Any]:
    """Yield `settings`, if it is a dataclass, and all dataclasses inside."""
    if is_dataclass(settings) and not isinstance(settings, type):
        yield settings
        settings = vars(settings)
    if isinstance(settings, dict | list | tuple):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _groups(value)


def _parameters(group: Mapping[str, Any], inputs: int, outputs: int) -> int:
    """Return the number of parameters of the model that `group` describes, or 0."""

    def integers(name: str) -> list[int]:
        value = group.get(name)
        values = value if isinstance(value, list | tuple) else [value]
        return [number for number in values if isinstance(number, int)]

    degree = int(group.get("degree") or 0)
    if "hidden" in group:
        per_edge = degree + max(integers("intervals"), default=0) if "intervals" in group else 1
        shape = (inputs, *widths_of(group["hidden"]), outputs)
        return sum(before * after * per_edge for before, after in pairwise(shape))
    functions = sum(integers("control_points")) or (group.get("kind") == "polynomial") * (
        degree + 1
    )
    return functions * outputs
