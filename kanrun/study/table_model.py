"""The model of a table that `model=auto` gives: candidates fitted by evidence, stacked, and made one KAN.

Beside the stack of straight lines, effects, steps and pairs over scores of the inputs stands the linear model in the
user's own units, and where the output is one number, the stack for the transformed output, which is blended with the
first in the user's units. Folds say how: each leaves rows out, fits everything anew without them - scores, evidence,
stack, transform - and predicts them. The linear model is taken unless the blend predicts left-out rows better by more
than chance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from kanrun.engine.evidence import (
    TableFit,
    all_logits,
    blended,
    fit_classes,
    fit_numbers,
    network_of,
)
from kanrun.engine.networks import KAN
from kanrun.engine.training import predict
from kanrun.monitoring import report_progress, time_limit_reached
from kanrun.study.table_policy import TablePolicy
from kanrun.targets import (
    PiecewiseScaling,
    Points,
    PowerTransform,
    input_scores,
    ordinary_units,
    output_map,
)

DEFAULT_POLICY = TablePolicy()
PLAIN_POWER = 0.15  # so near to 1 a transform changes nothing
CLASS_NOISE = 0.3  # in logits, beside which a hidden node of a classifier is small
LEAST_LIKELY = (
    1e-12  # probability, so that the logarithm of a class that a model excludes stays finite
)


@dataclass(frozen=True, eq=False)
class Folds:
    """Predictions of left-out rows by everything fitted without them: `values` (rows, outputs), NaN where none.

    `number` (rows,) is the fold that a row was left out of, -1 for none; `seconds` the CPU time of each fold's fit. The
    candidate that predicts the rows of one fold is chosen on the other folds, so that the errors are those of new rows.
    """

    values: ndarray
    number: ndarray
    seconds: ndarray


@dataclass(frozen=True, eq=False)
class Part:
    """A candidate, or with its `weight` one of a blend's, and the ways to and from the user's units (`outputs` is None
    for classes)."""

    name: str
    inputs: PiecewiseScaling
    outputs: PiecewiseScaling | None
    fit: TableFit
    left_out: ndarray
    weight: float = 1.0

    def values(self, x: ndarray) -> ndarray:
        """As `TableModel.values`, without building a network."""
        h = self.fit.design.functions(self.inputs.apply(x))
        raw = np.stack([one.values(h) for one in self.fit.terms], 1)
        return (
            np.asarray(softmax(all_logits(raw), 1))
            if self.outputs is None
            else self.outputs.invert(raw)
        )


@dataclass(frozen=True, eq=False)
class TableModel:
    """A fitted table: the network over scores, the maps to and from the user's units, and where it comes from.

    `chosen` names what was taken: `stack`, `sparse`, `linear`, `transformed` or `blend`, the weighted sum of the two
    `parts`, the larger first. `left_out` (rows, outputs) are predictions of the training rows without the row itself,
    in the user's units, probabilities for classes; from `folds` where there are.
    """

    network: KAN
    inputs: PiecewiseScaling
    outputs: PiecewiseScaling | None
    parts: tuple[Part, ...]
    chosen: str
    left_out: ndarray
    folds: Folds | None

    @property
    def fit(self) -> TableFit:
        """That of the larger part."""
        return self.parts[0].fit

    def raw(self, x: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows outputs"]:
        """The network's outputs: logits, or outputs before the way back to the user's units."""
        return predict(self.network, torch.as_tensor(self.inputs.apply(x))).double().numpy()

    def values(self, x: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows outputs"]:
        """Predictions in the user's units; probabilities for classes."""
        raw = self.raw(x)
        return np.asarray(softmax(raw, 1)) if self.outputs is None else self.outputs.invert(raw)

    def times(self, x: ndarray, y: ndarray) -> TableModel:
        """The model of inputs times 2^x (inputs,) and outputs times 2^y (outputs,); classes stay as they are."""
        inputs, folds = self.inputs.times(x), self.folds
        if self.outputs is None:
            return replace(self, inputs=inputs)
        parts = tuple(
            replace(one, outputs=one.outputs and one.outputs.times(y)) for one in self.parts
        )
        folds = folds and replace(folds, values=np.ldexp(folds.values, y))
        left_out = np.ldexp(self.left_out, y)
        return replace(
            self,
            inputs=inputs,
            outputs=self.outputs.times(y),
            parts=parts,
            left_out=left_out,
            folds=folds,
        )

    def clipped(self, x: Float[ndarray, "rows inputs"]) -> float:
        """The share of rows whose prediction was held at an end of the allowed range."""
        if self.outputs is None or not len(x):
            return 0.0
        raw, ends = self.raw(x), np.array([[v[0], v[-1]] for v in self.outputs.values])
        return float(np.any((raw < ends[:, 0]) | (raw > ends[:, 1]), axis=1).mean())


