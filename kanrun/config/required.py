"""The mark of a setting that has no default."""

from __future__ import annotations

from typing import Any

#: What OmegaConf takes for a value that must be given; written here, since `kanrun --help` is fast without OmegaConf.
MISSING: Any = "???"
