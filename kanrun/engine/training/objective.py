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

The objective may contain a quadratic memory of earlier fits, without their samples: online Laplace
in square-root form.

Fit number s ends with the unknowns u_s and the function f(x; u_s) on its samples. Later fits with
other unknowns u change this function. To second order, the memory penalises the change by

    Q_s(u) = weight mean |J_s (u - u_s)|^2,

with the Jacobian J_s of f at u_s. On request, the outputs of hidden layers are penalised in the
same way. While these outputs do not change, f is linear in the remaining unknowns, so the quadratic
model remains accurate for large steps. The sum over all fits is stored as |R u - z|^2 with a
triangular matrix R: each fit appends the rows (J_s, J_s u_s) to (R, z), and a QR decomposition
reduces them to n rows, where n is the number of unknowns. The stored sum of the Q_s is therefore
exact up to a constant and positive semidefinite, and needs about n^2 numbers, whatever the number
of fits. With `diagonal`, R is diagonal, and products of different unknowns are not remembered.
Sources: G. Bierman, Factorization Methods for Discrete Sequential Estimation (1977), ch. V (the
square-root information filter); Ritter et al., Online structured Laplace approximations,
arXiv 1805.07810; Kao et al., Natural continual learning, arXiv 2106.08085.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import pad

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
from kanrun.errors import UsageError

#: Largest number of unknowns if R is a full triangular matrix, which then takes 128 MB.
MAX_UNKNOWNS = 4000
#: Weight of a quadratic penalty that holds the unknowns near their values at the start of a fit
#: with rehearsal. Without it, unknowns that no sample determines drift. Chosen on five peaks and a
#: [1, 5, 1] KAN with 40 intervals: rehearsal by Levenberg-Marquardt ends with an RMSE of 2e-4; with
#: a weight of 1e-8 it is 0.02 to 0.08, and without this penalty above 1.
ANCHOR = 1e-6


@dataclass(frozen=True)
class QuadraticMemory:
    """The sum of |R u - z|^2 over blocks, where u are the unknowns of a block.

    Either one block holds all unknowns, or each unknown has its own block (`diagonal`).

    Attributes:
        factors: Triangular factors R, shape (blocks, size, size).
        targets: Right-hand sides z, shape (blocks, size).
    """

    factors: Float[Tensor, "blocks size size"]
    targets: Float[Tensor, "blocks size"]

    @classmethod
    def anchor(cls, network: Network, weight: float, *, diagonal: bool) -> QuadraticMemory:
        """Return the memory weight * |u - u_0|^2, with u_0 the network's present unknowns.

        With a weight of 0, the memory is empty. With `diagonal`, each unknown has its own block.

        Raises:
            UsageError: If one block would have to hold more than MAX_UNKNOWNS unknowns.
        """
        unknowns = network.get_unknowns()
        size = 1 if diagonal else len(unknowns)
        if size > MAX_UNKNOWNS:
            raise UsageError(
                f"memory=information keeps all pairs of {size} unknowns; at most {MAX_UNKNOWNS}. "
                "Use a smaller network."
            )
        centres = weight**0.5 * unknowns.view(-1, size)
        unit = torch.eye(size, dtype=unknowns.dtype, device=unknowns.device)
        return cls((weight**0.5 * unit).expand(len(centres), -1, -1), centres)

    def learned(
        self, network: Network, x: Tensor, weight: float, hidden: float = 0.0
    ) -> QuadraticMemory:
        """Return this memory, extended by a penalty on changes of the network's outputs at `x`.

        `x` has the shape (samples, inputs).

        `weight` is the total weight of the samples. Changes of the nodes of hidden layers are
        multiplied by `hidden` before they are squared; with 0, only outputs are remembered.
        """
        memory = self
        centres = network.get_unknowns()
        root = (weight / len(x)) ** 0.5
        below = network.lower() if hidden else ()
        # Number of samples whose Jacobian rows are computed and reduced at once.
        piece = 1024
        for samples in x.split(piece):
            inner = (hidden * lower.linearise(samples)[1].dense() for lower in below)
            parts = (network.linearise(samples)[1].dense(), *inner)
            rows = root * torch.cat([pad(j, (0, len(centres) - j.shape[1])) for j in parts])
            blocks = rows.unflatten(1, self.targets.shape).transpose(0, 1)
            memory = memory._with(blocks, (blocks @ centres.view(*self.targets.shape, 1))[..., 0])
        return memory

    def joined(self, other: QuadraticMemory) -> QuadraticMemory:
        """Return the sum of this memory and `other`, which has the same blocks."""
        return self._with(other.factors, other.targets)

    def _with(self, rows: Tensor, values: Tensor) -> QuadraticMemory:
        """Return this memory with |rows u - values|^2 added to each block."""
        size = rows.shape[2]
        stacked = torch.cat([self.factors, rows], 1)
        right = torch.cat([self.targets, values], 1)[..., None]
        reduced = torch.linalg.qr(torch.cat([stacked, right], 2), mode="r").R[:, :size]
        return QuadraticMemory(reduced[..., :-1], reduced[..., -1])

    def rows(self) -> DenseRows | LocalRows:
        """Return the triangular factors R as rows of a Jacobian with one column per unknown."""
        blocks = len(self.factors)
        if blocks == 1:
            return DenseRows(self.factors[0])
        columns = torch.arange(blocks, device=self.factors.device)[:, None]
        return LocalRows(columns, self.factors[:, 0], blocks)

    def target(self) -> Tensor:
        """Return the right-hand sides z of all blocks in one vector."""
        return self.targets.flatten()

    def value(self, unknowns: Tensor) -> Tensor:
        """Return |R u - z|^2 at u = `unknowns`, as a differentiable scalar."""
        return (self.rows().times(unknowns) - self.target()).square().sum()


# -------------------- the objective

#: Largest number of entries of the Jacobian that are in memory at once; the rows of one sample are
#: never divided.
JACOBIAN_NUMBERS = 1 << 25


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
        # Without a penalty, a coefficient is frozen if it would have to change by more than this
        # many standard deviations of the outputs to explain the residual, because the data barely
        # determine it.
        most = 1e4
        if frozen is None and not len(self.penalty_rows) and self.network.intervals is not None:
            # Freeze coefficients that the data barely determine.
            frozen = most * rows.squares().sqrt() < residual.norm()
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
