"""An interpretation's configuration to what is to be interpreted: data, a network from a run, units."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanrun.config import InterpretConfig, KANConfig
from kanrun.engine.networks import KAN
from kanrun.engine.networks.prune import prune_on_validation, pruned
from kanrun.engine.symbolic import Formula, Samples, choose
from kanrun.engine.symbolic.from_network import graph_of
from kanrun.errors import UsageError
from kanrun.runs.records import Checkpoint
from kanrun.study.cells import with_cell
from kanrun.study.interpret.interpretation import check_inputs
from kanrun.study.interpret.result import Check, Given, Interpretation, Options, in_units
from kanrun.study.models import check_model
from kanrun.targets import Dataset, Points, Scaling, make_dataset


@dataclass(frozen=True)
class Task:
    """One output to interpret. `samples` are in the units of `input_scaling` and `output_scaling` (number `index`)."""

    name: str
    output: str
    inputs: tuple[str, ...]
    samples: Samples
    check: Check
    network: Given | None
    index: int
    input_scaling: Scaling
    output_scaling: Scaling
    only: bool
    notes: tuple[str, ...]
    kind: str
    noise: float

    @property
    def unit(self) -> float:
        """What a difference in the task's units is in the user's."""
        return float(self.output_scaling.scale[self.index])

    @property
    def unknown(self) -> str:
        return "unknown" if self.check.truth is None else "no"

    def in_units(self, formula: Formula) -> Formula:
        """The formula in the user's units; as it is where nothing was standardised."""
        plain = not self.input_scaling.shift.any() and (self.input_scaling.scale == 1).all()
        if plain and self.unit == 1 and self.output_scaling.shift[self.index] == 0:
            return formula
        shift = float(self.output_scaling.shift[self.index])
        return in_units(formula, self.input_scaling.shift, self.input_scaling.scale, shift, self.unit)


def options_of(cfg: InterpretConfig) -> Options:
    """Raises UsageError for a setting that breaks a rule."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(f"model={cfg.model.kind} has no edge functions to interpret; use model=kan.")
    plain = KANConfig(base="zero")
    for name in ("base", "scale", "outside", "initialisation", "adapt"):
        if (given := getattr(cfg.model, name)) != (own := getattr(plain, name)):
            raise UsageError(f"model.{name}={given}: kanrun interpret trains plain splines; leave it at {own}.")
    check_model(replace(cfg.model, hidden=cfg.model.hidden if cfg.model.hidden is not None else []), 1)
    for name in ("budget", "simplify", "slack", "sparsity"):
        if getattr(cfg, name) < 0:
            raise UsageError(f"{name}={getattr(cfg, name)} must not be negative.")
    if cfg.model.degree < 1:
        raise UsageError(f"model.degree={cfg.model.degree} must be at least 1: steps have no slope to go by.")
    if cfg.starts < 1:
        raise UsageError(f"starts={cfg.starts} must be at least 1.")
    grids = cfg.model.intervals
    if grids == "auto":
        grids = [5, 10, 20]
    return Options(
        candidates=choose(cfg.candidates, cfg.own_candidates),
        hidden=tuple(cfg.model.hidden) if cfg.model.hidden is not None else None,
        grids=tuple(int(g) for g in (grids if isinstance(grids, list) else [grids])),
        degree=int(cfg.model.degree),
        starts=cfg.starts,
        sparsity=cfg.sparsity,
        slack=cfg.slack,
        budget=cfg.budget,
        simplify=cfg.simplify,
    )


def tasks_of(cfg: InterpretConfig, seed: int) -> list[Task]:
    """One task an output. Raises UsageError for classification, and for a run without a KAN."""
    network = None
    if cfg.from_run is not None:
        cfg, network, seed = _from_run(cfg)
    dataset = make_dataset(cfg.target, cfg.sampling, seed)
    if dataset.classes:
        raise UsageError("kanrun interpret needs numbers to explain; a classification target has classes.")
    known = network is None
    inputs = Scaling.identity(len(dataset.target.inputs)) if known else dataset.input_scaling
    outputs = Scaling.identity(len(dataset.target.outputs)) if known else dataset.output_scaling
    return [_task(cfg, dataset, index, inputs, outputs, network) for index in range(len(dataset.target.outputs))]


def _task(
    cfg: InterpretConfig, dataset: Dataset, index: int, inputs: Scaling, outputs: Scaling, network: KAN | None
) -> Task:
    target, validation = dataset.target, dataset.validation
    if validation is None or not len(validation):
        raise UsageError("sampling.validation must leave points to choose on: set it above 0.")

    def scaled(points: Points) -> tuple[Any, Any]:
        return inputs.apply(points.x), outputs.apply(points.y)[:, index]

    samples = Samples(*scaled(dataset.train), *scaled(validation))
    check_inputs(samples.x)
    test = dataset.test if dataset.test is not None and len(dataset.test) else validation
    truth, expression = None, None
    if target.function is not None:
        function = target.function
        truth = lambda x: outputs.apply(function(inputs.invert(x)))[:, index]  # noqa: E731
        expression = target.expression if network is None else None
    clean = inputs.apply(test.x)
    check = Check(clean, truth(clean) if truth else scaled(test)[1], inputs.apply(target.domain.T).T, truth, expression)
    several = len(target.outputs) > 1
    notes = dataset.notes if index == 0 else ()
    if tuple(target.inputs) != tuple(f"x{i}" for i in range(len(target.inputs))) and index == 0:
        notes = (*notes, "in formulas " + ", ".join(f"x{i} is {name}" for i, name in enumerate(target.inputs)))
    return Task(
        f"{target.name}, {target.outputs[index]}" if several else target.name,
        target.outputs[index], tuple(target.inputs), samples, check,
        _graph(cfg, network, samples, index), index, inputs, outputs, not several, notes,
        cfg.target.kind, cfg.sampling.noise,
    )  # fmt: skip


def _graph(cfg: InterpretConfig, network: KAN | None, samples: Samples, index: int) -> Given | None:
    """The run's network as a graph, whole and without the edges that it does not need."""
    if network is None:
        return None
    intervals = max(20, network.intervals)
    whole = graph_of(network, samples.x, index, intervals)
    if cfg.prune is not None:
        network = pruned(network, samples.x, cfg.prune)
    else:
        network = prune_on_validation(network, samples.x, samples.validation_x, samples.validation_y, index)
    return Given(whole, graph_of(network, samples.x, index, intervals))


