"""The objective of a training, as a function and as a least squares problem.

    F(u) = mean |f(x; u) - y|^2 / scale^2 + weight P(c)
    P(c) = sum over edges of sum_i h_i |m! [xi_i ... xi_{i+m}] w_s c|^2

over the unknowns u of any network that can be linearised. P is the smoothness penalty of P-splines
on a KAN's spline coefficients c, with m = degree + 2, xi the Greville abscissae of the basis
functions on the grid's domain scaled to [0, 1], [...] the divided difference and h_i = (xi_{i+m} -
xi_i) / m. On a uniform grid this is h^(1 - 2m) sum
|D^m c|^2: about the integral of the squared m-th derivative, the same on every grid, so one weight
serves a schedule.
Sources: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996); the order m >
degree lets the spline converge at its full order.

Samples with weights are rows scaled by their roots. The Jacobian of a KAN is kept by its non-zeros
(k + 1 of each edge), that of other networks is dense; it is computed piece by piece if memory would
not hold it.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kanrun.engine.least_squares import (
    DenseRows,
    Linearisation,
    LocalRows,
    Problem,
    Rows,
    StackedRows,
)
from kanrun.engine.networks import Network
from kanrun.engine.splines import difference_bands
from kanrun.engine.training.data import (
    Plan,
    Samples,
    Task,
    TrainingData,
    mean_loss,
    output_scale,
    predict,
)
from kanrun.engine.training.memory import ANCHOR, QuadraticMemory

#: Numbers of the Jacobian that are held at once; at least those of one sample.
JACOBIAN_NUMBERS = 1 << 25
#: Without a penalty, a coefficient is frozen while it would have to move this far to account for
#: the residual, in standard deviations of the outputs.
MAX_COEFFICIENT_CHANGE = 1e4


@dataclass(frozen=True)
class SmoothnessPenalty:
    """Smoothness penalty of a solver: its weight, and its order if that is not degree + 2."""

    weight: float = 0.0
    order: int | None = None

    def rows(self, network: Network) -> LocalRows:
        """Return the rows of D times the root of the weight; none if that is 0."""
        rows = network.penalty_rows(self.order)
        if self.weight > 0:
            return rows.scaled(self.weight**0.5)
        return LocalRows(rows.index[:0], rows.values[:0], rows.unknowns)


class SmoothnessLoss:
    """Penalty times its weight as a differentiable scalar, zero for networks without splines.

    The m + 1 numbers of a difference are computed once, on the grids of the network. Weights are
    small and differences large, on fine grids beyond single precision: they meet in float64.
    """

    def __init__(self, network: Network, penalty: SmoothnessPenalty) -> None:
        self._bands, self._weight = [], penalty.weight
        for layer in network.edge_layers if penalty.weight else ():
            bands = penalty.weight**0.5 * difference_bands(layer.grid.double(), penalty.order)
            self._bands.append(bands.to(layer.coefficients))

    def __call__(self, network: Network) -> Tensor:
        first = next(network.parameters())
        total = torch.zeros((), dtype=first.dtype, device=first.device)
        for layer, bands in zip(network.edge_layers, self._bands, strict=False):
            if layer.trained_base is not None:
                total = total + self._weight * (layer.trained_base * layer.mask).square().sum()
            if bands.shape[1]:
                windows = layer.coefficients.unfold(2, bands.shape[2], 1)
                differences = (windows * bands).sum(-1) * layer.scales()[1][..., None]
                total = total + differences.square().sum()
        return total


@dataclass(frozen=True)
class Objective:
    """Mean loss on `samples`, smoothness penalty, and the paper's penalty of large edges."""

    samples: Samples
    size: float
    task: Task = "regression"
    penalty: SmoothnessPenalty = SmoothnessPenalty()
    freeze_unseen: bool = False
    sparsity: float = 0.0
    #: Norm of an edge's function, see `kanrun.engine.layers.edge_norms`.
    sparsity_norm: str = "rms"
    memory: QuadraticMemory | None = None

    @classmethod
    def of(cls, data: TrainingData, plan: Plan, penalty: SmoothnessPenalty) -> Objective:
        """Return the objective on the training samples."""
        return cls(
            data.train,
            output_scale(data.train, data.task),
            data.task,
            penalty,
            plan.freeze_unseen,
            getattr(plan.settings, "sparsity", 0.0),
            getattr(plan.settings, "sparsity_norm", "rms"),
        )

    def rehearsing(self, network: Network, x: Tensor, counts: Tensor | None = None) -> Objective:
        """Return the objective that also keeps the network's present outputs at x.

        That is pseudo-rehearsal (Robins, Connection Science 7, 1995): x (samples, inputs) are new
        samples, each for `counts` of them if given. Unknowns that no sample determines stay where
        they are by a weak anchor alone.
        """
        anchor = QuadraticMemory.anchor(network, "information_diagonal", ANCHOR)
        samples = self.samples.join(Samples(x, predict(network, x), counts))
        size = output_scale(samples, self.task)
        return replace(self, samples=samples, size=size, memory=anchor, freeze_unseen=False)

    def value(self, network: Network, samples: Samples, smoothness_loss: SmoothnessLoss) -> Tensor:
        """Return the objective on some of the samples, differentiable."""
        loss = mean_loss(network(samples.x), samples, self.task, self.size)
        if self.sparsity:
            loss = loss + self.sparsity * network.regularisation(samples.x, kind=self.sparsity_norm)
        if self.memory:
            now = torch.cat([parameter.reshape(-1) for _, parameter in network.unknowns()])
            loss = loss + self.memory.value(now)
        return loss + smoothness_loss(network) if self.penalty.weight else loss

    def movable(self, network: Network) -> dict[nn.Parameter, Tensor]:
        """Return the numbers that may move, for each parameter that has others.

        With `freeze_unseen`, coefficients of basis functions that no sample touches are fixed,
        decided at the start of a stage for the layers' inputs as they are then; with any
        coefficient of an edge its w_b. What scales a whole spline still moves.
        """
        free: dict[nn.Parameter, Tensor] = {}
        if not self.freeze_unseen:
            return free
        for layer, seen in zip(network.edge_layers, network.support(self.samples.x), strict=True):
            # The base acts everywhere.
            frees = {"coefficients": seen, "base_weight": seen.all(1)}
            for name, parameter in layer.named_parameters():
                if name in frees:
                    free[parameter] = frees[name].expand_as(parameter)
        return free


