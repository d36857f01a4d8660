"""The only place that touches Hydra's process state: composing, checking, running, sweeping, resuming."""

from __future__ import annotations

from kanrun.launch.request import Request
from kanrun.launch.resuming import GoingOn, resume, resume_sweep
from kanrun.launch.running import launch

__all__ = ["GoingOn", "Request", "launch", "resume", "resume_sweep"]
