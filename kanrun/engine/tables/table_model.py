"""The model of `model=auto`: candidates fitted by evidence, compared, as one KAN.

The stack of candidates is fitted to scores of the inputs. Next to it stand the linear model in the
user's units, the sparse fit and, for one output of numbers, the stack for the transformed output,
which is blended with the first in the user's units. The linear model is selected unless the blend
predicts held-out rows significantly better. Each fold holds rows out, repeats all of this without
them - scores, variances, jumps, stack, transform, selection - and predicts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from scipy.special import softmax

from kanrun.engine.networks import KAN
from kanrun.engine.tables.cross_validation import (
    BLEND,
    LINEAR,
    MEAN,
    SPARSE,
    STACK,
    TRANSFORMED,
    CandidateSelection,
    Choice,
    FoldFit,
    Folding,
    Folds,
    assign_folds,
)
from kanrun.engine.tables.design import CURVATURES
from kanrun.engine.tables.gaussian_process import INTERVALS
from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs
from kanrun.engine.tables.repeated_rows import merge_copies
from kanrun.engine.tables.scores import (
    LINEAR_MARGIN,
    MARGIN,
    ROOM,
    STRAIGHT_ROOM,
    PowerTransform,
    error_quantiles,
    input_scores,
    link_map,
    output_map,
)
from kanrun.engine.tables.stacking import RowLogits, fit_likelihood, fit_numbers, probabilities
from kanrun.engine.tables.table_candidates import JUMPS, NEIGHBOURHOODS
from kanrun.engine.tables.table_fit import TableFit
from kanrun.engine.tables.to_kan import OUTER_INTERVALS, add_offset, blend, table_outputs, to_kan
from kanrun.engine.tables.variance_components import TablePolicy
from kanrun.points import Family, PiecewiseScaling, Points

_PLAIN_POWER = 0.15  # distance from 1 of a power that is not worth a transform
_MIN_FREQUENCY = 1e-12  # of a class without rows, so that its logit is finite
_LINK_NOISE = 0.3  # in logits or links, compared with which a hidden node is small
_EXPOSURE_ROOM = 1e3  # factor by which exposures may leave those of the training rows
_LINEAR_LINK_MARGIN = 1.0  # of the range of links, to which straight lines continue


@dataclass(frozen=True, eq=False)
class BlendPart:
    """A candidate with its weight in a blend, and the maps between its units and the user's.

    `outputs` is None for classes; `left_out` (rows, outputs) is in the user's units.
    """

    name: str
    inputs: PiecewiseScaling
    outputs: PiecewiseScaling | None
    fit: TableFit
    left_out: ndarray
    weight: float = 1.0

    def in_units(self, raw: RowLogits) -> RowOutputs:
        """Return outputs in the user's units, or probabilities."""
        return probabilities(raw) if self.outputs is None else self.outputs.invert(raw)

    @property
    def alone(self) -> BlendPart:
        """Part without what only reports and refits need: rows, errors and posteriors."""
        few = replace(self.fit, u=self.fit.u[:0], left_out=self.fit.left_out[:0], sparse=None)
        return replace(self, left_out=self.left_out[:0], fit=replace(few, posteriors={}))

    def predict(self, x: RowInputs) -> RowOutputs:
        """Predict without building a network."""
        return self.in_units(self.fit.raw(self.fit.design.functions(self.inputs.apply(x))))


