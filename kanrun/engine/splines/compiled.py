"""What the arithmetic of splines must know of torch's compiler and transforms.

All private names of torch that splines use are in this file. Each function says what breaks without
it; `tests/engine/layers/test_compiled.py` fails as soon as torch no longer needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward mode is active.

    Without this check, `torch.func` raises at each `torch.autograd.Function` of splines, since none
    has a rule for transforms: with such a rule a call costs four times as much, and its second
    forward derivatives are zero. Torch has no public name for either state.
    """
    transforms: bool = torch._C._are_functorch_transforms_active()
    return transforms or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether torch compiles or transforms, so that all must be torch's own arithmetic."""
    return torch.compiler.is_compiling() or is_transformed()


def kept(x: Tensor) -> Tensor:
    """Return x; a compiler computes it once, without gaps, for all that read it.

    That is what its view by strides makes the compiler do. Otherwise each reader computes its
    inputs again, one number at a time, and layers take up to 40 times as long.
    """
    if not torch.compiler.is_compiling():
        return x
    copy = x.clone(memory_format=torch.contiguous_format)
    return copy.as_strided(copy.shape, copy.stride())


def is_single_threaded() -> bool:
    """Return whether torch computes on one thread."""
    return torch.get_num_threads() == 1


# A compiler cannot trace `torch.get_num_threads`, so without this mark no layer is compiled in one
# piece.
# `torch.compiler.assume_constant_result` sets this too, but loads the compiler for it. Compiled
# code depends on the number of threads in any case, and is compiled again when it changes.
is_single_threaded.__dict__["_dynamo_marked_constant"] = True
