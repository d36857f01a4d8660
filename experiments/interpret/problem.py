"""An interpretation's configuration to what is to be interpreted: data, a network from a run, units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from kanrun.experiments.interpret.interpretation import check_inputs
from kanrun.experiments.interpret.peers import check_backend
from kanrun.experiments.interpret.result import (
    Array,
    Check,
    InterpretationProblem,
    Options,
    SourceNetwork,
    tens,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import InterpretConfig, KANConfig
from kanrun.engine.networks import Network
from kanrun.engine.networks.pruning import prune_edges, prune_on_validation
from kanrun.engine.symbolic import (
    GraphTrainingPolicy,
    SearchData,
    SearchPolicy,
    SimplificationPolicy,
    choose,
)
from kanrun.engine.symbolic.from_network import graph_of, values_of
from kanrun.errors import UsageError
from kanrun.formulas import as_variables, variable
from kanrun.formulas.units import dimensions
from kanrun.runs.locations import run_at
from kanrun.runs.records import Note
from kanrun.study.build import check_model
from kanrun.study.saved import LoadedRun
from kanrun.study.suite import with_cell
from kanrun.targets import (
    Dataset,
    PiecewiseScaling,
    Points,
    Scaling,
    Target,
    build_target,
    make_dataset,
)

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
        raise UsageError(
            f"from_run={folder} is no absolute path; only the command line takes the name of a run."
        )
    run = run_at(str(folder), folder)
    if run is None:
        raise UsageError(f"from_run={folder} is not the folder of a run: it holds no run.json.")
    loaded = LoadedRun(run)
    model = loaded.model()
    network = model.network
    if "cell" in loaded.tables.get("summary", ()):
        raise UsageError(
            f"from_run={folder} holds trainings on several settings; name a run of one."
        )
    if not network.edge_layers:
        raise UsageError(
            f"from_run={folder} holds a {type(network).__name__}, which has no edges to interpret."
        )
    try:
        theirs: Any = OmegaConf.to_container(OmegaConf.create(loaded.config), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"The configuration of from_run={folder} is broken: {str(error).splitlines()[0]}"
        ) from error
    cfg = with_cell(cfg, {"target": theirs["target"], "sampling": theirs["sampling"]})
    return cfg, None if isinstance(model.input_scaling, PiecewiseScaling) else network, model.seed


def source_network(
    network: Network, samples: SearchData, index: int, threshold: float | None
) -> SourceNetwork:
    """Output `index` of the network, and as a graph: whole, and without the edges whose score is below `threshold`
    (None: those that it does not need on the validation points)."""
    itself, whole = values_of(network, index), graph_of(network, samples.x, index)
    if threshold is not None:
        smaller = prune_edges(network, samples.x, threshold)
    else:
        smaller = prune_on_validation(
            network, samples.x, samples.validation_x, samples.validation_y, index
        )
    apart = np.concatenate([whole(x) - itself(x) for x in (samples.x, samples.validation_x)])
    allowed = max(_SMALL * samples.error(itself), _ROUNDING) * samples.y_std
    faithful = bool(np.sqrt(np.mean(apart**2)) <= allowed)
    return SourceNetwork(
        itself, whole, graph_of(smaller, samples.x, index), float(np.abs(apart).max()), faithful
    )


def options_of(cfg: InterpretConfig) -> Options:
    """Raises UsageError for a setting that breaks a rule."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"model={cfg.model.kind} has no edge functions to interpret; use model=kan."
        )
    plain = KANConfig(base="zero")
    for name in ("base", "edge_scaling", "extrapolation", "initialisation", "grid_eps"):
        if (given := getattr(cfg.model, name)) != (own := getattr(plain, name)):
            raise UsageError(
                f"model.{name}={given}: kanrun interpret trains plain splines; leave it at {own}."
            )
    hidden, grids = cfg.model.hidden, cfg.model.intervals
    check_model(replace(cfg.model, hidden=hidden if hidden is not None else []), 1)
    if cfg.model.degree < 1:
        raise UsageError(
            f"model.degree={cfg.model.degree} must be at least 1: steps have no slope to go by."
        )
    if cfg.backend != "kanrun":
        check_backend(cfg.backend)
    usual = GraphTrainingPolicy()
    given_grids = (
        usual.grids
        if grids == "auto"
        else tuple(grids)
        if isinstance(grids, list)
        else (int(grids),)
    )
    policy = SearchPolicy(
        budget=cfg.budget,
        degree=int(cfg.model.degree),
        training=replace(usual, starts=cfg.n_starts, grids=given_grids),
        simplification=SimplificationPolicy(budget=cfg.simplify_budget),
    )
    candidates = choose(cfg.candidates, cfg.custom_candidates)
    widths = tuple(hidden) if hidden is not None else None
    return Options(candidates, widths, cfg.sparsity, cfg.error_tolerance, policy, cfg.backend)


