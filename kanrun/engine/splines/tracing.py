"""Whether tensors are only being traced, so that kernels on real memory must not be used, and a word to the tracer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# torch.autograd.Function asks the same question of the same place; where a version of torch lacks it, every
# call counts as traced, which is slower and never wrong.
_transforming: Callable[[], Any] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def is_traced() -> bool:
    """True inside `torch.func` transforms (vmap, grad, jacrev, ...), in forward mode, and under `torch.compile`."""
    return bool(_transforming()) or is_forward() or torch.compiler.is_compiling()


def is_forward() -> bool:
    """True where torch takes derivatives in forward mode (`torch.func.jvp`, `jacfwd`, `hessian`, dual levels).

    There all must be torch's own arithmetic: of a `torch.autograd.Function` it knows no second forward derivative, and
    says zero for it.
    """
    return forward_ad._current_level >= 0


def is_compiled() -> bool:
    """True under `torch.compile` alone, without a transform around the call."""
    return torch.compiler.is_compiling() and not _transforming()


def in_memory(t: Tensor) -> Tensor:
    """t itself. A compiler works it out once and keeps it, where it would do so anew for each use and place."""
    t = t.contiguous()
    return t.as_strided(t.shape, t.stride())
