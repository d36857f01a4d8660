"""The model of `model=auto`: a Gaussian process with a power transform of the output.

The latent function of each output (or logit) is the sum of a level, lines and curves of each input,
a smooth radial part and a rough radial part (see `kernel`). The parameters of the kernel, the noise
and the exponent of the output maximise the evidence on a sample of rows (see `fitting`).

The latent functions are converted to one KAN, whose inputs are the scores. The sum of the line and
the curves of an input becomes a spline edge from the input to an output. Each centre of the radial
parts becomes two hidden nodes: the smooth and the rough distance from the centre. The edges into
such a node are the terms of the distance, one per input (see `RadialLayer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from scipy.special import softmax

from kanrun.engine.layers import EdgeSpec, RadialLayer, SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import Extrapolation, extend
from kanrun.engine.tables.encoder import (
    CURVATURES,
    Encoder,
    TablePolicy,
    error_quantiles,
    link_map,
)
from kanrun.engine.tables.evidence import Centres, EvidenceRows, Kernel
from kanrun.engine.tables.folds import Folds
from kanrun.engine.tables.posterior import Posterior
from kanrun.engine.tables.reduced_basis import (
    DEGREE,
    PerRow,
    RowInputs,
    RowOutputs,
    blocks,
    spaced,
)
from kanrun.points import Family, PiecewiseScaling


@dataclass(frozen=True, eq=False)
class LatentFit:
    """Latent functions of the outputs, as fitted to the rows of a table.

    Attributes:
        sample: Rows that determined the kernel, with the likelihoods fitted to them.
        centres: Centres of the radial parts.
        outputs: Posterior of each output or, for classes, each logit; two classes have one logit.
    """

    sample: EvidenceRows
    centres: Centres
    outputs: tuple[Posterior, ...]

    @property
    def encoder(self) -> Encoder:
        """Transformations of the inputs."""
        return self.sample.encoder

    @property
    def kernel(self) -> Kernel:
        return self.centres.kernel

    @property
    def variances(self) -> ndarray:
        """Prior variance of the coefficient of each feature, shape (features,)."""
        # Prior variance that replaces a variance of 0 in the kernel.
        absent = 1e-12
        kernel = self.kernel
        explicit = np.where(self.encoder.basis.is_line, kernel.lines, kernel.curves)
        radial = np.ones(len(self.centres.inputs))
        return np.concatenate([np.maximum(explicit, absent), radial])

    @cached_property
    def weights(self) -> tuple[ndarray, ndarray]:
        """Weights of the lines and curves (functions, outputs), and of the R centres (R, outputs).

        The weights of the centres multiply the radial covariances with the centres.
        """
        coefficients = np.stack([each.coefficients for each in self.outputs], 1)
        functions, radial = np.split(coefficients, [len(self.encoder.basis.column)])
        return functions, self.centres.transposed(radial)

    def at_scores(self, u: RowInputs) -> RowOutputs:
        """Return the latent functions at scores u, shape (rows, outputs)."""
        weights, heights = self.weights
        latent = np.tile([output.level for output in self.outputs], (len(u), 1))
        for part in blocks(len(u)):
            latent[part] += self.encoder.functions(u[part]) @ weights
            radial = self.kernel.radial(u[part], self.centres.inputs)
            latent[part] += radial @ heights
        return latent

    def features(self, u: RowInputs) -> ndarray:
        """Return all features at scores u (rows, features): lines and curves, then radial ones."""
        radial = self.centres.features(u)
        return np.concatenate([self.encoder.functions(u), radial], 1)

    @property
    def kind(self) -> str:
        """Kind of the model, one of `encoder.KINDS`."""
        return self.encoder.kind

    @property
    def freedom(self) -> float:
        """Effective number of coefficients, summed over outputs (see `Posterior.determined`)."""
        return sum(float(each.determined.sum()) for each in self.outputs)

    @property
    def left_out(self) -> RowOutputs:
        """Leave-one-out latent values of the training rows, shape (rows, outputs).

        For the constant model, they are the mean of all rows, so that all predictions are equal.
        """
        if self.kind == "mean":
            rows = len(self.outputs[0].left_out)
            return np.tile([output.level for output in self.outputs], (rows, 1))
        return np.stack([output.left_out for output in self.outputs], 1)


@dataclass(frozen=True, eq=False)
class TableModel:
    """The fitted model of a table: latent functions, and their map to the user's units.

    Attributes:
        fit: The latent functions.
        family: Distribution of the outputs, with the dispersion estimated from held-out rows.
        outputs: Map from outputs in the user's units to latent values; None for classes.
        u: Scores of the training rows, shape (rows, inputs).
        folds: Predictions of held-out rows by the models of the folds or, without folds, from
            leaving out one row at a time.
        policy: Settings of the model.
        different: Indices of the training rows that are not copies of earlier ones.
        exposure: Index of the exposure, the input by which predicted rates are multiplied; None if
            the model predicts rates per unit of exposure, or if there is no exposure.
    """

    fit: LatentFit
    family: Family
    outputs: PiecewiseScaling | None
    u: RowInputs
    folds: Folds
    policy: TablePolicy
    different: Int[ndarray, " different"]
    exposure: int | None = None

    @property
    def inputs(self) -> PiecewiseScaling:
        """Map from inputs in the user's units to scores, the inputs of the network."""
        return self.fit.encoder.inputs

    @property
    def effect_rows(self) -> RowInputs:
        """Scores of evenly spaced training rows, over which effects are averaged."""
        # Number of training rows over which effects are averaged, and at which pairs are compared.
        effect_rows = 200
        return np.asarray(self.u[spaced(len(self.u), effect_rows)])

    @property
    def held_out(self) -> RowOutputs:
        """Held-out predictions of the training rows, shape (rows, outputs)."""
        return self.folds.values

    @property
    def held_out_rows(self) -> Int[ndarray, " held_out"]:
        """Indices of the training rows that were held out, without copies of earlier ones."""
        return np.asarray(self.different[~np.isnan(self.held_out[self.different, 0])])

    @cached_property
    def network(self) -> KAN:
        """The latent functions as one KAN, whose inputs are the scores."""
        return to_kan(self)

    def latent(self, x: RowInputs) -> RowOutputs:
        """Return the latent functions at x in the user's units, shape (rows, outputs)."""
        u = self.inputs.apply(x)
        latent = self.fit.at_scores(u)
        return latent if self.exposure is None else latent + u[:, self.exposure, None]

    def predict(self, x: RowInputs) -> RowOutputs:
        """Return the predicted outputs, or class probabilities, at `x` (rows, inputs).

        Inputs and outputs are in the user's units.
        """
        return in_units(self.latent(x), self.outputs)

    def clipped_fraction(self, x: RowInputs) -> float:
        """Return the fraction of rows whose prediction is clipped to the allowed range."""
        if self.outputs is None:
            return 0.0
        latent = self.latent(x)
        ends = [each[[0, -1]] for each in self.outputs.values]
        low, high = np.transpose(ends)
        return float(((latent < low) | (latent > high)).any(1).mean())

    def error_quantiles(self, y: RowOutputs, levels: ndarray) -> ndarray | None:
        """Return quantiles of the errors on held-out rows as functions of the prediction.

        Predictions and errors are in the units of the latent functions; for outputs with a link,
        the errors are normal scores of the outputs. The quantile levels are moved away from 0.5 to
        correct for the finite number of rows.

        Args:
            y: Outputs of the training rows, shape (rows, outputs).
            levels: Quantile levels, shape (levels,).

        Returns:
            Array of shape (outputs, bins, 1 + levels), see `scores.error_quantiles`; None for
            classes.
        """
        if self.outputs is None:
            return None
        inside = self.held_out_rows
        predicted = self.outputs.apply(self.held_out[inside])
        errors = self.outputs.apply(y[inside]) - predicted
        count = max(len(inside), 1)
        if self.family.has_link:
            scores = self.family.normal_scores(y[inside, 0], self.held_out[inside, 0])
            errors = scores[:, None]
        stretched = np.clip(0.5 + (levels - 0.5) * (count + 1) / count, 0, 1)
        pairs = zip(predicted.T, errors.T, strict=True)
        return np.stack([error_quantiles(*pair, stretched) for pair in pairs])

    def widening(self) -> ndarray | None:
        """Return how much prediction intervals widen outside the training range.

        Consider a point that is one range width outside the training range of one input, while the
        other inputs have the values of a training row. The result is the standard deviation of the
        change of the latent function from the end of the range to this point, given the kernel. It
        includes the difference between the latent functions with and without clipped inputs,
        because predictions use clipped inputs.

        Returns:
            Standard deviations in the units of the latent functions, shape (2, inputs, outputs):
            first below the training range, then above it. None for classes and for outputs with a
            link.
        """
        # Number of training rows over which `TableModel.widening` averages.
        widening_rows = 8
        if self.outputs is None or self.family.has_link:
            return None
        fit = self.fit
        ends = np.stack([self.u.min(0), self.u.max(0)])
        far = 2 * ends - ends[::-1]
        held = np.clip(far, *np.transpose([each[[0, -1]] for each in self.inputs.values]))
        rows = self.u[spaced(len(self.u), widening_rows)]
        found = np.zeros((*ends.shape, len(fit.outputs)))
        for j in np.flatnonzero([len(np.unique(column)) > 2 for column in self.u.T]):
            for side in range(2):
                at_end, beyond, clipped = (
                    np.where(np.arange(ends.shape[1]) == j, scores[side], rows)
                    for scores in (ends, far, held)
                )
                features = fit.features(beyond)
                change = features - fit.features(at_end)
                radial = features[:, len(fit.encoder.basis.column) :]
                unknown = np.maximum(fit.kernel.radial_variance - (radial**2).sum(1), 0.0)
                variances = [each.spread(change) + each.scale * unknown for each in fit.outputs]
                missed = fit.at_scores(beyond) - fit.at_scores(clipped)
                found[side, j] = np.sqrt((np.stack(variances, 1) + missed**2).mean(0))
        return found

    def repeated(self, place: Int[ndarray, " rows"]) -> TableModel:
        """Expand the model, which was fitted to merged rows, to the original rows with copies.

        `place` (rows,) contains, for each original row, the index of its merged row (see
        `merge_copies`).
        """
        values, number = self.folds.values[place], self.folds.number[place]
        folds = replace(self.folds, values=values, number=number)
        different = np.unique(place, return_index=True)[1]
        return replace(self, u=self.u[place], folds=folds, different=different)

    def with_exposures(self, exposures: PerRow) -> TableModel:
        """Convert a model of rates to the model of the outputs, which are rates times exposures.

        `exposures` (rows,) are those of the training rows.
        """
        j = self.policy.exposure
        assert self.outputs is not None  # An invariant: counts and sizes are numbers.
        assert j is not None
        ends = self.outputs.values[0][[0, -1]] + self.inputs.values[j][[0, -1]]
        return replace(
            self,
            outputs=link_map(self.family, ends, margin=0.0),
            folds=replace(self.folds, values=self.held_out * exposures[:, None]),
            exposure=j,
        )


