"""Typed configurations through the door of every command: `run_study`."""

from dataclasses import asdict
from pathlib import Path

from kanrun.config import EXPERIMENTS
from kanrun.runs import Run
from kanrun.study.running import run_study
from kanrun.study.studies import RunOptions, Study


def _study(cfg):
    command = next(one.name for one in EXPERIMENTS.values() if one.settings is type(cfg))
    return Study(command, bases=(asdict(cfg),))


def check_config(cfg, outputs=Path("outputs")):
    """Check a configuration as a dry run does."""
    run_study(_study(cfg), RunOptions(outputs, dry_run=True))


def run_config(cfg, outputs):
    """Run a configuration in a new folder below `outputs`, quietly."""
    return Run(run_study(_study(cfg), RunOptions(outputs, quiet=True))[1])
