"""Run-time checks of annotations, reproducible random examples, and command-line fixtures."""

import functools
import inspect
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

#: Number of calls of each function that are checked in each test. Checks are as slow as training.
CHECKED = 5
_left = []


def _limited(function, check):
    """Return the function such that only the first calls in each test are checked."""
    left = [CHECKED]
    is_compiling = torch.compiler.is_compiling
    _left.append(left)
    check = functools.cache(check)

    @functools.wraps(function)
    def call(*args, **kwargs):
        if left[0] <= 0 or is_compiling():
            return function(*args, **kwargs)
        left[0] -= 1
        return check()(*args, **kwargs)

    return call


def _checked_at_first(jaxtyped, **options):
    def decorate(function):
        if inspect.isfunction(function):
            return _limited(function, lambda: jaxtyped(**options)(function))
        unchecked = function.__init__
        decorated = jaxtyped(**options)(function)
        if (checked := decorated.__init__) is not unchecked:  # a dataclass
            decorated.__init__ = _limited(unchecked, lambda: checked)
        return decorated

    return decorate


def pytest_runtest_setup():
    for left in _left:
        left[0] = CHECKED


@pytest.fixture
def unwritten(monkeypatch):
    """Draw figures, but do not write them, which would take longer than a small training."""
    monkeypatch.setattr("kanrun.study.execution.write_figure", lambda *_: None)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def folder(self):
        """The folder that standard output names, which must be its only line."""
        (line,) = self.out.splitlines()
        return Path(line)

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def run(self):
        from kanrun.runs import Run

        return Run(self.folder)


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """Return a function that runs a command line, split like in a shell, in a new folder."""
    from kanrun.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KANRUN_OUTPUTS", raising=False)

    def call(line, *words, code=0):
        capfd.readouterr()
        found = main([*shlex.split(line), *words])
        result = Result(found, *capfd.readouterr())
        assert code in (found, None), result
        return result

    return call


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that checks that a command line is refused, and returns the message.

    It must exit with code 2, print one sentence and make no folder.
    """

    def call(line, *words):
        result = command(line, *words, code=2)
        assert not result.out
        assert not (tmp_path / "outputs").exists()
        (line,) = result.err.splitlines()
        assert line.startswith("kanrun: ")
        return line.removeprefix("kanrun: ")

    return call


@pytest.fixture
def says():
    """Return whether a sentence contains the parts of `text` between " ... " in this order."""
    return lambda sentence, parts: re.search(
        ".*".join(map(re.escape, parts.split(" ... "))), sentence
    )


jaxtyping.jaxtyped = functools.partial(_checked_at_first, jaxtyping.jaxtyped)
jaxtyping.install_import_hook("kanrun.engine", "beartype.beartype")
# No time limits, because machines are shared.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **UNTIMED)
settings.load_profile("same")
