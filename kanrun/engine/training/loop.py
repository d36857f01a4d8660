"""The training loop: starts, the choice of a width, grid after grid, selection, the final fit.

`train` is a generator: it yields a `Step` after every solver step, a `Stage` after every grid, a
`Snapshot` from time to time on a grid that takes long, and returns a `Trained`. The stages and the
snapshot after them hold all that is needed to resume, so that an interrupted training continues to
the same numbers. Test errors are measured and reported; nothing is selected by them.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace

from torch import Generator

from kanrun.engine.networks import Network
from kanrun.engine.networks.edge_network import EdgeNetwork
from kanrun.engine.networks.growing import add_identity_layer, drawn
from kanrun.engine.training.data import Errors, TrainingData, measure
from kanrun.engine.training.data_fitting import SmoothnessPenalty
from kanrun.engine.training.grid_training import Event, GridTraining, finished
from kanrun.engine.training.growth import Growth
from kanrun.engine.training.multistart import MAX_START_INTERVALS, Create, best_start
from kanrun.engine.training.plan import MARGIN, Plan
from kanrun.engine.training.solver_run import (
    LAST_TRIES,
    TRIES,
    Clock,
    Setup,
    Stage,
    TrainingState,
    first_penalty,
    spent,
)
from kanrun.monitoring import time_limit_reached

#: Widths are compared on grids with up to this many unknowns, or those of the full width on
#: WIDTH_INTERVALS intervals.
WIDTH_UNKNOWNS, WIDTH_INTERVALS = 220, 8
#: Steps of the final fit on training and validation points together.
FINAL_STEPS = 6


@dataclass(frozen=True)
class Trained:
    """The network of the stage that validation chose, and the stages that led there."""

    network: Network
    chosen: Stage
    errors: Errors
    stages: list[Stage]
    seconds: float


def train(
    create: Create,
    data: TrainingData,
    plan: Plan,
    generator: Generator,
    progress: TrainingState | None = None,
) -> Events[Event, None, Trained]:
    """Train a network that `create` makes, resuming from `progress`.

    Raises TrainingFailed at the stage and step of a value that is not finite; the stages and
    snapshots yielded before hold the last good states.
    """
    state = progress or TrainingState()
    last = state.snapshot or (state.stages[-1] if state.stages else None)
    setup = Setup(data, plan, generator, Clock(last.seconds if last else 0.0))
    shape, snapshot = None, state.snapshot
    if last:
        generator.set_state(last.random)
        training = GridTraining(last.network, last.penalty, setup, list(state.stages))
    else:
        training, shape, events = _first(create, setup)
        with setup.clock.stopped():
            yield from events
    schedule = plan.schedule
    while len(training.stages) < len(schedule) and not training.ends:
        if training.stages and time_limit_reached():
            break
        position = len(training.stages)
        tries = LAST_TRIES if position == len(schedule) - 1 else TRIES
        stage = yield from training.advance(schedule[position], tries, snapshot)
        snapshot = None
        with setup.clock.stopped():
            yield stage
    chosen = min(training.stages, key=lambda stage: stage.selected)
    network = _final_fit(chosen, setup)
    if plan.select_width and network.shape != (full := shape or create(generator).shape):
        network = network.padded(full)
    errors = replace(measure(network, data), validation=chosen.errors.validation)
    return Trained(network, chosen, errors, training.stages, setup.clock.seconds)


def fit(create: Create, data: TrainingData, plan: Plan, generator: Generator) -> Trained:
    """Run `train` to its end, for callers that need no events."""
    return finished(train(create, data, plan, generator), lambda event: None)


def _first(create: Create, setup: Setup) -> tuple[GridTraining, tuple[int, ...], list[Event]]:
    """Return the training that continues, the full shape, and the events of its selection."""
    network, plan, samples = create(setup.generator), setup.plan, setup.data.train
    penalty, shape = first_penalty(plan), network.shape
    # One start takes quick steps too, in which hidden grids find their place.
    settles = plan.update_grid and len(shape) > 2
    settles &= network.intervals is not None and network.intervals <= MAX_START_INTERVALS
    if plan.growth:
        growth = Growth(setup, penalty, plan.growth)
        growth.run(network)
        training, steps = growth.winner
        return training, shape, [growth.record, *steps]
    several = plan.starts > 1 or (plan.second_order and settles)
    if network.fit_linear(samples.x, samples.y, samples.roots) or not several:
        return GridTraining(network, penalty, setup), shape, []
    grids, limit = plan.schedule[:1], None
    if plan.second_order:
        # Narrower networks are compared on grids no larger than the first ones of the full width.
        each = network.unknowns_at(None) / max(network.intervals or 1, 1)
        grids, limit = plan.schedule[:-1], max(WIDTH_UNKNOWNS, round(each * WIDTH_INTERVALS))
        rivals = _started(create, network, penalty, setup)
    else:
        others = [create(setup.generator) for _ in range(plan.starts - 1)]
        rivals = [GridTraining(one, penalty, setup) for one in (network, *others)]
    events = [one.compared(grids, limit) for one in rivals] if len(rivals) > 1 else [[]]
    winner = min(range(len(rivals)), key=lambda i: rivals[i].lowest)
    return rivals[winner], shape, events[winner]


def _started(
    create: Create, network: Network, penalty: SmoothnessPenalty, setup: Setup
) -> list[GridTraining]:
    """Return trainings from the best of several starts, one for each width."""
    plan, rivals = setup.plan, list[GridTraining]()
    several = plan.select_width and plan.starts > 1
    for shape in network.subnetworks() if several else [network.shape]:
        if rivals and time_limit_reached():
            break

        def narrow(generator: Generator, shape: tuple[int, ...] = shape) -> Network:
            return create(generator).subnetwork(shape)

        start = best_start(narrow, setup.data, plan, penalty.weight, setup.generator)
        rivals.append(GridTraining(start.network, penalty, setup))
    plain = isinstance(network, EdgeNetwork) and not any(network.products)
    if several and plain and min(network.shape[2:-1], default=0) >= network.shape[-1]:
        deep = _deepened(network, penalty, setup)
        rivals.append(GridTraining(deep, penalty, setup))
    return rivals


def _deepened(network: Network, penalty: SmoothnessPenalty, setup: Setup) -> EdgeNetwork:
    """Return a network of one hidden layer, with identities as further layers up to the depth.

    So a deep network does not end worse than the shallow one that it contains.
    """
    assert isinstance(network, EdgeNetwork)
    inputs, width, *others, outputs = network.shape

    def shallow(generator: Generator) -> Network:
        return drawn(network, (inputs, width, outputs), generator)

    start = best_start(shallow, setup.data, setup.plan, penalty.weight, setup.generator)
    deep = start.network
    assert isinstance(deep, EdgeNetwork)
    for _ in others:
        deep = add_identity_layer(deep, setup.data.train.x, MARGIN)
    return deep


def _final_fit(chosen: Stage, setup: Setup) -> Network:
    """Return the chosen network after more steps on training and validation points together."""
    network, everything = deepcopy(chosen.network), setup.data.everything
    linear = network.fit_linear(everything.x, everything.y, everything.roots)
    if not linear and setup.plan.second_order and setup.data.validation is not None:
        data = replace(setup.data, train=everything, validation=None)
        solver = replace(setup, data=data).solver(network, chosen.penalty)
        for _ in range(FINAL_STEPS):
            before = solver.loss
            solver.step()
            if spent(solver, before) or time_limit_reached():
                break
    return network
