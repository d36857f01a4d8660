"""The settings of `kanrun bench`, refused before anything is measured."""

from __future__ import annotations

from collections.abc import Collection

from kanrun.experiments.bench.competitors import PACKAGES

from kanrun.config import BenchConfig, KANConfig
from kanrun.errors import UsageError
from kanrun.study.build import check_model


def check_settings(cfg: BenchConfig, parts: Collection[str]) -> None:
    """Raise UsageError for the first setting that cannot work; `parts` are the names that `part` may have."""
    if cfg.part != "all" and cfg.part not in parts:
        raise UsageError(f"part={cfg.part} is none of all, {', '.join(parts)}.")
    if cfg.device != "cpu":
        raise UsageError(f"device={cfg.device}: bench measures on the processor alone; use device=cpu.")
    if cfg.seeds != 1:
        raise UsageError(
            f"seeds={cfg.seeds}: bench repeats in rounds, not over seeds; raise rounds above {cfg.rounds}, "
            "or run it again with another seed."
        )
    if cfg.rounds < 1:
        raise UsageError(f"rounds={cfg.rounds} must be at least 1.")
    for name in ("case_seconds", "limit", "pykan_limit"):
        if not getattr(cfg, name) > 0:
            raise UsageError(f"{name}={getattr(cfg, name)} must be a positive number of seconds.")
    _check_layers(cfg)
    _check_growth(cfg)
    if not cfg.errors or not all(0 < error < float("inf") for error in cfg.errors):
        raise UsageError(f"errors={list(cfg.errors)} must list test RMSEs to be reached, such as [1e-3, 1e-4].")
    check_model(KANConfig(hidden=[5], intervals=list(cfg.intervals)), 2)


def _check_layers(cfg: BenchConfig) -> None:
    if not cfg.layers:
        raise UsageError("layers=[] has nothing to measure; give one, such as [[1024,64,64,5]].")
    for layer in cfg.layers:
        if len(layer) != 4 or min(layer) < 1:
            raise UsageError(
                f"layers has {list(layer)}: a layer is [batch, inputs, outputs, intervals], all at least 1."
            )
    for peer in cfg.peers:
        if peer not in PACKAGES:
            raise UsageError(f"peers has {peer}, which is not known; choose from {', '.join(PACKAGES)}.")


def _check_growth(cfg: BenchConfig) -> None:
    if len(cfg.growth_shape) != 2 or min(cfg.growth_shape) < 1:
        raise UsageError(f"growth_shape={list(cfg.growth_shape)} must be [inputs, outputs], both at least 1.")
    if cfg.growth_batch < 1:
        raise UsageError(f"growth_batch={cfg.growth_batch} must be at least 1.")
    for name in ("growth_intervals", "growth_batches"):
        values = list(getattr(cfg, name))
        if not values or min(values) < 1:
            raise UsageError(f"{name}={values} must list numbers from 1 on, such as [10, 100, 1000].")