class DataFitting(Problem):
    """Fit of `network` to an objective's samples; evaluations write the unknowns into it.

    With `freeze_unseen`, coefficients of basis functions without samples never move; they are
    `frozen`. Rows of a memory of earlier fits come last.
    """

    def __init__(self, network: Network, objective: Objective) -> None:
        self.network, self.samples = network, objective.samples
        memory = objective.memory
        self._memory = (memory.rows(), memory.target()) if memory else None
        self.penalty_rows = objective.penalty.rows(network)
        self.frozen = network.unseen(self.samples.x) if objective.freeze_unseen else None
        self.unknowns = network.get_unknowns()
        self.columns_can_vanish = network.intervals is None
        self._factor = _residual_factor(self.samples, objective.size)

    def residual(self, unknowns: Tensor) -> Tensor:
        self.network.set_unknowns(unknowns)
        return self._residual(predict(self.network, self.samples.x), unknowns)

    def linearise(self, unknowns: Tensor) -> Linearisation:
        self.network.set_unknowns(unknowns)
        x = self.samples.x
        others: list[LocalRows | DenseRows] = [self.penalty_rows] * bool(len(self.penalty_rows))
        others += [self._memory[0]] if self._memory else []
        numbers = self.network.unknowns_at(1) * self.samples.y.shape[1]
        pieces = max(1, x.shape[0] // max(1, JACOBIAN_NUMBERS // numbers))
        rows: Rows
        if pieces == 1:
            output, rows = self.network.linearise(x)
            blocks = [rows.scaled(self._factor.reshape(-1, 1)), *others]
            if others:
                rows = StackedRows(lambda: blocks, rows.unknowns)
        else:
            there = deepcopy(self.network)
            output = predict(self.network, x)
            factors = self._factor.expand(self.samples.y.shape)
            parts = list(zip(x.tensor_split(pieces), factors.tensor_split(pieces), strict=True))

            def streamed() -> Iterable[LocalRows | DenseRows]:
                for part, factor in parts:
                    yield there.linearise(part)[1].scaled(factor.reshape(-1, 1))
                yield from others

            rows = StackedRows(streamed, unknowns.numel())
        residual = self._residual(output, unknowns)
        frozen = self.frozen
        if frozen is None and not len(self.penalty_rows) and self.network.intervals is not None:
            # Coefficients that the data determine too weakly wait.
            frozen = MAX_COEFFICIENT_CHANGE * rows.squares().sqrt() < residual.norm()
        return Linearisation(rows, residual, frozen)

    def _residual(self, output: Tensor, unknowns: Tensor) -> Tensor:
        parts = [((output - self.samples.y) * self._factor).reshape(-1)]
        if len(self.penalty_rows):
            parts.append(self.penalty_rows.times(unknowns))
        if self._memory:
            rows, target = self._memory
            parts.append(rows.times(unknowns) - target)
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _residual_factor(samples: Samples, scale: float) -> Tensor:
    """Return what turns differences into residuals whose squares add up to their mean / scale^2.

    A scalar, or a value for each of y's numbers if samples have weights.
    """
    factor = samples.y.new_tensor(1 / (scale * samples.y.numel() ** 0.5))
    roots = samples.roots
    return factor if roots is None else (factor * roots).expand(samples.y.shape)


def degrees_of_freedom(
    network: Network, samples: Samples, penalty: SmoothnessPenalty
) -> tuple[int, float]:
    """Return the degrees of freedom for G = J'J on the samples and the penalty P.

    They are the rank, the parameters determined by data and penalty together, and the effective
    ones, tr((G + P)^+ G), determined by the data.
    Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, eq. 5.16.
    """
    exact = deepcopy(network).double()
    factor = _residual_factor(samples, output_scale(samples, "regression")).double()
    gram = exact.linearise(samples.x.double())[1].scaled(factor.reshape(-1, 1)).gram()
    rows = penalty.rows(exact)
    whole = gram + rows.gram() if len(rows) else gram
    values, vectors = torch.linalg.eigh(whole)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    effective = (((vectors.T @ gram) * vectors.T).sum(1)[kept] / values[kept]).sum()
    return int(kept.sum()), float(effective)