@dataclass(frozen=True)
class _Choice:
    """A candidate, or the blend; `amount` is the factor of a classifier's logits, or the share of `transformed`."""

    name: str
    amount: float = 1.0

    def of(self, predictions: Mapping[str, ndarray]) -> ndarray:
        """What it makes of the candidates' predictions in the user's units."""
        if self.name == "blend":
            return np.asarray(
                (1 - self.amount) * predictions["stack"] + self.amount * predictions["transformed"]
            )
        one = predictions[self.name]
        return (
            one
            if self.amount == 1
            else np.asarray(softmax(self.amount * np.log(np.maximum(one, LEAST_LIKELY)), 1))
        )


def fit_table(
    points: Points, classes: int | None, policy: TablePolicy = DEFAULT_POLICY, seed: int = 0
) -> TableModel:
    """The model of these training rows; `classes` is how many classes y numbers, None for numbers."""
    points, x, y = ordinary_units(points, classes, policy.scores)
    if y.any():
        least, most = (np.ldexp(end, -y) for end in policy.scores.bounds)
        policy = replace(policy, scores=replace(policy.scores, bounds=(least, most)))
    model = _fitted(points, classes, policy, seed)
    return model.times(x, y) if x.any() or y.any() else model


def _fitted(points: Points, classes: int | None, policy: TablePolicy, seed: int) -> TableModel:
    """As `fit_table`, of columns of ordinary size."""
    every = {one.name: one for one in _candidates(points, classes, policy)}
    predictions, inside, folds = (
        [{name: one.left_out for name, one in every.items()}],
        np.arange(len(points)),
        None,
    )
    if policy.folds > 1 and len(points) >= 2 * policy.folds:
        if (
            policy.one_fold
            or len(points) * (classes or 1) * points.x.shape[1] ** 2 > policy.fold_work
        ):
            policy = replace(policy, most_rows=0)
        found, number, seconds = _without_folds(points, classes, policy, seed, every)
        if (number >= 0).any():  # else the time was up before
            predictions.append(
                found
            )  # the first vary less, these see what lies beyond the other rows
            inside = np.flatnonzero(number >= 0)
            folds = Folds(np.full_like(next(iter(found.values())), np.nan), number, seconds)
            for k in range(number.max() + 1):
                others = inside[number[inside] != k]
                elsewhere = _choice(
                    points, classes, predictions, others if len(others) else inside, policy
                )
                folds.values[number == k] = elsewhere.of(found)[number == k]
    choice = _choice(points, classes, predictions, inside, policy)
    return _assembled(every, choice, choice.of(predictions[-1]), folds, classes, policy)


def _assembled(
    every: Mapping[str, Part],
    choice: _Choice,
    left_out: ndarray,
    folds: Folds | None,
    classes: int | None,
    policy: TablePolicy,
) -> TableModel:
    """The network of what was chosen."""
    shares = (
        {"stack": 1 - choice.amount, "transformed": choice.amount}
        if choice.name == "blend"
        else {choice.name: 1.0}
    )
    parts = []
    for name, weight in sorted(shares.items(), key=lambda pair: -pair[1]):
        fit = every[name].fit
        parts.append(
            replace(every[name], weight=weight, fit=fit.times(choice.amount) if classes else fit)
        )
    local = any(one.fit.design.radial for one in parts)
    networks = [
        network_of(
            one.fit.terms,
            one.fit.design,
            one.fit.functions(),
            one.fit.noise if not classes else CLASS_NOISE,
            replace(policy.evidence, shapes=policy.shapes),
            split=classes == 2,
            hidden=len(parts) > 1,
            local=local,
            extrapolation="zero" if policy.extrapolation == "zero" else "linear",
        )
        for one in parts
    ]
    network = networks[0]
    if len(parts) > 1:
        maps = [
            (one.outputs.values[0], one.weight * one.outputs.points[0])
            for one in parts
            if one.outputs
        ]
        network = blended(networks, maps)
    first = every["stack" if choice.name == "blend" else choice.name]
    return TableModel(
        network, first.inputs, first.outputs, tuple(parts), choice.name, left_out, folds
    )


