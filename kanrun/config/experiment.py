"""What the configuration of every experiment has."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ExecutorConfig:
    """Where cells run: `serial`, `local` processes, or a `dask` cluster by its address."""

    kind: str = "serial"
    workers: int | None = None
    address: str | None = None


@dataclass
class ExperimentConfig:
    """What every experiment's configuration has."""

    seed: int = 0
    seeds: int = 1  # how many: seed, seed + 1, ...
    precision: str = "float64"
    device: str = "auto"
    threads: int | None = None  # of one training; null is 1: small matrices gain nothing from more
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
