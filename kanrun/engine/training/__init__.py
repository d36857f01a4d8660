"""Training of networks: the main loop (here), and its parts in the other modules of the package.

A training run first compares random starts or grows the shape of the network. It then trains on one
grid after another, selects the grid with the lowest validation error, and makes a final fit.
`train` is a generator: it yields a `Step` after every measurement of the errors (usually every
solver step), a `Stage` after every grid, and a `Snapshot` every few seconds on a grid that takes
long; it returns a `Trained`. The stages and the last snapshot contain everything that is needed to
resume, so a run that is interrupted and resumed ends with exactly the same numbers. Test errors are
measured and reported but never used for selection.
"""

from __future__ import annotations

from collections.abc import Generator as Events
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Generator
from torch.nn import functional

from kanrun.engine.networks import Network
from kanrun.engine.training.data import (
    Errors,
    GrowthPolicy,
    Plan,
    Samples,
    Task,
    TrainingData,
    affords_starts,
    baseline_error,
    check_solver,
    choose_solver,
    mean_loss,
    measure,
    output_scale,
    predict,
    second_order_work,
)
from kanrun.engine.training.grid_training import (
    LAST_TRIES,
    TRIES,
    Event,
    GridTraining,
    first_penalty,
)
from kanrun.engine.training.growth import MAX_START_INTERVALS, Create, Growth, survivors
from kanrun.engine.training.objective import (
    DataFitting,
    Objective,
    QuadraticMemory,
    SmoothnessPenalty,
    degrees_of_freedom,
)
from kanrun.engine.training.solver_run import (
    Clock,
    Grown,
    Setup,
    Snapshot,
    Solver,
    Stage,
    Step,
    TrainingState,
    take_steps,
)
from kanrun.engine.training.solvers import LevenbergMarquardt
from kanrun.monitoring import finished, time_limit_reached

#: Penalty on second differences while the shape of a classifier grows. Growth fits the 0/1 class
#: indicators, which are noisy, by least squares. A larger weight gives smoother functions; a
#: smaller weight fits wrong labels. Chosen on three functions of three inputs with 3% wrong labels.
INDICATOR_PENALTY = SmoothnessPenalty(1e-5, 2)


@dataclass(frozen=True)
class Trained:
    """Result of a training run.

    Attributes:
        network: The chosen stage's network after the final fit.
        chosen: The stage (grid) with the lowest validation error.
        errors: Errors of `network`. The validation error was measured before the final fit, because
            this fit also uses the validation points.
        stages: All stages, in order.
        seconds: Seconds of training.
    """

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
    """Train a network, or resume an interrupted training run.

    Args:
        create: Function that creates a random network, given a random generator.
        data: Samples for training, validation and testing.
        plan: Solver, grids, starts, growth and penalty.
        generator: Generator of all random numbers.
        progress: State of the run to resume; None for a new run.

    Yields:
        Steps, stages, snapshots and, if the shape grew, one `Grown`.

    Returns:
        The trained network, its errors and all stages.

    Raises:
        TrainingFailed: If a value becomes NaN or infinite; the message names the stage and the
            step. The stages and snapshots that were yielded earlier are the last valid states.
    """
    state = progress or TrainingState()
    snapshot = state.snapshot
    at = snapshot or (state.stages[-1] if state.stages else None)
    setup = Setup(data, plan, generator, Clock(at.seconds if at else 0.0))
    if at:
        generator.set_state(at.random)
        training = GridTraining(at.network, at.penalty, setup, list(state.stages))
    else:
        training, grown = _first(create, setup)
        with setup.clock.stopped():
            yield from (*grown, *training.events)
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
    while plan.insert_knots and not time_limit_reached():
        if (inserted := training.insert_knots()) is None:
            break
        with setup.clock.stopped():
            yield inserted
    chosen = training.chosen
    network = _final_fit(chosen, setup)
    errors = replace(measure(network, data), validation=chosen.errors.validation)
    return Trained(network, chosen, errors, training.stages, setup.clock.seconds)


