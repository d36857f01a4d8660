"""Functions that ask whether torch is compiling or transforming, and guide its compiler.

All private names of torch that splines use are in this module. The docstring of each function says
what breaks without the function, and `tests/engine/layers/test_compiled.py` fails as soon as torch
no longer needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward mode is active.

    Without this check, `torch.func` raises an error at each `torch.autograd.Function` of splines,
    because these have no rule for transforms. With such a rule, a call would cost four times as
    much, and its second forward derivatives would be zero. Torch has no public name for either
    state.
    """
    transforms: bool = torch._C._are_functorch_transforms_active()
    return transforms or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether torch compiles or transforms, so that no `autograd.Function` can be used."""
    return torch.compiler.is_compiling() or is_transformed()


def kept(x: Tensor) -> Tensor:
    """Return x, and make a compiler store it in contiguous memory instead of recomputing it.

    The strided view forces the compiler to store x. Otherwise, every operation that reads x would
    compute x again, one number at a time, and layers would take up to 40 times as long.
    """
    if not torch.compiler.is_compiling():
        return x
    copy = x.clone(memory_format=torch.contiguous_format)
    return copy.as_strided(copy.shape, copy.stride())


def is_single_threaded() -> bool:
    """Return whether torch computes on one thread."""
    return torch.get_num_threads() == 1


# A compiler cannot trace `torch.get_num_threads`, so without this mark no layer is compiled in one
# piece. `torch.compiler.assume_constant_result` sets the mark too, but loads the compiler. Compiled
# code depends on the number of threads in any case: it is compiled again when the number changes.
is_single_threaded.__dict__["_dynamo_marked_constant"] = True
