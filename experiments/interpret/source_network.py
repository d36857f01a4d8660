"""The network of an earlier run: where it comes from, and as graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kanrun.experiments.interpret.result import SourceNetwork
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import InterpretConfig
from kanrun.engine.networks import Network
from kanrun.engine.networks.prune import prune_on_validation, pruned
from kanrun.engine.symbolic import SearchData
from kanrun.engine.symbolic.from_network import graph_of, values_of
from kanrun.errors import UsageError
from kanrun.runs import Run
from kanrun.study.saved import LoadedRun
from kanrun.study.suite import with_cell
from kanrun.targets import PiecewiseScaling

#: Share of the network's own error that turning it into a graph may change its values by without a warning, and what is
#: rounding whatever the network's error is, relative to the spread.
_SMALL, _ROUNDING = 0.1, 1e-12


def from_run(cfg: InterpretConfig) -> tuple[InterpretConfig, Network | None, int]:
    """The run's target and sampling, its network, and the seed that gives its split and scaling again; no network of
    the automatic model of a table, whose edges are functions of scores and not of the inputs.

    Raises UsageError where `cfg.from_run` is not the absolute path of a run of one KAN.
    """
    folder = Path(str(cfg.from_run))
    if not folder.is_absolute():
        raise UsageError(f"from_run={folder} is no absolute path; only the command line takes the name of a run.")
    if not (folder / "run.json").is_file():
        raise UsageError(f"from_run={folder} is not the folder of a run: it holds no run.json.")
    loaded = LoadedRun(Run(folder))
    model = loaded.model()
    network = model.network
    if "cell" in loaded.tables.get("summary", ()):
        raise UsageError(f"from_run={folder} holds trainings on several settings; name a run of one.")
    if not network.edge_layers:
        raise UsageError(f"from_run={folder} holds a {type(network).__name__}, which has no edges to interpret.")
    theirs = _resolved(loaded.config, folder)
    scores = isinstance(model.input_scaling, PiecewiseScaling)
    cfg = with_cell(cfg, {"target": theirs["target"], "sampling": theirs["sampling"]})
    return cfg, None if scores else network, model.seed


def _resolved(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with values in place of references to other parts of it."""
    try:
        plain = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"The configuration of from_run={folder} is broken: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def source_network(network: Network, samples: SearchData, index: int, threshold: float | None) -> SourceNetwork:
    """Output `index` of the network, and as a graph: whole, and without the edges whose score is below `threshold`
    (None: those that it does not need on the validation points)."""
    itself, whole = values_of(network, index), graph_of(network, samples.x, index)
    if threshold is not None:
        smaller = pruned(network, samples.x, threshold)
    else:
        smaller = prune_on_validation(network, samples.x, samples.validation_x, samples.validation_y, index)
    apart = np.concatenate([whole(x) - itself(x) for x in (samples.x, samples.validation_x)])
    allowed = max(_SMALL * samples.error(itself), _ROUNDING) * samples.spread
    faithful = bool(np.sqrt(np.mean(apart**2)) <= allowed)
    return SourceNetwork(itself, whole, graph_of(smaller, samples.x, index), float(np.abs(apart).max()), faithful)
