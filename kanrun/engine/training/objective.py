"""The objective of training, as a function and as a least-squares problem.

    F(u) = mean |f(x; u) - y|^2 / scale^2 + weight P(c)
    P(c) = sum over edges of sum_i h_i |m! [xi_i ... xi_{i+m}] w_s c|^2

where u are the unknowns of the network. P is the smoothness penalty of P-splines on
the spline coefficients c of a KAN, with w_s the scale of an edge's spline and m = degree + 2. The
xi are the Greville abscissae of the basis functions on the grid's domain, scaled to [0, 1], [...]
is the divided difference, and h_i = (xi_{i+m} - xi_i) / m. On a uniform grid with spacing h, P is
h^(1 - 2m) sum |D^m c|^2, which approximates the integral of the squared m-th derivative. This
integral hardly depends on the grid, so one weight can be used on all grids of a schedule.
Sources: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996). With an order
m > degree, the penalty does not reduce the order of convergence of the spline.

If samples have weights, their least-squares rows are multiplied by the square roots of the weights.
The Jacobian of a KAN is stored by its nonzeros (degree + 1 per edge), and that of other networks
as a dense matrix. A Jacobian that does not fit into memory is computed in blocks of samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

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

#: Largest number of entries of the Jacobian that are in memory at once; the rows of one sample are
#: never divided.
JACOBIAN_NUMBERS = 1 << 25
#: Without a penalty, a coefficient is frozen if it would have to change by more than this many
#: standard deviations of the outputs to explain the residual, because the data barely determine it.
MAX_COEFFICIENT_CHANGE = 1e4


@dataclass(frozen=True)
class SmoothnessPenalty:
    """Smoothness penalty of a solver.

    Attributes:
        weight: Weight in the objective; 0 for no penalty.
        order: Order of the penalised differences; None: degree + 2.
    """

    weight: float = 0.0
    order: int | None = None

    def rows(self, network: Network) -> LocalRows:
        """Return the penalty as rows of a Jacobian: the square root of `weight` times P's operator.

        There are no rows if the weight is 0.
        """
        rows = network.penalty_rows(self.order)
        if self.weight > 0:
            return rows.scaled(self.weight**0.5)
        return LocalRows(rows.index[:0], rows.values[:0], rows.unknowns)


class SmoothnessLoss:
    """Smoothness penalty times its weight, as a differentiable function of a network.

    It is zero for networks without splines. The squares of trained base weights are penalised too.
    The m + 1 coefficients of each difference are computed once, for the grids that the network has
    at construction. These coefficients are multiplied by the square root of the weight in float64,
    because on fine grids they exceed the range of float32.
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
    """Objective of training: the mean loss on samples plus penalties.

    Attributes:
        samples: Samples to fit.
        size: Number by which residuals are divided; see `output_scale`.
        task: Whether numbers (`regression`) or classes (`classification`) are learned.
        penalty: Smoothness penalty.
        freeze_unseen: Whether coefficients of basis functions without samples are fixed.
        sparsity: Weight of the KAN paper's penalty on the size of edge functions.
        sparsity_norm: Norm of an edge function, see `kanrun.engine.layers.edge_norms`.
        memory: Quadratic memory of earlier fits, which is added to the loss.
    """

    samples: Samples
    size: float
    task: Task = "regression"
    penalty: SmoothnessPenalty = SmoothnessPenalty()
    freeze_unseen: bool = False
    sparsity: float = 0.0
    sparsity_norm: str = "rms"
    memory: QuadraticMemory | None = None

    @classmethod
    def of(cls, data: TrainingData, plan: Plan, penalty: SmoothnessPenalty) -> Objective:
        """Return the objective on the training samples of `data`."""
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
        """Return this objective with the network's present outputs at `x` as additional samples.

        This is pseudo-rehearsal (Robins, Connection Science 7, 1995). `x` has the shape (samples,
        inputs), and `counts` (samples,) are the weights of these samples, 1 by default. For a
        classifier, class probabilities are used instead of outputs. A weak quadratic penalty
        (ANCHOR) holds the unknowns near their present values, in case no sample determines them;
        therefore `freeze_unseen` is switched off.
        """
        anchor = QuadraticMemory.anchor(network, ANCHOR, diagonal=True)
        y = predict(network, x)
        new = self.samples
        if self.task == "classification":
            y = y.softmax(1)
            labels = functional.one_hot(new.y[:, 0].long(), y.shape[1])
            new = replace(new, y=labels.to(y))
        samples = new.join(Samples(x, y, counts))
        size = output_scale(samples, self.task)
        return replace(self, samples=samples, size=size, memory=anchor, freeze_unseen=False)

    def value(self, network: Network, samples: Samples, smoothness_loss: SmoothnessLoss) -> Tensor:
        """Return the objective of `network` on `samples`, as a differentiable scalar."""
        loss = mean_loss(network(samples.x), samples, self.task, self.size)
        if self.sparsity:
            loss = loss + self.sparsity * network.regularisation(samples.x, kind=self.sparsity_norm)
        if self.memory:
            now = torch.cat([parameter.reshape(-1) for _, parameter in network.unknowns()])
            loss = loss + self.memory.value(now)
        return loss + smoothness_loss(network) if self.penalty.weight else loss

    def movable(self, network: Network) -> dict[nn.Parameter, Tensor]:
        """Map each parameter that has fixed entries to a mask of the entries that may change.

        With `freeze_unseen`, entries that no sample determines, given the present inputs of their
        layer, are fixed (see `Network.determined`). Without it, the result is empty.
        """
        return network.determined(self.samples.x) if self.freeze_unseen else {}


class DataFitting(Problem):
    """Least-squares fit of `network` to an objective's samples.

    Each evaluation sets the network's unknowns. With `freeze_unseen`, coefficients of basis
    functions without samples are `frozen`. The rows of the samples come first, then those of the
    penalty and those of the memory of earlier fits.
    """

    def __init__(self, network: Network, objective: Objective) -> None:
        self.network, self.samples = network, objective.samples
        memory = objective.memory
        self._memory = (memory.rows(), memory.target()) if memory else None
        self.penalty_rows = objective.penalty.rows(network)
        masks = [mask.reshape(-1) for mask in objective.movable(network).values()]
        self.frozen = ~torch.cat(masks) if masks else None
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
            # Freeze coefficients that the data barely determine.
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
    """Return the factor that turns f(x) - y into residuals.

    The sum of squared residuals is then the mean of (f(x) - y)^2 / scale^2. The factor is a scalar,
    or has the shape of y if the samples have weights.
    """
    factor = samples.y.new_tensor(1 / (scale * samples.y.numel() ** 0.5))
    roots = samples.roots
    return factor if roots is None else (factor * roots).expand(samples.y.shape)


def degrees_of_freedom(
    network: Network, samples: Samples, penalty: SmoothnessPenalty
) -> tuple[int, float]:
    """Return two numbers of degrees of freedom.

    Let G be J'J for the Jacobian rows J of the samples, and P the same for the rows of the penalty.
    The first number is the rank of G + P: the number of parameters that data and penalty determine
    together. The second number is tr((G + P)^+ G): the effective number that the data determine.
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
