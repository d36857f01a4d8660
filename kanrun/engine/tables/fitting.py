"""Fit a `TableModel` and the models of its folds.

The evidence of at most `EVIDENCE_ROWS` rows selects the kind of model, the kernel, the noise and
the exponent of the output. All rows then determine the coefficients. For each fold, both steps are
repeated without the rows of the fold.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from kanrun.engine.tables.encoder import CURVATURES, KINDS, Encoder, TablePolicy
from kanrun.engine.tables.evidence import EvidenceRows, fit_kernel
from kanrun.engine.tables.folds import Folds, Predict, assign_folds, training_rows
from kanrun.engine.tables.kernel import Centres, Kernel
from kanrun.engine.tables.likelihoods import Likelihood, Power
from kanrun.engine.tables.posterior import condition
from kanrun.engine.tables.reduced_basis import ReducedBasis, RowInputs
from kanrun.engine.tables.repeated_rows import merge_copies
from kanrun.engine.tables.scores import (
    LINEAR_MARGIN,
    MARGIN,
    link_map,
    output_map,
)
from kanrun.engine.tables.table_model import LatentFit, TableModel, in_units
from kanrun.monitoring import report_progress, time_limit_reached
from kanrun.points import Family, Points, deviation

#: Largest number of rows from which the kernel is estimated; twice as many take eight times as
#: long.
EVIDENCE_ROWS = 800
#: Smallest number of rows from which the kernel is estimated, however many inputs there are.
_FEWEST_EVIDENCE_ROWS = 200
#: Largest value of inputs x rows^2, the number of values that a step of the kernel search reads.
_EVIDENCE_WORK = 2e7
#: Number of inputs that take as much work as one additional output.
_OUTPUT_WORK = 10
#: Largest number of classes from which the kernel is estimated; the most frequent ones are used.
_EVIDENCE_CLASSES = 8
#: Largest number of centres of the radial parts.
_CENTRES = 1500
#: Number of centres for very large tables, for which more centres would be too expensive.
_FEWEST_CENTRES = 300
#: Number of rows among which centres are chosen.
_CANDIDATE_ROWS = 3000
#: Largest number of entries of the matrix of features (1 GiB).
_NUMBERS = 1.2e8
#: Largest number of multiplications of one Newton step for all classes.
_STEP_WORK = 8e10
#: With at least this many rows, the rows from which the kernel is estimated are in no fold, so that
#: all folds can use the same kernel.
_SHARED_ROWS = 4 * EVIDENCE_ROWS
#: A kind of model is preferred to the next simpler kind only if it increases the log evidence by at
#: least this much (a Bayes factor of 20).
_KIND_EVIDENCE = 3.0
#: Initial variance of the lines of a linear model.
_LINES = 0.3
#: Interquartile range of a normal distribution divided by its standard deviation. Before the power
#: transform, outputs are scaled by their interquartile range, so that long tails do not make most
#: of them small.
_NORMAL_QUARTILES = 1.349
#: Smallest scale of outputs, as a fraction of their standard deviation; it is needed if most
#: outputs are equal.
_LEAST_UNIT = 0.1
#: Prior variance that replaces a variance of 0 in the kernel.
_ABSENT = 1e-12
#: Margin of `link_map` for linear models and linear extrapolation. Within the margin, straight
#: lines continue.
_LINEAR_LINK_MARGIN = 1.0
#: Combined with the seed, so that the choice of rows does not share random numbers with folds.
_STREAM = 20_511


def fit_table(
    points: Points, classes: int | None, policy: TablePolicy | None = None, seed: int = 0
) -> TableModel:
    """Fit the automatic model to training rows.

    Args:
        points: Inputs and outputs; for classes, y holds the number of the class.
        classes: Number of classes; None if the outputs are numbers.
        policy: Settings of the model; by default `TablePolicy()`.
        seed: Seed for the choice of the rows that determine the kernel, and for the folds.

    Returns:
        The model in the user's units. It has no folds if `policy.folds` is less than 2, or if there
        are fewer than two different rows per fold.

    Source of the kernel and of its evidence: C. Rasmussen and C. Williams, Gaussian Processes for
    Machine Learning (2006), chapters 2, 3 and 5.
    """
    policy = policy or TablePolicy()
    different, place = merge_copies(points)
    family = Family(policy.family, classes).of_outputs(points.y)
    problem = _Problem(different, family, policy, seed)
    fit = problem.fit(different)
    has_folds = policy.folds > 1 and len(different) >= 2 * policy.folds
    model = problem.model(different, fit, problem.folds(fit) if has_folds else None)
    return model if len(different) == len(points) else model.repeated(place)


class _Learned(NamedTuple):
    """Encoder, kernel and likelihoods with the largest evidence on the rows in `sample`."""

    encoder: Encoder
    kernel: Kernel
    likelihoods: list[Likelihood]
    sample: EvidenceRows


@dataclass(frozen=True, eq=False)
class _Problem:
    """A table and the settings of its model."""

    points: Points
    family: Family
    policy: TablePolicy
    seed: int

    def fit(self, points: Points, known: LatentFit | None = None) -> LatentFit:
        """Fit the latent functions to `points`.

        If `known` is given, the input transformations, the kernel and the centres are taken from
        `known`. Only the coefficients, their scale and the dispersion are then fitted.
        """
        weights = points.shares
        if known is None:
            rows = self._order(len(points))[: self._evidence_rows(len(points))]
            encoder, kernel, likelihoods, sample = self._kernel(points, rows)
        else:
            encoder = known.encoder
            kernel = known.kernel
            sample = known.sample
            likelihoods = [each.likelihood for each in known.outputs]
            rows = np.arange(0)
        u = encoder.inputs.apply(points.x)
        noise = min(each.dispersion for each in likelihoods)
        centres = known.centres if known else self._centres(encoder, kernel, u, noise)
        likelihoods = [
            replace(old, y=new.y, weights=weights)
            for old, new in zip(likelihoods, self._likelihoods(points), strict=True)
        ]
        radial = centres.features(encoder.radial(u))
        features = np.concatenate([encoder.functions(u), radial], 1)
        prior = np.ones(features.shape[1])
        variances = (kernel.curves, kernel.lines)
        prior[: len(encoder.basis.column)] = np.maximum(variances, _ABSENT)[
            encoder.is_line.astype(int)
        ]
        constraints = encoder.constraints
        if constraints is not None:
            extra = features.shape[1] - constraints.shape[1]
            constraints = np.pad(constraints, ((0, 0), (0, extra)))
        rescale = len(rows) < len(points)
        outputs = condition(features, prior, likelihoods, rescale=rescale, constraints=constraints)
        return LatentFit(encoder, kernel, centres, tuple(outputs), sample)

    def _order(self, rows: int) -> Int[ndarray, " rows"]:
        return np.random.default_rng([self.seed, _STREAM]).permutation(rows)

    def _evidence_rows(self, rows: int) -> int:
        outputs = min(self._outputs, _EVIDENCE_CLASSES)
        work = self.points.x.shape[1] + _OUTPUT_WORK * (outputs - 1)
        most = max(_FEWEST_EVIDENCE_ROWS, int(np.sqrt(_EVIDENCE_WORK / work)))
        return min(rows, most, EVIDENCE_ROWS)

    @property
    def _outputs(self) -> int:
        classes = self.family.classes
        return self.points.y.shape[1] if not classes else 1 if classes == 2 else classes

    def _likelihoods(self, points: Points) -> list[Likelihood]:
        """Return the likelihood of each output, or of each class against the others."""
        y = points.y
        weights = points.shares
        family = self.family
        if family.classes:
            first = 1 if family.classes == 2 else 0
            every = [(y[:, 0] == k).astype(float) for k in range(first, family.classes)]
            return [Likelihood(family, each, weights, Power(1.0, 0.0)) for each in every]
        if family.has_link:
            return [Likelihood(family, y[:, 0], weights, Power(1.0, 0.0))]
        std = np.array(deviation(y, weights))
        quartiles = np.quantile(y, [0.25, 0.75], axis=0)
        units = np.maximum(np.ptp(quartiles, axis=0) / _NORMAL_QUARTILES, _LEAST_UNIT * std)
        units = np.where(units > 0, units, 1.0).tolist()
        return [
            Likelihood(family, each, weights, Power(unit, float(np.median(each / unit))))
            for each, unit in zip(y.T, units, strict=True)
        ]

    def _kernel(self, points: Points, rows: ndarray) -> _Learned:
        """Return the kernel with the largest evidence on these rows.

        Each kind of model is tried. A kind is preferred to a simpler one only if its log evidence
        is larger by at least `_KIND_EVIDENCE` for each step in `KINDS`.
        """
        found = [self._searched(points, rows, kind) for kind in KINDS]
        gains = [
            each.sample.log_evidence(each.kernel) - place * _KIND_EVIDENCE
            for place, each in enumerate(found)
        ]
        return found[int(np.argmax(gains))]

    def _searched(self, points: Points, rows: ndarray, kind: str) -> _Learned:
        encoder = Encoder.of(points.x, points.shares, self.policy, kind)
        u = encoder.inputs.apply(points.x[rows])
        functions = encoder.functions(u)
        every = self._likelihoods(points.take(rows))
        frequent = list(range(len(every)))
        if len(every) > _EVIDENCE_CLASSES and self.family.classes:
            frequent.sort(key=lambda k: -float(every[k].y.sum()))
            frequent = frequent[:_EVIDENCE_CLASSES]
        is_local = self.policy.is_local and kind == "full"
        taking_part = np.full(u.shape[1], is_local) & (np.ptp(u, axis=0) > 0)
        exposure = self.policy.exposure
        additive = [j for j, _ in self.policy.shapes] + [exposure] * (exposure is not None)
        taking_part[additive] = False
        sample = EvidenceRows(
            encoder.radial(u),
            functions[:, encoder.is_line],
            functions[:, ~encoder.is_line],
            [every[k] for k in frequent],
            taking_part,
        )
        if kind == "full":
            bent = any(shape in CURVATURES for _, shape in self.policy.shapes)
            kernel, found = fit_kernel(sample, powers=not bent)
            encoder, sample = _with_needed_curves(encoder, kernel, replace(sample, outputs=found))
        else:
            kernel, found = _fit_lines(sample)
        for place, likelihood in zip(frequent, found, strict=True):
            every[place] = likelihood
        return _Learned(encoder, kernel, every, replace(sample, outputs=found))

    def _centres(self, encoder: Encoder, kernel: Kernel, u: RowInputs, noise: float) -> Centres:
        rows = len(u)
        affordable = min(_NUMBERS / rows, np.sqrt(_STEP_WORK / rows / self._outputs))
        most = int(np.clip(affordable, _FEWEST_CENTRES, _CENTRES))
        among = self._order(rows)[:_CANDIDATE_ROWS]
        return Centres.of(kernel, encoder.radial(u[np.sort(among)]), most, noise)

    def folds(self, whole: LatentFit) -> Folds | None:
        """Predict the rows of each fold by a model that was fitted without these rows.

        `whole` are the latent functions fitted to all rows. Folds that would begin after the time
        limit are omitted. If no fold is left, the result is None.
        """
        points = self.points
        policy = self.policy
        number = assign_folds(
            points, policy.folds, self.seed, self.family, single=policy.single_fold
        )
        shared = len(points) >= _SHARED_ROWS and points.groups is None
        if shared:
            number[self._order(len(points))[: self._evidence_rows(len(points))]] = -1
        values = np.full((len(points), self.family.classes or points.y.shape[1]), np.nan)
        count = int(number.max()) + 1
        seconds = list[float]()
        predict = list[Predict]()
        for k in range(count):
            report_progress("folds", k, count)
            if time_limit_reached():
                number = np.where(number >= k, -1, number)
                break
            before = time.process_time()
            train = points.take(training_rows(points, number, k))
            model = self.model(train, self.fit(train, whole if shared else None), None)
            values[number == k] = model.predict(points.x[number == k])
            seconds.append(time.process_time() - before)
            predict.append(partial(TableModel.predict, model))
        return Folds(values, number, np.array(seconds), predict) if predict else None

    def model(self, points: Points, fit: LatentFit, folds: Folds | None) -> TableModel:
        """Return the model in the user's units, whose latent functions are `fit` (on `points`)."""
        policy = self.policy
        family = self.family
        outputs = None
        left_out = fit.left_out
        is_wide = policy.extrapolation == "linear"
        is_straight = fit.kind != "full"
        if family.has_link and not family.classes:
            highest = float(family.link(points.y.max())) if family.is_log else np.inf
            margin = _LINEAR_LINK_MARGIN if is_wide or is_straight else MARGIN
            outputs = link_map(family, left_out, highest=highest, margin=margin)
        elif not family.classes:
            powers = [each.likelihood.power for each in fit.outputs]
            residuals = [
                each.likelihood.power.apply(each.likelihood.y) - each.left_out
                for each in fit.outputs
            ]
            margin = np.inf if is_wide else LINEAR_MARGIN if is_straight else MARGIN
            outputs = output_map(
                np.stack([each.likelihood.y for each in fit.outputs], 1),
                powers,
                np.stack(residuals, 1),
                margin=margin,
                bounds=policy.bounds,
            )
        model = TableModel(
            fit,
            family,
            outputs,
            fit.encoder.inputs.apply(points.x),
            in_units(left_out, outputs),
            folds,
            policy,
            np.arange(len(points)),
        )
        if not family.has_link or family.classes:
            return model
        known = family.with_dispersion(points.y, model.held_out, points.shares)
        return replace(model, family=known)


