"""An interpretation's configuration to what is to be interpreted: data, a network from a run, units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from kanrun.experiments.interpret.interpretation import check_inputs
from kanrun.experiments.interpret.peers import check_program
from kanrun.experiments.interpret.result import Array, Check, Interpretation, Options, SourceNetwork, in_units, tens
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import InterpretConfig, KANConfig
from kanrun.engine.networks import Network
from kanrun.engine.networks.prune import prune_on_validation, pruned
from kanrun.engine.symbolic import (
    Formula,
    GraphTrainingPolicy,
    SearchData,
    SearchPolicy,
    SimplificationPolicy,
    choose,
    renamed,
)
from kanrun.engine.symbolic.from_network import graph_of, values_of
from kanrun.errors import UsageError
from kanrun.formulas import as_variables, variable
from kanrun.formulas.units import dimensions
from kanrun.runs import Run
from kanrun.runs.records import Checkpoint, Note
from kanrun.study.build import check_model
from kanrun.study.saved import LoadedRun
from kanrun.study.suite import with_cell
from kanrun.targets import Dataset, PiecewiseScaling, Points, Scaling, Target, build_target, make_dataset

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


@dataclass(frozen=True)
class InterpretationProblem:
    """One output to interpret. `samples` are in the units of `input_scaling` and `output_scaling` (number `index`)."""

    name: str
    output: str
    inputs: tuple[str, ...]
    samples: SearchData
    check: Check
    network: SourceNetwork | None
    index: int
    input_scaling: Scaling
    output_scaling: Scaling
    only: bool
    notes: tuple[Note, ...]
    kind: str
    noise: float
    dimensions: Array | None = None  # exponents of the base units of the inputs and the output, where they are known

    @property
    def unit(self) -> float:
        """What a difference in the problem's units is in the user's."""
        return float(self.output_scaling.scale[self.index])

    @property
    def unknown(self) -> str:
        return "unknown" if self.check.truth is None else "no"

    @property
    def graph_difference(self) -> float | None:
        """The largest difference between a given network and its graph, in the user's units."""
        return self.network.difference * self.unit if self.network is not None else None

    @property
    def carried_over(self) -> Note | None:
        """How far turning a given network into a graph changes its values; a warning where that is not small."""
        if self.network is None:
            return None
        text = f"{self.name}: as a graph of splines the network changes by at most {self.graph_difference:.1e}"
        if not self.network.faithful:
            text += "; that is not small beside its own error, and formulas are sought for the graph"
        return Note(text, warning=not self.network.faithful)

    def in_units(self, formula: Formula) -> Formula:
        """The formula in the user's units and, where they can stand in one, names."""
        plain = not self.input_scaling.shift.any() and (self.input_scaling.scale == 1).all()
        if plain and self.unit == 1 and self.output_scaling.shift[self.index] == 0:
            return renamed(formula, as_variables(self.inputs))
        shift = float(self.output_scaling.shift[self.index])
        points = self.input_scaling.invert(self.samples.validation_x)
        return renamed(in_units(formula, self.input_scaling, shift, self.unit, points), as_variables(self.inputs))


def options_of(cfg: InterpretConfig) -> Options:
    """Raises UsageError for a setting that breaks a rule."""
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(f"model={cfg.model.kind} has no edge functions to interpret; use model=kan.")
    plain = KANConfig(base="zero")
    for name in ("base", "scale", "extrapolation", "initialisation", "grid_eps"):
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
    training = GraphTrainingPolicy(
        starts=cfg.starts, grids=tuple(int(g) for g in (grids if isinstance(grids, list) else [grids]))
    )
    policy = SearchPolicy(
        budget=cfg.budget,
        degree=int(cfg.model.degree),
        training=training,
        simplification=SimplificationPolicy(budget=cfg.simplify),
    )
    candidates = choose(cfg.candidates, cfg.own_candidates)
    hidden = tuple(cfg.model.hidden) if cfg.model.hidden is not None else None
    if cfg.program != "kanrun":
        check_program(cfg.program)
    return Options(candidates, hidden, cfg.sparsity, cfg.slack, policy, program=cfg.program)


