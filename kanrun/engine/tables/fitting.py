"""Fit a `TableModel` and the models of its folds.

The evidence of at most `EVIDENCE_ROWS` rows selects the kind of model, the kernel, the noise and
the exponent of the output. All rows then determine the coefficients. For each fold, both steps are
repeated without the rows of the fold.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from kanrun.engine.tables.encoder import (
    KINDS,
    LINEAR_MARGIN,
    MARGIN,
    Encoder,
    TablePolicy,
    link_map,
    output_map,
)
from kanrun.engine.tables.evidence import Centres, EvidenceRows, Kernel, fit_kernel
from kanrun.engine.tables.folds import Folds, Predict, assign_folds, merge_copies, training_rows
from kanrun.engine.tables.likelihoods import Likelihood, Power
from kanrun.engine.tables.posterior import condition
from kanrun.engine.tables.table_model import LatentFit, TableModel, in_units
from kanrun.monitoring import report_progress, time_limit_reached
from kanrun.points import Family, PiecewiseScaling, Points, deviation

#: Largest number of rows from which the kernel is estimated; twice as many take eight times as
#: long.
EVIDENCE_ROWS = 800
#: Largest number of classes from which the kernel is estimated; the most frequent ones are used.
_EVIDENCE_CLASSES = 8
#: With at least this many rows, the rows from which the kernel is estimated are in no fold, so that
#: all folds can use the same kernel.
_SHARED_ROWS = 4 * EVIDENCE_ROWS


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
        The model in the user's units. Rows are left out one at a time, without folds, if
        `policy.folds` is less than 2, or if there are fewer than two different rows per fold.

    Source of the kernel and of its evidence: C. Rasmussen and C. Williams, Gaussian Processes for
    Machine Learning (2006), chapters 2, 3 and 5.
    """
    policy = policy or TablePolicy()
    different, place = merge_copies(points)
    family = Family(policy.family, classes).of_outputs(points.y)
    problem = _Problem(different, family, policy, seed)
    model = problem.model(different)
    if policy.folds > 1 and len(different) >= 2 * policy.folds:
        model = replace(model, folds=problem.folds(model))
    if family.has_link and not family.classes:
        known = family.with_dispersion(different.y, model.held_out, different.shares)
        model = replace(model, family=known)
    return model if len(different) == len(points) else model.repeated(place)


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
        likelihoods = self._likelihoods(points)
        prior = known or self._prior(points, len(likelihoods))
        if not self.family.classes:
            likelihoods = [
                replace(new, power=old.power, dispersion=old.dispersion)
                for new, old in zip(likelihoods, prior.sample.outputs, strict=True)
            ]
        features = prior.features(prior.encoder.inputs.apply(points.x))
        outputs = condition(
            features,
            prior.variances,
            likelihoods,
            rescale=len(prior.sample.u) < len(points),
            constraints=prior.encoder.constraints(features.shape[1]),
        )
        return replace(prior, outputs=tuple(outputs))

    def _prior(self, points: Points, outputs: int) -> LatentFit:
        """Return the kernel with the largest evidence, and its centres; there is no posterior yet.

        Each kind of model is tried. A kind is preferred to a simpler one only if its log evidence
        is larger by at least `kind_evidence` for each step in `KINDS`. `outputs` is the number of
        latent functions.
        """
        # A kind of model is preferred to the next simpler kind only if it increases the log
        # evidence by at least this much (a Bayes factor of 20).
        kind_evidence = 3.0
        # Largest number of multiplications of one Newton step for all classes.
        step_work = 8e10
        # Largest number of entries of the matrix of features (1 GiB).
        numbers = 1.2e8
        # Number of rows among which centres are chosen.
        candidate_rows = 3000
        # Number of centres for very large tables, for which more centres would be too expensive.
        fewest_centres = 300
        # Largest number of centres of the radial parts.
        centres = 1500
        # Number of inputs that take as much work as one additional output.
        output_work = 10
        # Largest value of inputs x rows^2, the number of values that a step of the kernel search
        # reads.
        evidence_work = 2e7
        # Smallest number of rows from which the kernel is estimated, however many inputs there are.
        fewest_evidence_rows = 200
        rows = len(points)
        order = self._order(rows)
        work = points.x.shape[1] + output_work * (min(outputs, _EVIDENCE_CLASSES) - 1)
        most = max(fewest_evidence_rows, int(np.sqrt(evidence_work / work)))
        among = order[: min(most, EVIDENCE_ROWS)]
        found = [self._searched(points, among, kind) for kind in KINDS]
        gains = [
            sample.log_evidence(kernel) - place * kind_evidence
            for place, (kernel, sample) in enumerate(found)
        ]
        kernel, sample = found[int(np.argmax(gains))]
        encoder = sample.encoder
        affordable = min(numbers / rows, np.sqrt(step_work / rows / outputs))
        most = int(np.clip(affordable, fewest_centres, centres))
        u = encoder.inputs.apply(points.x[np.sort(order[:candidate_rows])])
        noise = min(each.dispersion for each in sample.outputs)
        return LatentFit(sample, Centres.of(kernel, u, most, noise), ())

    def _order(self, rows: int) -> Int[ndarray, " rows"]:
        # Combined with the seed, so that the choice of rows does not share random numbers with
        # folds.
        stream = 20_511
        return np.random.default_rng([self.seed, stream]).permutation(rows)

    def _likelihoods(self, points: Points) -> list[Likelihood]:
        """Return the likelihood of each output, or of each class against the others."""
        # Smallest scale of outputs, as a fraction of their standard deviation; it is needed if most
        # outputs are equal.
        least_unit = 0.1
        # Interquartile range of a normal distribution divided by its standard deviation. Before the
        # power transform, outputs are scaled by their interquartile range, so that long tails do
        # not make most of them small.
        normal_quartiles = 1.349
        y = points.y
        weights = points.shares
        family = self.family
        if family.has_link:
            outputs = [y[:, 0]]
            if classes := family.classes:
                outputs = [y[:, 0] == k for k in range(classes == 2, classes)]
            power = Power(1.0, 0.0)
            return [Likelihood(family, 1.0 * each, weights, power) for each in outputs]
        likelihoods = []
        for each in y.T:
            quartiles = np.quantile(each, [0.25, 0.75])
            least = least_unit * float(deviation(each, weights))
            unit = max(float(np.ptp(quartiles)) / normal_quartiles, least) or 1.0
            power = Power(unit, float(np.median(each / unit)))
            likelihoods.append(Likelihood(family, each, weights, power))
        return likelihoods

    def _searched(self, points: Points, rows: ndarray, kind: str) -> tuple[Kernel, EvidenceRows]:
        """Return the kernel of this kind with the largest evidence on the rows `rows`."""
        encoder = Encoder.of(points.x, points.shares, self.policy, kind)
        outputs = self._likelihoods(points.take(rows))
        if self.family.classes:
            outputs = sorted(outputs, key=lambda each: -float(each.y.sum()))[:_EVIDENCE_CLASSES]
        u = encoder.inputs.apply(points.x[rows])
        sample = EvidenceRows(encoder, u, encoder.functions(u), outputs)
        return _with_needed_curves(*fit_kernel(sample)) if kind == "full" else _fit_lines(sample)

    def folds(self, whole: TableModel) -> Folds:
        """Predict the rows of each fold by a model that was fitted without these rows.

        `whole` is the model of all rows. Folds that would begin after the time limit are omitted.
        If no fold is left, the result is `whole.folds`.
        """
        points = self.points
        policy = self.policy
        number = assign_folds(
            points, policy.folds, self.seed, self.family, single=policy.single_fold
        )
        shared = len(points) >= _SHARED_ROWS and points.groups is None
        if shared:
            number[self._order(len(points))[: len(whole.fit.sample.u)]] = -1
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
            model = self.model(train, whole.fit if shared else None)
            values[number == k] = model.predict(points.x[number == k])
            seconds.append(time.process_time() - before)
            predict.append(partial(TableModel.predict, model))
        return Folds(values, number, seconds, predict) if predict else whole.folds

    def model(self, points: Points, known: LatentFit | None = None) -> TableModel:
        """Return the model in the user's units, fitted to `points`; see `fit`."""
        # Margin of `link_map` for linear models and linear extrapolation. Within the margin,
        # straight lines continue.
        linear_link_margin = 1.0
        fit = self.fit(points, known)
        policy = self.policy
        family = self.family
        outputs = None
        is_wide = policy.extrapolation == "linear"
        is_straight = fit.kind != "full"
        if family.has_link and not family.classes:
            highest = float(family.link(points.y.max())) if family.is_log else np.inf
            margin = linear_link_margin if is_wide or is_straight else MARGIN
            outputs = link_map(family, fit.left_out, highest=highest, margin=margin)
        elif not family.classes:
            margin = np.inf if is_wide else LINEAR_MARGIN if is_straight else MARGIN
            maps = [
                output_map(
                    each.likelihood.y, each.likelihood.power, each.residuals, margin, policy.bounds
                )
                for each in fit.outputs
            ]
            outputs = PiecewiseScaling(*zip(*maps, strict=True))
        rows = np.arange(len(points))
        left_out = Folds(in_units(fit.left_out, outputs), np.full(len(points), -1), [], [])
        u = fit.encoder.inputs.apply(points.x)
        return TableModel(fit, family, outputs, u, left_out, policy, rows)


