"""A toy experiment that fails, dies or waits as its configuration says.

It has a folder of its own, which the tests add to the path, because workers import it by name.
"""

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kanrun.config import ExperimentConfig
from kanrun.errors import TrainingFailed, UsageError
from kanrun.runs import Checkpoint, Claim, Note, Point, Row, RunFolder, Table
from kanrun.study import execution, studies
from kanrun.study.studies import Study


@dataclass
class ToyConfig(ExperimentConfig):
    device: str = "cpu"
    sizes: list[int] = field(default_factory=lambda: [3])
    steps: int = 6
    pause: float = 0.0  # seconds per step
    fails: list[int] = field(default_factory=list)  # sizes whose training always fails
    dies: list[int] = field(default_factory=list)  # sizes whose process is always killed
    dies_once: list[int] = field(default_factory=list)
    marks: str = ""  # folder of files that mark first attempts


class ToyStudy(Study):
    """A study of the toy experiment with several points."""

    def __init__(self, configs, experiment=None):
        several = len(configs) > 1
        own = tuple(
            Point(number, values={"sizes": cfg.sizes} if several else {})
            for number, cfg in enumerate(configs)
        )
        super().__init__("toy", ("toy",), bases=({},), points=own)
        object.__setattr__(self, "configs", configs)
        object.__setattr__(self, "experiment", experiment or sys.modules[__name__])

    def config(self, number):
        return self.configs[number]


def play(place, *configs, experiment=None, resume=False, quiet=True):
    """Run the toy experiment in a new folder below `place`, or resume the run in `place`."""
    study = ToyStudy(configs, experiment)
    checked = studies.check(study)
    if resume:
        folder = RunFolder.reopen(place)
    else:
        folder = RunFolder.create(place, studies.manifest_of(checked))
    return execution.execute(checked, folder, studies.RunOptions(quiet=quiet))


def check(cfg):
    if cfg.steps < 1:
        raise UsageError(f"steps={cfg.steps} must be at least 1")


def using_threads(threads):
    return contextlib.nullcontext()  # the toy does not use torch, so it is not loaded


def cells(cfg):
    return [{"size": size} for size in cfg.sizes]


def run(cfg, cell, seed, resume=None):
    size = cell["size"]
    state = np.random.default_rng((size, seed)).normal(size=size)
    start = 0
    if resume is None:
        yield Note(f"size {size} was chosen")
    else:
        state, start = resume.arrays["state"], resume.meta["step"]
    for step in range(start, cfg.steps):
        if step == 3:
            _misbehave(cfg, size, seed)
        time.sleep(cfg.pause)
        state = np.cos(3 * state) * 0.9
        rmse = float(np.sqrt(np.mean(state**2)))
        place = {"seed": seed, "stage": step // 3, "step": step}
        yield Row("metrics", {**place, "train_rmse": rmse, "seconds": time.time()})
        if step % 2 == 1:
            yield Table("trace", {"x": np.arange(step), "y": state[0] + np.arange(step)})
            yield Checkpoint("resume", {"state": state}, {"step": step + 1})
    yield Checkpoint(f"model-{size}-{seed}", {"state": state})
    yield Table("curve", {"x": np.arange(size), "y": state})
    yield Row("details", {"size": size, "last": float(state[-1])})
    yield Row("summary", {"size": size, "test_rmse": rmse, "pid": os.getpid()})


def figures(tables):
    from matplotlib.figure import Figure

    def loss():
        if "figures" in os.environ.get("TOY_BROKEN", ""):
            raise ValueError("no ink")
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot(tables["metrics"]["train_rmse"])
        return figure

    yield "loss", loss


def claims(tables):
    worst = float(tables["summary"]["test_rmse"].max())
    return [
        Claim("the error is small", worst, "at most 1", worst <= 1),
        Claim("it is zero", worst, "0", False),
    ]


class Bare:
    """An experiment with one cell, without figures and claims."""

    def cells(self, cfg):
        return [{}]

    def figures(self, tables):
        return []

    claims = figures


def _misbehave(cfg, size, seed):
    if size in cfg.fails:
        raise TrainingFailed(f"the loss of size {size} is not finite at step 3")
    mark = Path(cfg.marks) / f"{size}-{seed}"
    if size in cfg.dies or (size in cfg.dies_once and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
