"""Which of torch's modes is active around a call."""

from __future__ import annotations

from torch.autograd import forward_ad


def is_forward() -> bool:
    """True where torch takes derivatives in forward mode (`torch.func.jvp`, `jacfwd`, `hessian`, dual levels).

    There all must be torch's own arithmetic: of a `torch.autograd.Function` it knows no second forward derivative, and
    says zero for it.
    """
    return forward_ad._current_level >= 0