def _choice(
    points: Points,
    classes: int | None,
    predictions: Sequence[Mapping[str, ndarray]],
    rows: ndarray,
    policy: TablePolicy,
) -> _Choice:
    """The blend with the lowest loss on these rows, or another candidate.

    That is the sparse fit where it is better by more than chance on the last predictions, and the linear model where
    what is chosen is not better than it by more than chance.
    """

    def losses(choice: _Choice, seen: Sequence[Mapping[str, ndarray]] = predictions) -> ndarray:
        found = [row_losses(choice.of(one), points.y, classes)[rows] for one in seen]
        return np.asarray(np.mean([_robust(one, classes, policy) for one in found], axis=0))

    def factor(name: str) -> _Choice:
        found = minimize_scalar(
            lambda a: losses(_Choice(name, float(np.exp(a)))).sum() + a * a / 2,
            bounds=(-2, 2),
            method="bounded",
        )
        return _Choice(name, float(np.exp(found.x)))

    def chance(apart: ndarray, errors: float) -> float:
        return errors * float(apart.std() / np.sqrt(len(apart)))

    names = list(predictions[0])
    single = {name: factor(name) if classes and policy.lottery else _Choice(name) for name in names}
    best = single["stack"]
    if "transformed" in names:
        ends = {0: best, 1: single["transformed"]}
        share = float(
            minimize_scalar(
                lambda a: losses(_Choice("blend", a)).sum(), bounds=(0, 1), method="bounded"
            ).x
        )
        near = min(ends, key=lambda end: abs(end - share))
        best = ends[near] if abs(near - share) < policy.pure else _Choice("blend", share)
    if "sparse" in names:
        apart = losses(best, predictions[-1:]) - losses(single["sparse"], predictions[-1:])
        best = single["sparse"] if float(apart.mean()) > chance(apart, policy.sparser) else best
    if "linear" not in names:
        return best
    mine = losses(best)
    apart = losses(single["linear"]) - mine
    enough = min(chance(apart, policy.simpler), policy.negligible * float(mine.mean()))
    return single["linear"] if float(apart.mean()) <= enough else best