def problems_of(cfg: InterpretConfig, seed: int) -> list[InterpretationProblem]:
    """One problem an output. Raises UsageError for classification, and for a run without a KAN."""
    network = None
    if cfg.from_run is not None:
        cfg, network, seed = from_run(cfg)
    dataset = make_dataset(build_target(cfg.target), cfg.sampling, seed)
    if dataset.classes:
        raise UsageError("kanrun interpret needs numbers to explain; a classification target has classes.")
    known = network is None
    inputs = tens(dataset.train.x) if known else dataset.input_scaling
    outputs = tens(dataset.train.y) if known else dataset.output_scaling
    assert isinstance(inputs, Scaling), "make_dataset scales by shift and scale"
    assert isinstance(outputs, Scaling), "make_dataset scales by shift and scale"
    return [_problem(cfg, dataset, index, inputs, outputs, network) for index in range(len(dataset.target.outputs))]


def _problem(
    cfg: InterpretConfig, dataset: Dataset, index: int, inputs: Scaling, outputs: Scaling, network: Network | None
) -> InterpretationProblem:
    target, validation = dataset.target, dataset.validation
    if validation is None or not len(validation):
        if cfg.sampling.validation == 0:
            raise UsageError("sampling.validation must leave points to choose on: set it above 0.")
        validation = dataset.train  # too few to set some aside

    def scaled(points: Points) -> tuple[Any, Any]:
        return inputs.apply(points.x), outputs.apply(points.y)[:, index]

    samples = SearchData(*scaled(dataset.train), *scaled(validation))
    check_inputs(samples.x)
    test = dataset.test if dataset.test is not None and len(dataset.test) else validation
    truth, expression = None, None
    if target.function is not None:
        function = target.function
        truth = lambda x: outputs.apply(function(inputs.invert(x)))[:, index]  # noqa: E731
        expression = _in_tens(target, index, inputs, outputs) if network is None else None
    clean = inputs.apply(test.x)
    check = Check(clean, truth(clean) if truth else scaled(test)[1], inputs.apply(target.domain.T).T, truth, expression)
    several = len(target.outputs) > 1
    given = source_network(network, samples, index, cfg.prune) if network is not None else None
    return InterpretationProblem(
        f"{target.name}, {target.outputs[index]}" if several else target.name,
        target.outputs[index], tuple(target.inputs), samples, check,
        given, index, inputs, outputs, not several, _notes(dataset) if index == 0 else (),
        cfg.target.kind, cfg.sampling.noise, _dimensions(cfg, target, index),
    )  # fmt: skip


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
        raise UsageError("target.units do not apply to the network of a run, which is in units of its own.")
    every = dimensions(units, [*target.inputs, *target.outputs])
    return every[[*range(len(target.inputs)), len(target.inputs) + index]]


def _notes(dataset: Dataset) -> tuple[Note, ...]:
    """What was said of the data, and what the inputs are called in formulas where that is not their name."""
    notes = tuple(Note(text, warning=True) for text in dataset.notes)
    names = dataset.target.inputs
    pairs = [pair for pair in zip(as_variables(names), names, strict=True) if pair[0] != pair[1]]
    return (*notes, Note("in formulas " + ", ".join(f"{short} is {name}" for short, name in pairs))) if pairs else notes


def formula_checkpoint(
    problem: InterpretationProblem, formula: Formula, result: Interpretation, seed: int
) -> Checkpoint:
    """The formula in all its forms, beside its domain and certificate; arrays hold the domain, and of f1, f2, ...
    the ends (2,) of their uniform grids and the coefficients (intervals + degree,)."""
    certificate = vars(result.certificate) if result.certificate else {}
    meta = {
        "formula": formula.forms(),
        "variables": list(formula.names),
        "inputs": list(problem.inputs),
        "output": problem.output,
        "rounded": [list(entry) for entry in formula.rounded],
        "certificate": {k: (v if not isinstance(v, float) or np.isfinite(v) else None) for k, v in certificate.items()},
        "seed": seed,
    }
    domain = problem.input_scaling.invert(problem.check.domain.T).T
    arrays = {"domain": domain}
    for name, spline in formula.splines:
        arrays |= {f"{name}.ends": np.array([spline.low, spline.high]), f"{name}.coefficients": spline.parameters}
    return Checkpoint(f"formula-{problem.name}-seed{seed}", arrays, meta)
