"""Memory for intermediate results that is used again, because fresh pages cost more than what is computed in them.

A freshly allocated megabyte takes the operating system up to half a millisecond to provide, several times what a
kernel spends filling it. Each thread keeps one buffer a role; what a role holds is lost when it is asked for again.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

#: Most numbers that a buffer keeps; larger ones are allocated afresh.
LIMIT = 1 << 21


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}


_buffers = _Buffers()


def scratch(role: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory of `shape` on `like`'s device, good until this thread asks for the same role again."""
    kind, count = dtype or like.dtype, math.prod(shape)
    if count > LIMIT or like.device.type != "cpu":
        return like.new_empty(shape, dtype=kind)
    buffer = _buffers.kept.get((role, kind))
    if buffer is None or buffer.numel() < count:
        with torch.inference_mode(False):
            buffer = torch.empty(count, dtype=kind)
        _buffers.kept[role, kind] = buffer
    return buffer[:count].view(shape)