def in_units(latent: RowOutputs, outputs: PiecewiseScaling | None) -> ndarray:
    """Convert latent values (rows, outputs) to outputs in the user's units.

    `outputs` is the map from outputs to latent values. If it is None, the latent values are logits,
    and class probabilities (rows, classes) are returned.
    """
    if outputs is not None:
        return outputs.invert(latent)
    split = np.concatenate([-latent / 2, latent / 2], 1) if latent.shape[1] == 1 else latent
    return np.asarray(softmax(split, 1))


#: Specification of all spline edges.
_SPEC = EdgeSpec(degree=DEGREE, base="zero", trained_scales="none")


def to_kan(model: TableModel) -> KAN:
    """Return the network that computes the latent functions of `model` from the scores.

    For two classes with the logit f, the outputs of the network are -f/2 and f/2.
    """
    fit = model.fit
    encoder = fit.encoder
    outputs = fit.outputs
    mixing = np.eye(len(outputs))
    if model.family.classes == 2:
        mixing = np.array([[-0.5], [0.5]])
    functions, radial = fit.weights
    weights = mixing @ functions.T
    basis = encoder.basis
    # B-spline coefficients of the edges, shape (outputs, inputs, splines)
    edges = np.stack([weights[:, mine] @ basis.coefficients[mine] for mine in basis.places], 1)
    _make_monotone(edges, encoder)
    breakpoints = basis.breakpoints
    if model.exposure is not None:
        breakpoints, edges = _with_logarithm(model, model.exposure, breakpoints, edges)
    extrapolation: Extrapolation = "zero" if encoder.policy.extrapolation == "zero" else "linear"
    level = mixing @ np.array([each.level for each in outputs])
    kernel = fit.kernel
    centres = fit.centres
    if not len(centres.inputs) and extrapolation == "linear":
        edges[:, 0] += level[:, None]  # B-splines sum to one
        return KAN.of_layers([_layer(breakpoints, edges, extrapolation)])
    splines = _layer(breakpoints, edges, extrapolation)
    heights = mixing @ radial.T
    arrays = {
        "level": level,
        "heights": np.stack([kernel.smooth * heights, kernel.rough * heights]),
        "centres": centres.inputs,
        "smooth_rates": kernel.smooth_rates,
        "rough_rates": kernel.rough_rates,
        "points": _padded(encoder.ranks.points),
        "ranks": _padded(encoder.ranks.values),
    }
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return KAN.of_layers([RadialLayer.of(splines, tensors)])


