"""The fit of a network to samples as a nonlinear least squares problem, and the solver that takes its steps.

    F(u) = mean |f(x; u) - y|^2 / scale^2 + weight P(c)
    P(c) = sum over edges of sum_i h_i |m! [xi_i ... xi_{i+m}] w_s c|^2

over the unknowns u of any network that can be linearised. P is the smoothness penalty of P-splines on a KAN's spline
coefficients c, with m = degree + 2, xi the Greville abscissae of the basis functions on the grid's domain scaled to
[0, 1], [...] the divided difference and h_i = (xi_{i+m} - xi_i) / m. On a uniform grid this is h^(1 - 2m) sum
|D^m c|^2: about the integral of the squared m-th derivative, the same on every grid, so one weight serves a schedule.
Sources: Eilers and Marx, Flexible smoothing with B-splines and penalties (1996); the order m > degree lets the spline
converge at its full order.

Samples with weights are rows scaled by their roots. The Jacobian is kept by its non-zeros (k + 1 of each edge) for
KANs, dense for other networks, and made anew piece by piece where memory would not hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanrun.engine.least_squares import (
    DenseRows,
    Linearisation,
    LMPolicy,
    LocalRows,
    Problem,
    Rows,
    StackedRows,
    StreamedRows,
    begin,
    step,
)
from kanrun.engine.networks import Network
from kanrun.engine.splines.least_squares import difference_bands, penalty_order
from kanrun.engine.training.data import Samples, not_finite, predict
from kanrun.errors import TrainingFailed


@dataclass(frozen=True)
class Smoothing:
    """The smoothness penalty of a solver: its weight, and its order where that is not degree + 2."""

    weight: float = 0.0
    order: int | None = None

    def rows(self, network: Network) -> LocalRows:
        """The rows of D times the root of the weight; none where that is 0."""
        rows = network.penalty_rows(self.order)
        if self.weight > 0:
            return rows.scaled(self.weight**0.5)
        return LocalRows(rows.index[:0], rows.values[:0], rows.unknowns)


class Roughness:
    """`weight` times the penalty as a differentiable scalar, zero for networks without splines; w_s counts as trained.

    The m + 1 numbers of a difference are worked out once, on the grids that the network has. Weights are small and
    differences large, on fine grids beyond single precision: they meet in float64.
    """

    def __init__(self, network: Network, weight: float, order: int | None = None) -> None:
        self._bands, self._weight = [], weight
        for layer in network.edge_layers if weight else ():
            bands = weight**0.5 * difference_bands(
                layer.grid.double(), order or penalty_order(layer.spec.degree)
            )
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


class DataFitting(Problem):
    """The fit of `network` to `samples`; evaluations write the unknowns that they are asked for into the network.

    `scale` makes errors free of units; `held_numbers` of the Jacobian are held at once, at least one sample's. With
    `freeze_unseen`, coefficients whose basis functions meet no sample never move; they are `frozen`. `farthest` is
    `TrainingPolicy.farthest`.
    """

    def __init__(
        self,
        network: Network,
        samples: Samples,
        scale: float,
        smoothing: Smoothing = Smoothing(),
        *,
        freeze_unseen: bool = False,
        held_numbers: int = 1 << 25,
        farthest: float = 1e4,
    ) -> None:
        self.network, self.samples, self._held_numbers, self._farthest = (
            network,
            samples,
            held_numbers,
            farthest,
        )
        self.smoothness = smoothing.rows(network)
        self.frozen = network.unseen(samples.x) if freeze_unseen else None
        self.unknowns = network.get_unknowns()
        self.fading = network.intervals is None
        self._factor = data_factor(samples, scale)

    def objective(self, unknowns: Tensor) -> list[float]:
        return [float(self.residual(unknowns).square().sum())]

    def residual(self, unknowns: Tensor) -> Tensor:
        self.network.set_unknowns(unknowns)
        return self._stacked(
            (predict(self.network, self.samples.x) - self.samples.y) * self._factor, unknowns
        )

    def linearise(self, unknowns: Tensor) -> Linearisation:
        self.network.set_unknowns(unknowns)
        x = self.samples.x
        each = self.network.row_terms * self.samples.y.shape[1]
        pieces = max(1, x.shape[0] // max(1, self._held_numbers // each))
        if pieces == 1:
            output, first = self.network.linearise(x)
            data: LocalRows | DenseRows | StreamedRows = first.scaled(rowwise(self._factor))
        else:
            there, parts = deepcopy(self.network), x.tensor_split(pieces)
            with torch.no_grad():
                output = torch.cat([there(part) for part in parts])
            factor = self._factor
            factors: Sequence[float | Tensor] = (
                factor.tensor_split(pieces) if isinstance(factor, Tensor) else [factor] * pieces
            )
            pairs = list(zip(parts, factors, strict=True))
            data = StreamedRows(
                lambda: (there.linearise(part)[1].scaled(rowwise(own)) for part, own in pairs),
                unknowns.numel(),
            )
        residual = self._stacked((output - self.samples.y) * self._factor, unknowns)
        rows: Rows = StackedRows(data, self.smoothness) if len(self.smoothness) else data
        held = self._faint(data, residual) if self.frozen is None else self.frozen
        return Linearisation.of(rows, residual, held)

    def _stacked(self, difference: Tensor, unknowns: Tensor) -> Tensor:
        flat = difference.reshape(-1)
        return torch.cat([flat, self.smoothness.times(unknowns)]) if len(self.smoothness) else flat

    def _faint(self, data: LocalRows | DenseRows | StreamedRows, residual: Tensor) -> Tensor | None:
        """Coefficients that data see too faintly to move yet, where no penalty holds them."""
        if len(self.smoothness) or self.network.intervals is None or not self._farthest:
            return None
        faint: Tensor = self._farthest * data.squares().sqrt() < residual.norm()
        return faint


class LevenbergMarquardt:
    """The iteration on the fit of a network; `step` lowers the objective or says that it cannot.

    Raises TrainingFailed for a network whose output is not finite.
    """

    name = "lm"

    def __init__(self, problem: DataFitting, policy: LMPolicy = LMPolicy()) -> None:
        self.problem, self.policy = problem, policy
        self.network, self.rows = problem.network, len(problem.samples)
        self.stalls = policy.thorough  # a thorough step that gains little announces the end
        self._state = begin(problem, policy)
        self.loss, self.converged = self._state.loss[0], False
        if not self.loss < float("inf"):
            cause = not_finite(self.network, problem.samples)
            raise TrainingFailed(f"The error is not finite before the first step: {cause}.")

    @property
    def damping(self) -> float:
        """The damping of the next step."""
        return self._state.damping[0]

    def step(self) -> float:
        """One accepted step (or none, then `converged`); returns the objective."""
        self._state = step(self.problem, self._state, self.policy)
        self.network.set_unknowns(self._state.unknowns)
        self.loss, self.converged = self._state.loss[0], not self._state.found[0]
        return self.loss

    def state(self) -> dict[str, Tensor]:
        """The damping, the columns' largest norms, which unknowns are frozen, and the penalty's rows.

        These are made of the network that the iteration began on, whose scales may be trained.
        """
        damping = torch.tensor(self.damping, dtype=torch.float64)
        kept = {"damping": damping, "sizes": self._state.sizes, "frozen": self.problem.frozen}
        kept["penalty"] = self.problem.smoothness.values if len(self.problem.smoothness) else None
        return {key: value for key, value in kept.items() if value is not None}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from another solver's `state()`."""
        if "penalty" in state:
            made = self.problem.smoothness
            self.problem.smoothness = LocalRows(made.index, state["penalty"], made.unknowns)
            self._state = begin(self.problem, self.policy)
            self.loss = self._state.loss[0]
        self._state = replace(
            self._state, damping=[float(state["damping"])], sizes=state.get("sizes")
        )
        self.problem.frozen = state.get("frozen")


def data_factor(samples: Samples, scale: float) -> float | Tensor:
    """What turns differences from y into residuals, whose squares add up to their mean / scale^2; one for each of
    y's numbers where samples have weights."""
    factor: float = 1 / (scale * samples.y.numel() ** 0.5)
    roots = samples.roots
    return factor if roots is None else (factor * roots).expand(samples.y.shape)


def rowwise(factor: float | Tensor) -> float | Tensor:
    """`factor` (samples, outputs) as a column, for the rows of a Jacobian."""
    return factor.reshape(-1, 1) if isinstance(factor, Tensor) else factor