def _with_needed_curves(kernel: Kernel, sample: EvidenceRows) -> tuple[Kernel, EvidenceRows]:
    """Remove the curves of every input whose curves lower the evidence.

    Otherwise, the common variance of all curves would make the effects of these inputs wiggly.
    """
    basis = sample.encoder.basis
    evidence = sample.log_evidence(kernel)
    kept = np.full(len(basis.column), True)
    for j in np.unique(basis.column[~basis.is_line]):
        others = basis.is_line | (basis.column != j)
        if sample.only(others).log_evidence(kernel) >= evidence:
            kept &= others
    return kernel, sample.only(kept)


def _fit_lines(rows: EvidenceRows) -> tuple[Kernel, EvidenceRows]:
    """Return the kernel of a linear or constant model, and the rows with the fitted likelihoods.

    The variance of the lines is estimated from each output; the kernel has the geometric mean of
    these estimates.
    """
    # Initial variance of the lines of a linear model.
    lines = 0.3
    prior = np.full(rows.functions.shape[1], lines)
    found = [condition(rows.functions, prior, [each], rescale=True)[0] for each in rows.outputs]
    variance = lines * float(np.exp(np.mean([np.log(each.scale) for each in found])))
    rates = np.zeros(rows.u.shape[1])
    likelihoods = [each.likelihood for each in found]
    kernel = Kernel(rates, rates, variance, 0.0, 0.0, 0.0, rows.encoder.ranks)
    return kernel, replace(rows, outputs=likelihoods)
