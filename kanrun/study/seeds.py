"""Random generators, one a seed and purpose, so that no two draws share a stream and none is global."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from torch import Generator


def generator(seed: int, purpose: str) -> Generator:
    """A CPU generator of its own for (`seed`, `purpose`); the same pair always gives the same numbers."""
    state = np.random.SeedSequence([seed, crc32(purpose.encode())]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state))
