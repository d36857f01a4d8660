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
CHECKED = 20
_calls: dict[int, int] = {}


def _checked_at_first(jaxtyped: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def decorate(function: Any) -> Any:
        if not inspect.isfunction(function):
            return jaxtyped(**options)(function)
        key, is_compiling = id(function.__code__), torch.compiler.is_compiling
        check = functools.cache(lambda: jaxtyped(**options)(function))

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or _calls.get(key, 0) >= CHECKED:
                return function(*args, **kwargs)
            _calls[key] = _calls.get(key, 0) + 1
            return check()(*args, **kwargs)

        return call

    return decorate


def pytest_runtest_setup() -> None:
    _calls.clear()


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but not written, which takes longer than a small training."""
    monkeypatch.setattr("kanrun.runs.folder.write_figure", lambda *_: None)


jaxtyping.jaxtyped = functools.partial(_checked_at_first, jaxtyping.jaxtyped)  # type: ignore[assignment]
jaxtyping.install_import_hook("kanrun.engine", "beartype.beartype")
settings.register_profile("same", derandomize=True)
settings.load_profile("same")