@dataclass(frozen=True, eq=False)
class TableModel:
    """A fitted table: a network over scores of the inputs, and the maps to the user's units.

    Attributes:
        outputs: Map of the outputs; None for classes.
        parts: The selected candidate, or the two parts of a blend, the larger first.
        stack: The stack, whether selected or not.
        family: Distribution of the outputs, with the dispersion of held-out rows.
        selected: `stack`, `sparse`, `linear`, `mean`, `transformed` or `blend`.
        left_out: Predictions (rows, outputs) of training rows by models without them.
        different: Indices of training rows, without copies of others.
    """

    network: KAN
    inputs: PiecewiseScaling
    outputs: PiecewiseScaling | None
    parts: tuple[BlendPart, ...]
    stack: BlendPart
    family: Family
    selected: str
    left_out: ndarray
    folds: Folds | None
    different: ndarray

    @property
    def fit(self) -> TableFit:
        """Fit of the larger part."""
        return self.parts[0].fit

    @property
    def held_out(self) -> ndarray:
        """Predictions (rows, outputs) of the folds; without folds, of rows left out one by one."""
        return self.left_out if self.folds is None else self.folds.values

    def raw(self, x: RowInputs) -> RowOutputs:
        """Return the network's outputs: logits, or numbers in its own units."""
        return table_outputs(self.network, self.inputs.apply(x))

    def predict(self, x: RowInputs) -> RowOutputs:
        """Return predictions in the user's units, or probabilities of classes."""
        raw = self.raw(x)
        return np.asarray(softmax(raw, 1)) if self.outputs is None else self.outputs.invert(raw)

    def clipped_fraction(self, x: RowInputs) -> float:
        """Return the fraction of rows whose prediction is clipped to the allowed range."""
        if self.outputs is None:
            return 0.0
        raw, low, high = self.raw(x), *np.transpose([e[[0, -1]] for e in self.outputs.values])
        return float(((raw < low) | (raw > high)).any(1).mean())

    def repeated(self, place: Int[ndarray, " rows"]) -> TableModel:
        """Return the model of rows that are copies of the training rows in these places."""
        left_out, folds = self.left_out[place], self.folds
        if folds is not None:
            folds = replace(folds, values=folds.values[place], number=folds.number[place])
        different = np.unique(place, return_index=True)[1]
        return replace(self, left_out=left_out, folds=folds, different=different)

    def error_quantiles(self, y: RowOutputs, levels: ndarray) -> ndarray | None:
        """Return predictions and quantiles of the errors there, over held-out rows.

        Both are in the network's units; with a link errors are normal scores. The shape is
        (outputs, bins, 1 + levels), see `scores.error_quantiles`; None for classes. The levels are
        stretched for the finite number of rows.
        """
        if self.outputs is None:
            return None
        inside = self.different[~np.isnan(self.held_out[self.different, 0])]
        y, held_out = y[inside], self.held_out[inside]
        predicted = self.outputs.apply(held_out)
        errors, count = self.outputs.apply(y) - predicted, max(len(y), 1)
        # Means without a row fall as its output rises: their order would be that of the errors.
        rises = ((held_out - held_out.mean(0)) * (y - y.mean(0))).sum(0) > 0
        predicted = np.where(rises, predicted, predicted.mean(0))
        if self.family.has_link:
            errors = self.family.normal_scores(y[:, 0], held_out[:, 0])[:, None]
        stretched = np.clip(0.5 + (levels - 0.5) * (count + 1) / count, 0, 1)
        pairs = zip(predicted.T, errors.T, strict=True)
        return np.stack([error_quantiles(*pair, stretched) for pair in pairs])

    def with_exposure(self, place: int, exposures: PerRow) -> TableModel:
        """Return the model of outputs in proportion to a further input, at `place`.

        `exposures` are its values in the training rows. The parts remain those of rates.
        """
        assert self.outputs is not None  # An invariant: counts and sizes are numbers.
        ends = np.log([exposures.min() / _EXPOSURE_ROOM, exposures.max() * _EXPOSURE_ROOM])
        means = link_map(self.family, self.outputs.values[0][[0, -1]] + ends, margin=0.0)
        logs = link_map(self.family, ends, margin=0.0)
        points, values = ([*each] for each in (self.inputs.points, self.inputs.values))
        points.insert(place, logs.points[0])
        values.insert(place, logs.values[0])
        scale, folds = exposures[:, None], self.folds
        return replace(
            self,
            network=add_offset(self.network, place, tuple(ends)),
            inputs=PiecewiseScaling(tuple(points), tuple(values)),
            outputs=means,
            left_out=self.left_out * scale,
            folds=folds and replace(folds, values=folds.values * scale),
        )


def fit_table(
    points: Points, classes: int | None, policy: TablePolicy | None = None, seed: int = 0
) -> TableModel:
    """Fit the model of these training rows, of which copies count as one measurement.

    `classes` is the number of classes that y numbers, None for numbers.
    """
    policy = policy or TablePolicy()
    different, place = merge_copies(points)
    model = _fitted(different, Family(policy.family, classes), policy, seed)
    return model if len(different) == len(points) else model.repeated(place)


def _fitted(points: Points, family: Family, policy: TablePolicy, seed: int) -> TableModel:
    """Fit the candidates, select one of them or a blend, and build its network."""
    every = {one.name: one for one in _candidates(points, family, policy)}
    left_out = {name: one.left_out for name, one in every.items()}
    rows, folds = np.arange(len(points)), None
    compared = CandidateSelection(points, family, [left_out], rows, policy.robust)
    if policy.folds > 1 and len(points) >= 2 * policy.folds:
        # Whether jumps are searched for is decided by the number of all rows.
        few = replace(policy, jump_rows=0) if len(points) >= policy.jump_rows else policy

        def fit(some: Points) -> FoldFit:
            found = [*_candidates(some, family, few)]
            return {x.name: x.left_out for x in found}, {x.name: x.alone.predict for x in found}

        number = assign_folds(points, policy.folds, seed, family, single=policy.single_fold)
        folding = Folding(points, family, policy.robust, fit, number)
        compared, folds = folding.cross_validated(compared)
    choice = compared.select()
    held_out = choice.of(compared.predictions[-1])
    model = _assemble(every, choice, held_out, folds, family, policy)
    if family.has_link and not family.classes:
        known = family.with_dispersion(points.y, model.held_out, points.shares)
        model = replace(model, family=known)
    return model