def _with_logarithm(
    model: TableModel, j: int, breakpoints: ndarray, edges: ndarray
) -> tuple[ndarray, ndarray]:
    """Replace all edges from input number `j`, the exposure, by the identity function.

    The score of the exposure is its logarithm, which is thus added to each latent function.

    Returns:
        The grids (inputs, G + 1) and the B-spline coefficients of all edges (outputs, inputs,
        splines). The array `edges` is changed in place.
    """
    breakpoints = breakpoints.copy()
    low, high = model.inputs.values[j][[0, -1]]
    breakpoints[j] = np.linspace(low, high, breakpoints.shape[1])
    knots = extend(torch.as_tensor(breakpoints[[j]]), DEGREE).numpy()[0]
    # The B-spline coefficients of a straight line are the means of three knots.
    edges[:, j] = np.convolve(knots[1:-1], np.ones(DEGREE) / DEGREE, "valid")
    return breakpoints, edges


def _make_monotone(edges: ndarray, encoder: Encoder) -> None:
    """Remove rounding errors, so that the coefficients of monotone edges are exactly monotone."""
    for j, shape in encoder.policy.shapes:
        if shape not in CURVATURES:
            for edge in edges[:, j]:
                turn = 1 if edge[-1] >= edge[0] else -1
                edge[:] = turn * np.maximum.accumulate(turn * edge)


def _layer(
    breakpoints: ndarray, coefficients: ndarray, extrapolation: Extrapolation
) -> SplineLayer:
    spec = replace(_SPEC, extrapolation=extrapolation)
    layer = SplineLayer.on_grid(
        torch.as_tensor(breakpoints), len(coefficients), spec, uniform=False
    )
    with torch.no_grad():
        layer.coefficients.copy_(torch.as_tensor(coefficients))
    return layer


def _padded(rows: Sequence[ndarray]) -> ndarray:
    """Stack rows of different lengths; shorter rows are extended by repeating their last number."""
    size = max(map(len, rows))
    return np.stack([np.pad(row, (0, size - len(row)), mode="edge") for row in rows])
