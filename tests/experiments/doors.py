"""Compose, check and run configurations as the commands do, but in this process."""

import shlex
from dataclasses import asdict
from pathlib import Path

from kanrun.config import EXPERIMENTS
from kanrun.launch import Source, compose
from kanrun.runs import Run, Status
from kanrun.study.running import run_study
from kanrun.study.studies import RunOptions, Study


def typed(command, *lines):
    """Return the configuration of a command line; later lines take precedence."""
    words = {word.partition("=")[0]: word for line in lines for word in shlex.split(line)}
    return compose(Source(command), list(words.values())).config(0)


def _study(cfg):
    command = next(one.name for one in EXPERIMENTS.values() if one.settings is type(cfg))
    return Study(command, bases=(asdict(cfg),))


def check_config(cfg, outputs=Path("outputs")):
    """Check a configuration as a dry run does."""
    run_study(_study(cfg), RunOptions(outputs, dry_run=True))


def run_config(cfg, outputs):
    """Run a configuration quietly in a new folder below `outputs`, and return the run."""
    run = Run(run_study(_study(cfg), RunOptions(outputs, quiet=True))[1])
    assert run.status == Status.COMPLETED, run.manifest
    return run