def folds_of(
    points: Points, policy: TablePolicy, seed: int, labels: ndarray | None = None
) -> ndarray:
    """The fold that each row is left out of, stratified by label; -1 for rows of a long table that never are.

    Groups stay together. Where rows are in time, folds are parts of it, each left out by the rows before it, and the
    first part never is.
    """
    rng, rows = np.random.default_rng([seed, 20_404]), len(points)
    if points.groups is not None:
        place = np.unique(points.groups, return_inverse=True)[1]
        if not points.forward:
            place = rng.permutation(place.max() + 1)[place]
        parts = min(policy.folds, int(place.max()) + 1 - points.forward)
        share = (
            (np.searchsorted(np.sort(place), place) / rows)
            if points.forward
            else place / (place.max() + 1)
        )
        number = np.floor(share * (parts + points.forward)).astype(int) - points.forward
        return (
            np.where(number < parts - 1, -1, 0)
            if points.forward and rows > policy.most_rows
            else number
        )
    order = rng.permutation(rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    number = np.empty(rows, dtype=int)
    number[order] = np.arange(rows) % min(policy.folds, rows)
    return np.where(number > 0, -1, number) if rows > policy.most_rows else number


def training_rows(points: Points, number: ndarray, fold: int) -> ndarray:
    """The rows that are fitted without a fold: all others, those before it where rows are in time."""
    if not points.forward or points.groups is None:
        return np.flatnonzero(number != fold)
    return np.flatnonzero(points.groups < points.groups[number == fold].min())


def row_losses(
    predicted: Float[ndarray, "rows outputs"], y: ndarray, classes: int | None
) -> Float[ndarray, " rows"]:
    """Of each row: the mean over outputs of squared errors in units of the output's variance, or log loss."""
    if classes:
        likely = predicted[np.arange(len(y)), y[:, 0].astype(int)]
        return np.asarray(-np.log(np.clip(likely, LEAST_LIKELY, 1)))
    spread = y.var(0)
    return np.asarray(((predicted - y) ** 2 / np.where(spread > 0, spread, 1.0)).mean(1))


def _robust(losses: ndarray, classes: int | None, policy: TablePolicy) -> ndarray:
    """Squared errors in units of the output's variance, those beyond the square of `robust` as their root grows."""
    most = policy.robust**2
    return (
        losses if classes else np.where(losses <= most, losses, 2 * np.sqrt(most * losses) - most)
    )


def _without_folds(
    points: Points, classes: int | None, policy: TablePolicy, seed: int, start: Mapping[str, Part]
) -> tuple[dict[str, ndarray], ndarray, ndarray]:
    """Each candidate's predictions of left-out rows (NaN where none), the fold of each row, and seconds per fold.

    Folds that do not begin before the time is up (`kanrun.monitoring`) are left out, their rows with number -1.
    """
    labels = points.y[:, 0].astype(int) if classes else None
    number = folds_of(points, policy, seed, labels)
    found = {name: np.full((len(points), classes or points.y.shape[1]), np.nan) for name in start}
    seconds: list[float] = []
    count = int(number.max()) + 1
    for k in range(count):
        report_progress("folds", k, count)
        if time_limit_reached():
            number = np.where(number >= k, -1, number)
            break
        held, before = np.flatnonzero(number == k), time.process_time()
        train = points.take(training_rows(points, number, k))
        for one in _candidates(train, classes, policy, start):
            found[one.name][held] = one.values(points.x[held])
        seconds.append(time.process_time() - before)
    return found, number, np.array(seconds)


def _candidates(
    points: Points,
    classes: int | None,
    policy: TablePolicy,
    start: Mapping[str, Part] | None = None,
) -> Iterator[Part]:
    """The stack, the sparse fit, where it may be chosen the stack for the transformed output, and the linear model."""
    x, y, weights = points.x, points.y, points.weights
    local = policy.pairs and policy.extrapolation not in (
        "linear",
        "zero",
    )  # beyond the rows bells are no straight lines
    wanted = {"pairs": policy.pairs, "neighbourhoods": local}
    kept = tuple(name for name in policy.evidence.candidates if wanted.get(name, True))
    bent = [j for j, shape in policy.shapes if shape in ("convex", "concave")]
    room = {"linear": policy.scores.straight_room, "constant": 0.0}.get(
        policy.extrapolation, policy.scores.room
    )
    scoring = replace(policy.scores, room=room, straight_room=room)
    base = replace(policy.evidence, shapes=policy.shapes)
    scores, stack = input_scores(x, scoring, weights, straight=bent), replace(base, candidates=kept)
    lines = replace(base, candidates=("linear",), functions=1, step_functions=0)

    def known(name: str) -> TableFit | None:
        return start[name].fit if start else None

    def numbers(
        name: str, inputs: PiecewiseScaling, t: ndarray, transform: PowerTransform | None
    ) -> Part:
        linear = name == "linear"
        evidence = (
            lines if linear else stack if transform is None else replace(stack, sparse_rounds=0)
        )
        fit = fit_numbers(inputs.apply(x), t, evidence, weights, known(name))
        clip = policy.extrapolation != "linear"  # the ends of the outputs
        margin = policy.scores.linear_margin if linear else policy.scores.margin
        outputs = output_map(
            y, transform, (t - fit.left_out)[:, 0], policy.scores, margin=margin if clip else np.inf
        )
        return Part(name, inputs, outputs, fit, outputs.invert(fit.left_out))

    def labels(name: str, inputs: PiecewiseScaling) -> Part:
        of, evidence = y[:, 0].astype(np.intp), lines if name == "linear" else stack
        fit = fit_classes(inputs.apply(x), of, classes or 0, evidence, weights, known(name))
        return Part(name, inputs, None, fit, np.asarray(softmax(all_logits(fit.left_out), 1)))

    whole = labels("stack", scores) if classes else numbers("stack", scores, y, None)
    yield whole
    if not policy.lottery:
        return
    if (sparse := whole.fit.sparse) is not None:
        outputs = whole.outputs
        left_out = (
            softmax(all_logits(sparse.left_out), 1)
            if outputs is None
            else outputs.invert(sparse.left_out)
        )
        yield Part("sparse", scores, outputs, sparse, np.asarray(left_out))
    if start is None or "transformed" in start:
        transform = (
            PowerTransform.of(y[:, 0]) if y.shape[1] == 1 and not (classes or bent) else None
        )
        if transform is not None and (start is not None or abs(transform.power - 1) > PLAIN_POWER):
            yield numbers("transformed", scores, transform.apply(y), transform)
    scoring = (
        replace(policy.scores, straight_room=0.0)
        if policy.extrapolation == "constant"
        else policy.scores
    )
    straight = input_scores(x, scoring, weights, straight=range(x.shape[1]))
    yield labels("linear", straight) if classes else numbers("linear", straight, y, None)
