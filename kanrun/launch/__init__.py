"""The only place that touches Hydra's process state: composing, checking, running, sweeping, resuming."""

from __future__ import annotations

from kanrun.launch.request import Request
from kanrun.launch.running import launch, resume

__all__ = ["Request", "launch", "resume"]