def problems_of(cfg: InterpretConfig, seed: int) -> list[InterpretationProblem]:
    """One problem an output. Raises UsageError for classification, and for a run without a KAN."""
    network = None
    if cfg.from_run is not None:
        cfg, network, seed = from_run(cfg)
    dataset = make_dataset(build_target(cfg.target), cfg.sampling, seed)
    if dataset.classes:
        raise UsageError(
            "kanrun interpret needs numbers to explain; a classification target has classes."
        )
    inputs = tens(dataset.train.x) if network is None else dataset.input_scaling
    outputs = tens(dataset.train.y) if network is None else dataset.output_scaling
    assert isinstance(inputs, Scaling), "make_dataset scales by shift and scale"
    assert isinstance(outputs, Scaling), "make_dataset scales by shift and scale"
    return [
        _problem(cfg, dataset, index, inputs, outputs, network)
        for index in range(len(dataset.target.outputs))
    ]


def _problem(
    cfg: InterpretConfig,
    dataset: Dataset,
    index: int,
    inputs: Scaling,
    outputs: Scaling,
    network: Network | None,
) -> InterpretationProblem:
    target, validation = dataset.target, dataset.validation
    if validation is None or not len(validation):
        if cfg.sampling.validation_fraction == 0:
            raise UsageError("sampling.validation_fraction must leave points to choose on: set it above 0.")
        validation = dataset.train  # too few to set some aside

    def scaled(points: Points) -> tuple[Any, Any]:
        return inputs.apply(points.x), outputs.apply(points.y)[:, index]

    samples = SearchData(*scaled(dataset.train), *scaled(validation))
    check_inputs(samples.x)
    x, y = scaled(dataset.test if dataset.test is not None and len(dataset.test) else validation)
    truth, expression = None, None
    if (function := target.function) is not None:
        truth = lambda x: outputs.apply(function(inputs.invert(x)))[:, index]  # noqa: E731
        expression = _in_tens(target, index, inputs, outputs) if network is None else None
    name = f"{target.name}, {target.outputs[index]}" if len(target.outputs) > 1 else target.name
    given = (
        source_network(network, samples, index, cfg.prune_threshold)
        if network is not None
        else None
    )
    unit = float(outputs.scale[index])
    notes = _notes(dataset) if index == 0 else []
    if given is not None:
        text = f"{name}: as a graph of splines the network changes by at most {given.difference * unit:.1e}"
        if not given.faithful:
            text += (
                "; that is not small beside its own error, and formulas are sought for the graph"
            )
        notes.append(Note(text, warning=not given.faithful))
    return InterpretationProblem(
        tuple(target.inputs),
        samples,
        Check(x, truth(x) if truth else y, inputs.apply(target.domain.T).T, truth, expression),
        inputs,
        unit,
        float(outputs.shift[index]),
        given,
        _dimensions(cfg, target, index),
        name,
        target.outputs[index],
        len(target.outputs) == 1,
        cfg.target.kind,
        cfg.sampling.noise,
        tuple(notes),
    )


def _in_tens(target: Target, index: int, inputs: Scaling, outputs: Scaling) -> sympy.Expr | None:
    """The target's expression in inputs and output that were divided by powers of ten."""
    if target.expression is None:
        return None
    scales = [sympy.Rational(str(scale)) for scale in inputs.scale.tolist()]
    swap = {variable(f"x{i}"): scale * variable(f"x{i}") for i, scale in enumerate(scales)}
    return target.expression.xreplace(swap) / sympy.Rational(str(float(outputs.scale[index])))


def _dimensions(cfg: InterpretConfig, target: Target, index: int) -> Array | None:
    """Of the inputs and output `index`, for a search on points in the user's units; None where no units are given."""
    units = getattr(cfg.target, "units", {})
    if not units:
        return None
    if cfg.from_run is not None:
        raise UsageError(
            "target.units do not apply to the network of a run, which is in units of its own."
        )
    every = dimensions(units, [*target.inputs, *target.outputs])
    return every[[*range(len(target.inputs)), len(target.inputs) + index]]


def _notes(dataset: Dataset) -> list[Note]:
    """What was said of the data, and what the inputs are called in formulas where that is not their name."""
    names = dataset.target.inputs
    pairs = [
        f"{short} is {name}"
        for short, name in zip(as_variables(names), names, strict=True)
        if short != name
    ]
    called = [Note(f"in formulas {', '.join(pairs)}")] if pairs else []
    return [*(Note(text, warning=True) for text in dataset.notes), *called]
