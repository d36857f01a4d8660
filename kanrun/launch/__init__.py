"""Hydra's part of a run: requests to composed configurations."""

from __future__ import annotations

from kanrun.launch.request import Request
from kanrun.launch.running import launch, relaunch

__all__ = ["Request", "launch", "relaunch"]