def _from_run(cfg: InterpretConfig) -> tuple[InterpretConfig, KAN, int]:
    """The run's target and sampling, its network, and the seed that gives its split and scaling again."""
    from kanrun.runs import resolve_run
    from kanrun.study.saved import LoadedRun

    loaded = LoadedRun(resolve_run(str(cfg.from_run), Path(os.environ.get("KANRUN_OUTPUTS", "outputs"))))
    model = loaded.model()
    network = model.network
    if "cell" in loaded.tables.get("summary", ()):
        raise UsageError(f"from_run={cfg.from_run} holds trainings on several settings; name a run of one.")
    if not isinstance(network, KAN):
        raise UsageError(f"from_run={cfg.from_run} holds a {type(network).__name__}, which has no edges to interpret.")
    theirs = loaded.config
    return with_cell(cfg, {"target": theirs["target"], "sampling": theirs["sampling"]}), network, model.seed


def formula_checkpoint(task: Task, formula: Formula, result: Interpretation, seed: int) -> Checkpoint:
    """The formula in all its forms, beside its domain and certificate; arrays hold the domain, and of f1, f2, ...
    the ends (2,) of their uniform grids and the coefficients (intervals + degree,)."""
    certificate = vars(result.certificate) if result.certificate else {}
    meta = {
        "formula": formula.forms(),
        "variables": list(formula.names),
        "inputs": list(task.inputs),
        "output": task.output,
        "rounded": [list(entry) for entry in formula.rounded],
        "certificate": {k: (v if not isinstance(v, float) or np.isfinite(v) else None) for k, v in certificate.items()},
        "seed": seed,
    }
    domain = task.input_scaling.invert(task.check.domain.T).T
    arrays = {"domain": domain}
    for name, spline in formula.splines:
        arrays |= {f"{name}.ends": np.array([spline.low, spline.high]), f"{name}.coefficients": spline.parameters}
    return Checkpoint(f"formula-{task.name}-seed{seed}", arrays, meta)
