"""Checks of annotated shapes and types during tests, and reproducible random examples."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings

#: Checked calls of each function, from the start of each test: checks are as slow as training.
CHECKED = 5
_left: list[list[int]] = []


def _limited(function: Any, check: Callable[[], Any]) -> Any:
    """Return the function, of which the first calls of each test are checked."""
    left, is_compiling = [CHECKED], torch.compiler.is_compiling
    _left.append(left)
    check = functools.cache(check)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0] <= 0 or is_compiling():
            return function(*args, **kwargs)
        left[0] -= 1
        return check()(*args, **kwargs)

    return call


def _checked_at_first(jaxtyped: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def decorate(function: Any) -> Any:
        if inspect.isfunction(function):
            return _limited(function, lambda: jaxtyped(**options)(function))
        unchecked = function.__init__
        decorated = jaxtyped(**options)(function)
        if (checked := decorated.__init__) is not unchecked:  # of a dataclass
            decorated.__init__ = _limited(unchecked, lambda: checked)
        return decorated

    return decorate


def pytest_runtest_setup() -> None:
    for left in _left:
        left[0] = CHECKED


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but not written, which takes longer than a small training."""
    monkeypatch.setattr("kanrun.runs.folder.write_figure", lambda *_: None)


jaxtyping.jaxtyped = functools.partial(_checked_at_first, jaxtyping.jaxtyped)  # type: ignore[assignment]
jaxtyping.install_import_hook("kanrun.engine", "beartype.beartype")
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
