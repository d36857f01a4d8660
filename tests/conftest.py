"""Checks of annotated shapes and types during tests, and reproducible random examples."""

import functools
import inspect

import jaxtyping
import pytest
import torch
from hypothesis import settings

#: Checked calls of each function, from the start of each test: checks are as slow as training.
CHECKED = 5
_left = []


def _limited(function, check):
    """Return the function, of which the first calls of each test are checked."""
    left, is_compiling = [CHECKED], torch.compiler.is_compiling
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
        if (checked := decorated.__init__) is not unchecked:  # of a dataclass
            decorated.__init__ = _limited(unchecked, lambda: checked)
        return decorated

    return decorate


def pytest_runtest_setup():
    for left in _left:
        left[0] = CHECKED


@pytest.fixture
def unwritten(monkeypatch):
    """Figures are drawn but not written, which takes longer than a small training."""
    monkeypatch.setattr("kanrun.study.execute.write_figure", lambda *_: None)


jaxtyping.jaxtyped = functools.partial(_checked_at_first, jaxtyping.jaxtyped)
jaxtyping.install_import_hook("kanrun.engine", "beartype.beartype")
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
