"""An interpretation's configuration to what is to be interpreted.

Data, a network from a run, units.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from kanrun.experiments.interpret.backends import check_backend
from kanrun.experiments.interpret.result import (
    Array,
    InterpretationProblem,
    Options,
    SourceNetwork,
    VerificationData,
    check_inputs,
    decimal_scales,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import InterpretConfig, KANConfig
from kanrun.engine.networks import Network
from kanrun.engine.networks.pruning import prune_edges, prune_on_validation
from kanrun.engine.symbolic import (
    SearchData,
    SearchPolicy,
    choose,
)
from kanrun.engine.symbolic.conversions import graph_of, values_of
from kanrun.errors import UsageError
from kanrun.formulas import as_variables, variable
from kanrun.formulas.equations import dimensions
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

#: Fraction of the network's own error by which its graph may differ without a warning, and the
#: difference relative to the std of y that is only rounding.
_FAITHFUL, _ROUNDING = 0.1, 1e-12


def from_run(cfg: InterpretConfig) -> tuple[InterpretConfig, Network | None, int]:
    """Return the run's target and sampling, its network, and the seed of its split and scaling.

    The automatic model of a table has no network here: its edges are functions of scores, not of
    the inputs.

    Raises:
        UsageError: If `cfg.from_run` is not the absolute path of a run of one KAN.
    """
    folder = Path(str(cfg.from_run))
    if not folder.is_absolute():
        raise UsageError(
            f"from_run={folder} is not an absolute path; only the command line takes the name of "
            "a run."
        )
    run = run_at(str(folder), folder)
    if run is None:
        raise UsageError(f"from_run={folder} is not the folder of a run: it contains no run.json.")
    loaded = LoadedRun(run)
    model = loaded.model()
    if "cell" in loaded.tables.get("summary", ()):
        raise UsageError(f"from_run={folder} contains several settings; name a run of one.")
    if not model.network.edge_layers:
        kind = type(model.network).__name__
        raise UsageError(f"from_run={folder} contains a {kind}, which has no edges to interpret.")
    try:
        theirs: Any = OmegaConf.to_container(OmegaConf.create(loaded.config), resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"The configuration of from_run={folder} is broken: {reason}") from error
    cfg = with_cell(cfg, {"target": theirs["target"], "sampling": theirs["sampling"]})
    is_automatic = isinstance(model.input_scaling, PiecewiseScaling)
    return cfg, None if is_automatic else model.network, model.seed


def source_network(
    network: Network, samples: SearchData, index: int, threshold: float | None
) -> SourceNetwork:
    """Return output `index` of the network, and as a graph, whole and pruned.

    Edges with a score below `threshold` are pruned; None chooses it on the validation points.
    """
    itself, whole = values_of(network, index), graph_of(network, samples.x, index)
    if threshold is not None:
        smaller = prune_edges(network, samples.x, threshold)
    else:
        validation = samples.validation_x, samples.validation_y
        smaller = prune_on_validation(network, samples.x, *validation, index)
    apart = np.concatenate([whole(x) - itself(x) for x in (samples.x, samples.validation_x)])
    allowed = max(_FAITHFUL * samples.error(itself), _ROUNDING) * samples.y_std
    faithful = bool(np.sqrt(np.mean(apart**2)) <= allowed)
    difference, graph = float(np.abs(apart).max()), graph_of(smaller, samples.x, index)
    return SourceNetwork(itself, whole, graph, difference, faithful)


def options_of(cfg: InterpretConfig) -> Options:
    """Return the settings as options; raise UsageError for a setting that breaks a rule."""
    model = cfg.model
    if not isinstance(model, KANConfig):
        raise UsageError(f"model={model.kind} has no edge functions to interpret; use model=kan.")
    plain = KANConfig(base="zero")
    for name in ("base", "edge_scaling", "extrapolation", "initialisation", "grid_eps"):
        if (given := getattr(model, name)) != (default := getattr(plain, name)):
            raise UsageError(
                f"model.{name}={given}: kanrun interpret trains plain splines; leave it at "
                f"{default}."
            )
    check_model(replace(model, hidden=model.hidden if model.hidden is not None else []), 1)
    if model.degree < 1:
        raise UsageError(
            f"model.degree={model.degree} must be at least 1: step functions have no slope."
        )
    if cfg.backend != "kanrun":
        check_backend(cfg.backend)
    policy = SearchPolicy(cfg.budget, cfg.simplify_budget, int(model.degree), cfg.n_starts)
    if model.intervals != "auto":
        grids = model.intervals if isinstance(model.intervals, list) else [int(model.intervals)]
        policy = replace(policy, grids=tuple(grids))
    return Options(
        candidates=choose(cfg.candidates, cfg.custom_candidates),
        hidden=tuple(model.hidden) if model.hidden is not None else None,
        sparsity=cfg.sparsity,
        error_tolerance=cfg.error_tolerance,
        policy=policy,
        backend=cfg.backend,
    )


def problems_of(cfg: InterpretConfig, seed: int) -> list[InterpretationProblem]:
    """Return one problem for each output.

    Raises:
        UsageError: For classification, or a run without a KAN.
    """
    network = None
    if cfg.from_run is not None:
        cfg, network, seed = from_run(cfg)
    dataset = make_dataset(build_target(cfg.target), cfg.sampling, seed)
    if dataset.classes:
        raise UsageError(
            "kanrun interpret needs numeric outputs; a classification target has classes."
        )
    scalings = dataset.input_scaling, dataset.output_scaling
    if network is None:
        scalings = decimal_scales(dataset.train.x), decimal_scales(dataset.train.y)
    inputs, outputs = scalings
    assert isinstance(inputs, Scaling), "make_dataset scales by shift and scale"
    assert isinstance(outputs, Scaling), "make_dataset scales by shift and scale"
    indices = range(len(dataset.target.outputs))
    return [_problem(cfg, dataset, index, inputs, outputs, network) for index in indices]


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
            raise UsageError(
                "sampling.validation_fraction=0 leaves no points to choose on; set it above 0."
            )
        # Too few points to set some aside.
        validation = dataset.train

    def scaled(points: Points) -> tuple[Any, Any]:
        return inputs.apply(points.x), outputs.apply(points.y)[:, index]

    samples = SearchData(*scaled(dataset.train), *scaled(validation))
    check_inputs(samples.x)
    x, y = scaled(dataset.test if dataset.test is not None and len(dataset.test) else validation)
    truth, expression, function = None, None, target.function
    if function is not None:
        truth = lambda x: outputs.apply(function(inputs.invert(x)))[:, index]  # noqa: E731
        y = truth(x)
        if network is None and target.expression is not None:
            expression = _in_search_units(target.expression, index, inputs, outputs)
    name = f"{target.name}, {target.outputs[index]}" if len(target.outputs) > 1 else target.name
    given = None
    if network is not None:
        given = source_network(network, samples, index, cfg.prune_threshold)
    unit = float(outputs.scale[index])
    notes = _notes(dataset) if index == 0 else []
    if given is not None:
        change = f"{given.difference * unit:.1e}"
        text = f"{name}: as a graph of splines the network changes by at most {change}"
        if not given.faithful:
            text += ", which is not small compared with its error; the formula is that of the graph"
        notes.append(Note(text, warning=not given.faithful))
    return InterpretationProblem(
        inputs=tuple(target.inputs),
        samples=samples,
        held_out=VerificationData(x, y, inputs.apply(target.domain.T).T, truth, expression),
        scaling=inputs,
        unit=unit,
        shift=float(outputs.shift[index]),
        network=given,
        dimensions=_dimensions(cfg, target, index),
        name=name,
        output=target.outputs[index],
        only=len(target.outputs) == 1,
        kind=cfg.target.kind,
        noise=cfg.sampling.noise,
        notes=tuple(notes),
    )


def _in_search_units(
    expression: sympy.Expr, index: int, inputs: Scaling, outputs: Scaling
) -> sympy.Expr:
    """Return the target's expression in inputs and output that were divided by powers of ten."""
    scales = [sympy.Rational(str(scale)) for scale in inputs.scale.tolist()]
    swap = {variable(f"x{i}"): scale * variable(f"x{i}") for i, scale in enumerate(scales)}
    return expression.xreplace(swap) / sympy.Rational(str(float(outputs.scale[index])))


def _dimensions(cfg: InterpretConfig, target: Target, index: int) -> Array | None:
    """Return the exponents of the base units of inputs and output, or None without units."""
    units = getattr(cfg.target, "units", {})
    if not units:
        return None
    if cfg.from_run is not None:
        raise UsageError(
            "target.units do not apply to the network of a run, which has its own units."
        )
    every = dimensions(units, [*target.inputs, *target.outputs])
    return every[[*range(len(target.inputs)), len(target.inputs) + index]]


def _notes(dataset: Dataset) -> list[Note]:
    """Return the notes on the data, and the variables of inputs with other names."""
    names = dataset.target.inputs
    pairs = zip(as_variables(names), names, strict=True)
    renamed = ", ".join(f"{short} is {name}" for short, name in pairs if short != name)
    called = [Note(f"in formulas {renamed}")] if renamed else []
    return [*(Note(text, warning=True) for text in dataset.notes), *called]
