"""Functions that experiments share for training, summaries and claims.

`Training.of` turns a model, a solver and a problem into a plan and a factory of networks.
`train_and_record` trains and yields records and warnings. `summary_of` returns the columns that
every summary has, and `claims_by` makes one claim per group of rows.
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
from kanrun.model.planning import Create, LearningProblem, factory, make_plan
from kanrun.runs.records import Claim, Record, Value
from kanrun.study import Claims
from kanrun.study.evaluation import errors_by_split, relative_error, scores, truncation_notes
from kanrun.study.resources import generator
from kanrun.study.suite import claim_at_most, value_range


@dataclass(frozen=True)
class Training:
    """Everything that a training run needs: problem, plan, and a function that creates networks.

    `create` makes a new random network; `why` explains the choice of the solver.
    """

    problem: LearningProblem
    plan: Plan
    create: Create
    why: str = ""

    @classmethod
    def of(cls, model: Any, solver: Any, problem: LearningProblem, **changes: Any) -> Training:
        """Return the training of `model` on `problem`; `changes` replace fields of its plan.

        Raises:
            UsageError: If settings conflict with the problem or with each other.
        """
        plan, why = make_plan(model, solver, problem)
        return cls(problem, replace(plan, **changes), factory(model, problem, plan.solver), why)

    def events(self, seed: int, state: TrainingState | None = None) -> Events[Event, None, Trained]:
        """Train, continuing from `state` if there is one. Yield the events; return the result."""
        draws = generator(seed, "training")
        return train(self.create, self.problem.data, self.plan, draws, state)


def train_and_record(
    training: Training,
    seed: int,
    records_of: Callable[[Event], Iterable[Record]] | None = None,
    state: TrainingState | None = None,
) -> Events[Record, None, Trained]:
    """Train, continuing from `state` if there is one.

    For each event, yield the records that `records_of` returns for it, if given. At the end, yield
    warnings, and return the trained network with its errors.
    """
    events = training.events(seed, state)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            trained: Trained = end.value
            yield from truncation_notes(trained)
            return trained
        if records_of is not None:
            yield from records_of(event)


def network_columns(problem: LearningProblem, network: Network) -> dict[str, Value]:
    """Return the summary columns that describe the target, the network and its size."""
    return {
        "target": problem.dataset.target.name,
        "model": network.kind,
        "shape": network.shape_text,
        "train_points": len(problem.data.everything),
        "intervals": network.intervals,
        "parameters": network.count(),
    }


def summary_of(problem: LearningProblem, trained: Trained) -> dict[str, Value]:
    """Return the summary columns of a training run: network, RMSEs, scores and seconds."""
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
    """Yield one claim about the values in `column` for each group of rows.

    Groups come in the order of their first rows.

    Args:
        rows: Rows with measured values.
        sentence: Text of the claim. `{name}` is replaced by the group's value in the column `name`.
            Rows with equal values in all these columns form a group; without any, all rows do.
        column: Name of the column of measured values.
        bound: The bound, or the name of the column that holds it.
        claim: `claim_at_most` or `claim_at_least`.
        measure: Function that reduces the values of a group to one number, such as their median.
            That number must satisfy the bound. If `measure` is None, every value must satisfy the
            bound.
        of: Plural noun for what the values belong to, such as "seeds" in "over 5 seeds".
    """
    keys = list(dict.fromkeys(name for _, name, *_ in Formatter().parse(sentence) if name))
    groups: Any = rows.groupby(keys, sort=False) if keys else [((), rows)] * bool(len(rows))
    for key, group in groups:
        values = group[column].astype(float)
        limit = float(group[bound].iloc[0]) if isinstance(bound, str) else bound
        measured = measure(values) if measure else values
        text = sentence.format(**dict(zip(keys, key, strict=True)))
        yield claim(text, measured, limit, value_range(values, of))