def _with_needed_curves(
    encoder: Encoder, kernel: Kernel, sample: EvidenceRows
) -> tuple[Encoder, EvidenceRows]:
    """Remove the curves of every input whose curves lower the evidence.

    Otherwise, the common variance of all curves would make the effects of these inputs wiggly.

    Returns:
        The encoder and the sample of rows, both without these curves.
    """
    basis = encoder.basis
    column = basis.column[~encoder.is_line]
    bent = np.unique(column)
    is_needed = sample.is_needed(kernel, [np.flatnonzero(column == j) for j in bent])
    kept = ~np.isin(column, bent[~np.array(is_needed, dtype=bool)])
    functions = encoder.is_line.copy()
    functions[~encoder.is_line] = kept
    fewer = ReducedBasis(
        basis.breakpoints,
        basis.coefficients[functions],
        basis.column[functions],
        basis.order[functions],
    )
    return replace(encoder, basis=fewer), replace(sample, curves=sample.curves[:, kept])


def _fit_lines(rows: EvidenceRows) -> tuple[Kernel, list[Likelihood]]:
    """Return the kernel of a linear or constant model, and the likelihoods.

    The variance of the lines is estimated from each output; the kernel has the geometric mean of
    these estimates.
    """
    prior = np.full(rows.lines.shape[1], _LINES)
    found = [condition(rows.lines, prior, [each], rescale=True)[0] for each in rows.outputs]
    variance = _LINES * float(np.exp(np.mean([np.log(each.scale) for each in found])))
    rates = np.zeros(len(rows.taking_part))
    return Kernel(rates, rates, variance, 0.0, 0.0, 0.0), [each.likelihood for each in found]
