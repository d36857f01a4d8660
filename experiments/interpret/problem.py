"""Prepare interpretations: points in suitable units and, optionally, a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.engine.networks import Network
from kanrun.engine.networks.reshaping import prune_on_validation
from kanrun.engine.symbolic import (
    LARGEST_SAMPLE,
    Graph,
    SearchData,
    SearchProblem,
    VerificationData,
    choose,
)
from kanrun.engine.symbolic.conversions import graph_of, values_of
from kanrun.errors import UsageError
from kanrun.formulas.conversion import as_variables
from kanrun.formulas.parsing import dimensions
from kanrun.model.model import LoadedRun, Model
from kanrun.model.trained import LOGIT_NOISE, explained_outputs, logit_values
from kanrun.points import Array, PiecewiseScaling, Scaling
from kanrun.runs import run_at
from kanrun.runs.records import Note
from kanrun.study import with_cell
from kanrun.targets.datasets import Dataset, Target, build_target, check_gaussian, make_dataset
from kanrun.targets.table_targets import array_target

from .config import InterpretConfig

Function = Callable[[Array], Array]


@dataclass(frozen=True)
class SourceNetwork:
    """A network that was trained by another run.

    Attributes:
        itself: The network as a function from inputs (N, inputs) to one output (N,).
        whole: The network as a graph of splines.
        pruned: The pruned network as a graph of splines.
        difference: Largest absolute difference between `itself` and `whole` on the samples.
        faithful: Whether the RMS difference between `itself` and `whole` is small compared with the
            error of the network, or only rounding.
    """

    itself: Function
    whole: Graph
    pruned: Graph
    difference: float
    faithful: bool


@dataclass(frozen=True)
class InterpretationProblem:
    """One output to interpret.

    Attributes:
        cfg: The settings.
        inputs: Names of the inputs.
        search: Points, candidates, budget and physical dimensions, in the units of the search.
        held_out: Points for the verification, in the units of the search.
        scaling: Map from the user's inputs to the units of the search.
        unit: Output in the units of the search = (output in the user's units - `shift`) / `unit`.
        shift: See `unit`.
        network: The network of a run, in the units of the search; None if the formula is searched
            for in the points.
        name: Name of the target, followed by the name of the output if there are several.
        output: Name of the output.
        only: Whether the target has only this output.
        notes: Notes about the data.
        labels: Classes of the held-out points, if the output is a logit.

    Raises:
        UsageError: If no input varies.
    """

    cfg: InterpretConfig
    inputs: tuple[str, ...]
    search: SearchProblem
    held_out: VerificationData
    scaling: Scaling
    unit: float
    shift: float = 0.0
    network: SourceNetwork | None = None
    name: str = "y"
    output: str = "y"
    only: bool = True
    notes: tuple[Note, ...] = ()
    labels: Array | None = None

    def __post_init__(self) -> None:
        if not (np.ptp(self.search.data.x, axis=0) > 0).any():
            raise UsageError("No input varies: there is nothing that the output could depend on.")

    def points(self) -> tuple[Array, Array]:
        """Return the samples in the user's units, shapes (samples, inputs) and (samples,)."""
        data = self.search.data
        return self.scaling.invert(data.x), data.y * self.unit + self.shift


def decimal_scales(values: Array) -> Scaling:
    """Return a scaling by powers of ten, which brings very large or very small columns near 1.

    The result of a search must not depend on units such as metres for distances between stars.
    Other columns stay unchanged, because formulas have simple constants in the user's units. The
    size of a column is its largest absolute value, or the median if that is smaller by many
    decades.

    Args:
        values: Columns, shape (samples, features).
    """
    size = np.abs(values).max(axis=0, initial=0.0)
    usual = np.median(np.abs(values), axis=0)
    size = np.where((usual > 0) & (size > 1e12 * usual), usual, size)
    # A column is scaled if its size is above this number or below its reciprocal.
    large = 1e3
    far = (size > 0) & ((size > large) | (size < 1 / large))
    exponents = np.floor(np.log10(np.where(far, size, 1.0)))
    return Scaling(np.zeros(size.size), np.array([float(f"1e{int(k)}") for k in exponents]))


def problems_of(cfg: InterpretConfig, seed: int) -> list[InterpretationProblem]:
    """Return one problem for each output of the configured target, or of the run `from_run`.

    Raises:
        UsageError: If a setting breaks a rule, the target has classes, or the run has no KAN.
    """
    if cfg.from_run is None:
        check_gaussian(known := build_target(cfg.target))
        return problems_in(make_dataset(known, cfg.sampling, seed), cfg)
    cfg, model, target = _from_run(cfg)
    check_gaussian(known := target or build_target(cfg.target))
    dataset = make_dataset(known, cfg.sampling, model.seed)
    if dataset.classes:
        labels = (dataset.test or dataset.validation or dataset.train).y[:, 0]
        return [replace(each, labels=labels) for each in problems_in(_logits(dataset, model), cfg)]
    if isinstance(model.input_scaling, PiecewiseScaling):
        # The edges of the automatic table model are functions of scores (transformed inputs), so
        # the formula is searched for in the data.
        return problems_in(dataset, cfg)
    inputs = model.input_scaling
    outputs = model.output_scaling
    dataset = replace(dataset, input_scaling=inputs, output_scaling=outputs)
    return problems_in(dataset, cfg, model.network)


def _logits(dataset: Dataset, model: Model) -> Dataset:
    """Return the dataset of a classifier with the classifier's logits as outputs."""
    noises = {"train": LOGIT_NOISE, "validation": LOGIT_NOISE, "test": 0.0}
    parts = {name: getattr(dataset, name) for name in noises}
    logits = {
        name: replace(part, y=logit_values(model, part.x, noises[name]))
        for name, part in parts.items()
        if part
    }
    names = tuple(f"logit of {name}" for _, name in explained_outputs(model))
    target = replace(dataset.target, outputs=names, classes=None)
    return replace(dataset, target=target, **logits)


def problems_in(
    dataset: Dataset, cfg: InterpretConfig, network: Network | None = None
) -> list[InterpretationProblem]:
    """Return one problem for each output of a dataset.

    Args:
        dataset: The points.
        cfg: The settings.
        network: Network to interpret, with the scalings of `dataset`. If None, the formula is
            searched for in the points, and `decimal_scales` chooses the scalings.

    Raises:
        UsageError: If the outputs are classes, or there are no validation points.
    """
    if dataset.classes:
        raise UsageError(
            "kanrun interpret needs numeric outputs, and this target has classes. Fit them, and "
            "interpret the logits: kanrun interpret from_run=fit/latest"
        )
    if not dataset.validation and cfg.sampling.validation_fraction == 0:
        raise UsageError(
            "sampling.validation_fraction=0 leaves no points to choose on; set it above 0."
        )
    if network is None:
        inputs = decimal_scales(dataset.train.x)
        outputs = decimal_scales(dataset.train.y)
        dataset = replace(dataset, input_scaling=inputs, output_scaling=outputs)
    count = len(dataset.target.outputs)
    notes = _notes(dataset)
    rows = len(dataset.train)
    if network is None and rows > LARGEST_SAMPLE:
        text = f"formulas are compared on {LARGEST_SAMPLE:,} of the {rows:,} rows and fitted to all"
        notes.append(Note(text))
    problems = [_problem(dataset, index, cfg, network) for index in range(count)]
    return [replace(problems[0], notes=(*notes, *problems[0].notes)), *problems[1:]]


def _from_run(cfg: InterpretConfig) -> tuple[InterpretConfig, Model, Target | None]:
    """Load the run `cfg.from_run`.

    Returns:
        The configuration with the target and the sampling of the run, the model of the run, and
        None. If the run imported its network, it has no target; the last item is then a target made
        of its samples.

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
    if "target" in theirs:
        shared = {key: theirs[key] for key in ("target", "sampling")}
        return with_cell(cfg, shared), model, None
    points = loaded.tables["predictions"].query("split != 'grid'")
    named = {"input": model.inputs, "truth": model.outputs}
    parts = ({name: points[f"{kind}:{name}"] for name in names} for kind, names in named.items())
    cfg = with_cell(cfg, {"sampling": {"n_train": None, "n_test": None}})
    return cfg, model, replace(array_target(*parts), name=Path(theirs["file"]).name)


def _problem(
    dataset: Dataset, index: int, cfg: InterpretConfig, network: Network | None
) -> InterpretationProblem:
    target = dataset.target
    scaling = dataset.input_scaling
    outputs = dataset.output_scaling
    assert isinstance(scaling, Scaling), "make_dataset scales by shift and scale"
    assert isinstance(outputs, Scaling), "make_dataset scales by shift and scale"
    # Without validation points, the training points are also used for validation.
    chosen = dataset.validation or dataset.train
    (x, y), (chosen_x, chosen_y), (test_x, test_y) = (
        (scaling.apply(part.x), outputs.apply(part.y)[:, index])
        for part in (dataset.train, chosen, dataset.test or chosen)
    )
    data = SearchData(x, y, chosen_x, chosen_y)
    candidates = choose(cfg.candidates, cfg.custom_candidates)
    search = SearchProblem(data, candidates, cfg.budget, _dimensions(cfg, target, index))
    # The points at which formulas are verified are the same for all runs.
    random = np.random.default_rng(20240430).random((1000, x.shape[1]))
    box = scaling.apply(target.domain.T).T
    fresh = scaling.apply(target.inputs_at(random))
    held_out = VerificationData(test_x, test_y, box, fresh)
    if (function := target.function) is not None:

        def truth(x: Array) -> Array:
            return outputs.apply(function(scaling.invert(x)))[:, index]

        held_out = replace(held_out, y=truth(test_x), truth=truth)
    only = len(target.outputs) == 1
    output = target.outputs[index]
    unit = outputs.scale[index]
    problem = InterpretationProblem(
        cfg,
        target.inputs,
        search,
        held_out,
        scaling,
        float(unit),
        float(outputs.shift[index]),
        name=target.name if only else f"{target.name}, {output}",
        output=output,
        only=only,
    )
    if network is None:
        return problem
    given = source_network(network, data, index)
    change = f"{given.difference * unit:.1e}"
    text = f"{problem.name}: as a graph of splines the network changes by at most {change}"
    if not given.faithful:
        text += ", which is not small compared with its error; the formula is that of the graph"
    return replace(problem, network=given, notes=(Note(text, warning=not given.faithful),))


def source_network(network: Network, samples: SearchData, index: int) -> SourceNetwork:
    """Return output `index` of the network as a function, as a graph, and as a pruned graph.

    The graphs have splines on their edges. The validation error decides which edges are pruned.
    """
    itself = values_of(network, index)
    whole = graph_of(network, samples.x, index)
    validation = samples.validation_x, samples.validation_y
    smaller = prune_on_validation(network, samples.x, *validation, index)
    apart = np.concatenate([whole(x) - itself(x) for x in (samples.x, samples.validation_x)])
    # There is no warning if the RMS difference between network and graph is small compared with the
    # network's error, or only rounding.
    allowed = max(0.1 * samples.error(itself), 1e-12) * samples.y_std
    faithful = bool(np.sqrt(np.mean(apart**2)) <= allowed)
    difference = float(np.abs(apart).max())
    graph = graph_of(smaller, samples.x, index)
    return SourceNetwork(itself, whole, graph, difference, faithful)


def _dimensions(cfg: InterpretConfig, target: Target, index: int) -> Array | None:
    """Return the exponents of base units, shape (inputs + 1, base units), or None without units.

    The first rows belong to the inputs, and the last row to output number `index`.
    """
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
    """Return the notes about the data, and a note about inputs that are renamed in formulas."""
    names = dataset.target.inputs
    pairs = zip(as_variables(names), names, strict=True)
    renamed = ", ".join(f"{short} is {name}" for short, name in pairs if short != name)
    called = [Note(f"in formulas {renamed}")] if renamed else []
    return [*(Note(text, warning=True) for text in dataset.notes), *called]