def fit(create: Create, data: TrainingData, plan: Plan, generator: Generator) -> Trained:
    """Run `train` to its end and return its result, for callers that need no events."""
    return finished(train(create, data, plan, generator))


def _first(create: Create, setup: Setup) -> tuple[GridTraining, list[Grown]]:
    """Compare random starts, or grow the shape, before the grids of the schedule.

    Returns:
        The `GridTraining` that continues with the schedule, and a list that contains the record of
        the growth or, if the shape does not grow, is empty.
    """
    plan = setup.plan
    samples = setup.data.train
    generator = setup.generator
    penalty = first_penalty(plan)
    if plan.growth and setup.data.task == "classification":
        return _grown_classifier(create, setup, plan.growth)
    if plan.growth:
        growth = Growth(setup, penalty, plan.growth)
        growth.run(create)
        return growth.winner, [growth.record]
    network = create(generator)
    if network.fit_linear(samples.x, samples.y, samples.roots):
        return GridTraining(network, penalty, setup), []
    if not plan.second_order:
        others = [create(generator) for _ in range(plan.starts - 1)]
        rivals = [GridTraining(one, penalty, setup) for one in (network, *others)]
        for one in rivals if len(rivals) > 1 else ():
            one.compare(plan.schedule[0])
        return min(rivals, key=lambda one: one.lowest), []
    # Even a single start is trained briefly if that adapts the grids of hidden layers.
    settles = plan.update_grid and len(network.shape) > 2
    settles &= network.intervals is not None and network.intervals <= MAX_START_INTERVALS
    if plan.starts > 1 or settles:
        networks = [network, *(create(generator) for _ in range(plan.starts - 1))]
        network = survivors(networks, setup.data, penalty.weight, generator)[0].network
    return GridTraining(network, penalty, setup), []


def _grown_classifier(
    create: Create, setup: Setup, policy: GrowthPolicy
) -> tuple[GridTraining, list[Grown]]:
    """Grow the shape by least squares on 0/1 class indicators.

    Returns:
        The `GridTraining` that minimises the cross-entropy, starting from the grown network, and a
        list with the record of the growth.
    """
    data = setup.data

    def indicators(samples: Samples) -> Samples:
        y = functional.one_hot(samples.y[:, 0].long(), policy.largest[-1])
        return replace(samples, y=y.to(samples.x))

    held_out = indicators(data.validation) if data.validation else None
    squares = TrainingData(indicators(data.train), held_out)
    plan = replace(setup.plan, solver="lm", settings=None, weight=None)
    growth = Growth(replace(setup, data=squares, plan=plan), INDICATOR_PENALTY, policy)
    growth.run(lambda generator: create(generator).for_second_order())
    network = growth.best.stages[0].network
    # Initial logit of the classifier where the fitted class indicator is 1. With a larger value,
    # training begins with more confident probabilities.
    logits = 5.0
    with torch.no_grad():
        network.edge_layers[-1].coefficients.mul_(logits)
    return GridTraining(network, first_penalty(setup.plan), setup), [growth.record]


def _final_fit(chosen: Stage, setup: Setup) -> Network:
    """Return a copy of the chosen network, refitted to training and validation points together.

    If the network is linear in its unknowns, the refit is exact; otherwise it takes up to
    6 second-order steps. Nonlinear networks are not refitted if there are no validation
    points, or if the solver is not of second order.
    """
    network = deepcopy(chosen.network)
    everything = setup.data.everything
    linear = network.fit_linear(everything.x, everything.y, everything.roots)
    # Largest number of solver steps of the final fit on training and validation points together.
    steps = 6
    if not linear and setup.plan.second_order and setup.data.validation is not None:
        data = replace(setup.data, train=everything, validation=None)
        take_steps(replace(setup, data=data).solver(network, chosen.penalty), steps)
    return network