def _candidates(points: Points, family: Family, policy: TablePolicy) -> Iterator[BlendPart]:
    """Yield the stack, the sparse fit, the transformed stack if it applies, lines and the mean."""
    x, y, weights, extrapolation = points.x, points.y, points.shares, policy.extrapolation
    # Bells do not continue as straight lines beyond the rows.
    local = policy.pairs and extrapolation not in ("linear", "zero")
    wanted = {"pairs": policy.pairs, NEIGHBOURHOODS: local, JUMPS: local}
    stack = replace(policy, candidates=tuple(n for n in policy.candidates if wanted.get(n, True)))
    smooth = tuple(name for name in stack.candidates if name != JUMPS)
    lines = replace(policy, candidates=(LINEAR,), functions=1, step_functions=0)
    bent = [j for j, shape in policy.shapes if shape in CURVATURES]
    room = {"linear": STRAIGHT_ROOM, "constant": 0.0}.get(extrapolation, ROOM)
    scores = input_scores(x, weights, straight=bent, room=room)

    def fitted(
        name: str, inputs: PiecewiseScaling, transform: PowerTransform | None = None
    ) -> BlendPart:
        evidence = {
            LINEAR: lines,
            TRANSFORMED: replace(stack, sparse_rounds=0, candidates=smooth),
        }.get(name, stack)
        u = inputs.apply(x)
        if family.has_link:
            fit, outputs = fit_likelihood(u, y, family, evidence, weights), None
            if not family.classes:
                highest = float(family.link(y.max())) if family.is_log else np.inf
                wide = name == LINEAR or extrapolation == "linear"
                margin = _LINEAR_LINK_MARGIN if wide else MARGIN
                outputs = link_map(family, fit.left_out, highest=highest, margin=margin)
        else:
            t = y if transform is None else transform.apply(y)
            fit = fit_numbers(u, t, evidence, weights)
            margin = LINEAR_MARGIN if name == LINEAR else MARGIN
            outputs = output_map(
                y,
                transform,
                (t - fit.left_out)[:, 0],
                margin=np.inf if extrapolation == "linear" else margin,
                bounds=policy.bounds,
            )
        part = BlendPart(name, inputs, outputs, fit, fit.left_out)
        return replace(part, left_out=part.in_units(fit.left_out))

    whole = fitted(STACK, scores)
    yield whole
    if not policy.alternatives:
        return
    if (sparse := whole.fit.sparse) is not None:
        yield replace(whole, name=SPARSE, fit=sparse, left_out=whole.in_units(sparse.left_out))
    if not (family.has_link or bent) and y.shape[1] == 1:
        transform = PowerTransform.of(y[:, 0])
        if transform and abs(transform.power - 1) > _PLAIN_POWER:
            yield fitted(TRANSFORMED, scores, transform)
    room = 0.0 if extrapolation == "constant" else STRAIGHT_ROOM
    lines_fit = fitted(LINEAR, input_scores(x, weights, straight=range(x.shape[1]), room=room))
    yield lines_fit
    yield _constant(lines_fit, points, family)


def _constant(lines: BlendPart, points: Points, family: Family) -> BlendPart:
    """Return the mean of the outputs, or the frequencies of the classes, in the form of `lines`."""
    shares, y, classes = points.shares[:, None], points.y, family.classes
    values = y if classes is None else np.eye(classes)[y[:, 0].astype(int)]
    total, rows = (shares * values).sum(0), shares.sum()
    others = (total - shares * values) / (rows - shares)
    base = total / rows
    if classes:
        base = np.log(np.maximum(base, _MIN_FREQUENCY))
        base = base[1:] - base[:1] if classes == 2 else base
    elif family.has_link:
        base = family.link(base)
    fit = replace(lines.fit.times(0.0, base), weights={MEAN: 1.0})
    return replace(lines, name=MEAN, fit=fit, left_out=others)


def _assemble(
    every: Mapping[str, BlendPart],
    choice: Choice,
    left_out: ndarray,
    folds: Folds | None,
    family: Family,
    policy: TablePolicy,
) -> TableModel:
    """Build the network of what was selected."""
    parts, networks, intervals = [], [], None
    if choice.name == BLEND:
        designs = [every[name].fit.design for name in choice.weights]
        bells = any(one.radial or one.jumps for one in designs)
        intervals = INTERVALS if bells else OUTER_INTERVALS
    for name, weight in sorted(choice.weights.items(), key=lambda pair: -pair[1]):
        fit = every[name].fit
        fit = fit.times(choice.amount) if family.classes else fit
        parts.append(replace(every[name], weight=weight, fit=fit))
        network = to_kan(
            fit,
            policy,
            noise=np.minimum(fit.noise, _LINK_NOISE) if family.has_link else None,
            split=family.classes == 2,
            outer_intervals=intervals,
            extrapolation="zero" if policy.extrapolation == "zero" else "linear",
        )
        networks.append(network)
    first = every[STACK if choice.name == BLEND else choice.name]
    if len(parts) > 1:
        maps = [(o.values[0], p.weight * o.points[0]) for p in parts if (o := p.outputs)]
        network = blend(networks, maps)
    return TableModel(
        network,
        first.inputs,
        first.outputs,
        tuple(parts),
        every[STACK],
        family,
        choice.name,
        left_out,
        folds,
        np.arange(len(left_out)),
    )
