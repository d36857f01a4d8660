"""What experiments share: a training is prepared and run, and its columns and claims are written.

`Training.of` turns a model, a solver and a problem into a plan and a factory; `train_and_record`
trains, records events and warns; `summary_of` returns the columns that every summary has; and
`claims_by` judges groups of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Generator as Events
from dataclasses import dataclass, replace
from string import Formatter
from typing import Any

import pandas as pd

from kanrun.engine.networks import Network
from kanrun.engine.training import Event, Plan, Trained, TrainingState, train
from kanrun.runs.records import Claim, Record, Value
from kanrun.study import Claims, follow
from kanrun.study.build import Create, LearningProblem, factory, make_plan
from kanrun.study.evaluation import errors_by_split, relative_error, scores, truncation_notes
from kanrun.study.resources import generator
from kanrun.study.suite import claim_at_most, value_range


@dataclass(frozen=True)
class Training:
    """Input of one training; `why` explains its solver, and `create` makes new networks."""

    problem: LearningProblem
    plan: Plan
    create: Create
    why: str = ""

    @classmethod
    def of(cls, model: Any, solver: Any, problem: LearningProblem, **changes: Any) -> Training:
        """Return the training of a model on a problem; `changes` replace fields of its plan.

        Raises:
            UsageError: For settings that do not fit the problem or each other.
        """
        plan, why = make_plan(model, solver, problem)
        return cls(problem, replace(plan, **changes), factory(model, problem, plan.solver), why)

    def events(self, seed: int, state: TrainingState | None = None) -> Events[Event, None, Trained]:
        """Train from `state` on: yield what happens, and return the result."""
        draws = generator(seed, "training")
        return train(self.create, self.problem.data, self.plan, draws, state)


def nothing(event: Event) -> Iterable[Record]:
    """Return no records of an event."""
    return ()


def train_and_record(
    training: Training,
    seed: int,
    records_of: Callable[[Event], Iterable[Record]] = nothing,
    state: TrainingState | None = None,
) -> Events[Record, None, Trained]:
    """Train from `state` on and return the result; yield records of the events, and warnings."""
    trained = yield from follow(training.events(seed, state), records_of)
    yield from truncation_notes(trained)
    return trained


def network_columns(problem: LearningProblem, network: Network) -> dict[str, Value]:
    """Return the columns of every summary on what was learned, and the network with its size."""
    return {
        "target": problem.dataset.target.name,
        "model": network.kind,
        "shape": network.shape_text,
        "train_points": len(problem.data.everything),
        "intervals": network.intervals,
        "parameters": network.count(),
    }


def summary_of(problem: LearningProblem, trained: Trained) -> dict[str, Value]:
    """Return the columns of a training's summary: the network, its errors, scores, seconds."""
    network = trained.network
    return {
        **network_columns(problem, network),
        **errors_by_split(trained.errors),
        "relative_error": relative_error(trained.errors.reported, problem.dataset),
        **scores(network, problem),
        "seconds": trained.seconds,
    }


def claims_by(
    rows: pd.DataFrame,
    sentence: str,
    column: str,
    bound: str | float,
    claim: Callable[..., Claim] = claim_at_most,
    measure: Callable[[pd.Series], float] | None = None,
    of: str = "seeds",
) -> Claims:
    """Yield one claim on a column for each group of rows, in the order of the rows.

    Args:
        rows: The measured rows.
        sentence: The claim. `{name}` stands for the value of the column `name`; rows that agree in
            all columns that the sentence names are a group.
        column: Column of the measured values.
        bound: The bound, or the column that holds it.
        claim: Whether the bound is the largest or the smallest value that is allowed.
        measure: Value of a group that counts, such as its median; None counts all of them.
        of: What the values belong to.
    """
    keys = list(dict.fromkeys(name for _, name, *_ in Formatter().parse(sentence) if name))
    groups: Any = rows.groupby(keys, sort=False) if keys else [((), rows)] * bool(len(rows))
    for key, group in groups:
        values = group[column].astype(float)
        limit = float(group[bound].iloc[0]) if isinstance(bound, str) else bound
        measured = measure(values) if measure else values
        text = sentence.format(**dict(zip(keys, key, strict=True)))
        yield claim(text, measured, limit, value_range(values, of))
