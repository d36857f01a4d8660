"""The base class of all networks, with the methods that training, checkpoints and reports use.

A new model needs a subclass of `Network` with `forward`, `kind`, `shape`, `describe` and
`from_description`, and settings in `kanrun/model/settings.py` or a plug-in. All other methods have
defaults that are correct for any torch network:

- counting: `trained`, `count` (every parameter with `requires_grad`), `flops` (unknown);
- second-order solvers: `unknowns`, `get_unknowns`, `set_unknowns`, `unknowns_at`, `linearise` (all
  trained parameters, differentiated by `torch.func`);
- models that are linear in their parameters: `fit_linear` (not linear by default).

The methods for splines use `edge_layers`, which is empty by default: `edge_inputs`,
`determined`, `penalty_rows`, `regularisation`, and for training on several grids `intervals`,
`refined`, `regrid`, `covers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer, edge_norms, nodes_of
from kanrun.engine.least_squares import DenseRows, LocalRows
from kanrun.engine.splines import Inputs, breakpoints_from_data, largest_but_rare

InputGrid = Literal["keep", "within", "follow"]
#: Fraction of the activations' range by which a hidden grid extends beyond this range.
MARGIN = 0.05
#: Used instead of Self, which run-time type checks of class methods cannot resolve.
N = TypeVar("N", bound="Network")
#: Number of FLOPs of each elementwise function, from KANbeFair (Yu et al., arXiv 2407.16674) except
#: for `sin` and `gaussian`, which KANbeFair does not have.
ACTIVATION_FLOPS = {
    "zero": 0,
    "identity": 0,
    "relu": 1,
    "sigmoid": 4,
    "silu": 5,
    "tanh": 6,
    "gelu": 14,
    "sin": 1,
    "gaussian": 3,
}


@dataclass(frozen=True)
class Regridded:
    """A network that was transferred to other grids.

    Attributes:
        network: The network on the new grids.
        how: How the functions were transferred: `unchanged`, `insertion` of knots (exact),
            `least squares`, or `both` of these.
        change: Largest |new - old| output over the samples, relative to the largest |old|. Both
            maxima exclude the 1% of the samples with the largest values (`rare_samples`), because
            outputs at outliers are not preserved and would hide all other changes.
    """

    network: Network
    how: str = "unchanged"
    change: float = 0.0


class Network(nn.Module):
    """Base class of networks, which map x (..., inputs) to outputs (..., outputs).

    The docstring of the module lists the methods by purpose.
    """

    #: Name of the model in checkpoints and in `kanrun.config.MODELS`.
    kind: ClassVar[str]
    #: Number of multiplication nodes in each layer after the inputs; () for networks without edges.
    products: tuple[int, ...] = ()

    # -------------------- what it is

    @classmethod
    def of_layers(cls: type[N], layers: Sequence[SplineLayer], products: Sequence[int] = ()) -> N:
        """Return the network with these layers.

        `products` are the numbers of multiplication nodes of the hidden layers.
        """
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network._hold(layers, products)
        return network

    def _hold(self, layers: Sequence[SplineLayer], products: Sequence[int]) -> None:
        self.products = (*(products or [0] * (len(layers) - 1)), 0)
        self.layers = nn.ModuleList(layers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Widths of all layers, from the inputs to the outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no shape.")

    @property
    def shape_text(self) -> str:
        """Shape as text for tables, such as 2-5-1."""
        return "-".join(map(str, self.shape))

    def describe(self) -> dict[str, Any]:
        """Return plain JSON values from which, with the state_dict, the network can be restored.

        They include `kind`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not describe itself. Define describe() to store it."
        )

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Network:
        """Return a network with the structure that `describe` returned; its state is not loaded."""
        raise NotImplementedError(f"{cls.__name__} cannot be built from a description.")

    @property
    def extrapolation_note(self) -> str:
        """How the network behaves outside the training range, as a clause for messages."""
        return "the network continues by its formula"

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def count(self) -> int:
        """Return the number of trained parameters."""
        return sum(parameter.numel() for parameter in self.trained().values())

    def flops(self) -> dict[str, float | None]:
        """Return the numbers of FLOPs that one sample takes, or None if they are unknown.

        `flops` counts the operations that are executed, `kanbefair_flops` follows KANbeFair.
        """
        return {"flops": None, "kanbefair_flops": None}

    # -------------------- second-order training

    def for_second_order(self) -> Network:
        """Return a copy in which parameters that only scale other parameters are not trained.

        These are the spline scales w_s, which only scale the coefficients.
        """
        new = deepcopy(self)
        for layer in new.edge_layers:
            layer.freeze_spline_scale()
        return new

    def unknowns(self) -> list[tuple[str, nn.Parameter]]:
        """Return names and parameters that second-order solvers train, in the Jacobian's order."""
        return list(self.trained().items())

    def get_unknowns(self) -> Float[Tensor, " unknowns"]:
        """Return a copy of the unknowns as one vector."""
        return torch.cat([parameter.detach().reshape(-1) for _, parameter in self.unknowns()])

    def set_unknowns(self, values: Float[Tensor, " unknowns"]) -> None:
        """Write `values` into the parameters."""
        parameters = [parameter for _, parameter in self.unknowns()]
        parts = values.split([parameter.numel() for parameter in parameters])
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))

    def linearise(self, x: Inputs) -> tuple[Tensor, LocalRows | DenseRows]:
        """Return f(x) and its Jacobian with respect to `unknowns`, one row per sample and output.

        This default uses reverse-mode differentiation of each sample. Subclasses should override it
        with a closed form, which is faster and does not load torch's compiler.
        """
        # Imported here because it loads torch's compiler, which takes a second.
        from torch.func import functional_call, jacrev, vmap

        free = {name: parameter.detach() for name, parameter in self.unknowns()}

        def output(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            y: Tensor = functional_call(self, parameters, (sample[None],))
            return y[0]

        columns = vmap(jacrev(output), in_dims=(None, 0))(free, x)
        jacobian = torch.cat([column.flatten(2) for column in columns.values()], dim=-1)
        with torch.no_grad():
            return self(x), DenseRows(jacobian.detach().flatten(0, 1))

    def lower(self) -> list[Network]:
        """Return the networks that consist of the first 1, 2, ... layers, but not all layers.

        The unknowns of each returned network are the first unknowns of this network.
        """
        return []

    def unknowns_at(self, intervals: int | None) -> int:
        """Return the number of unknowns with `intervals` intervals; None means the present ones."""
        return sum(parameter.numel() for _, parameter in self.unknowns())

    def penalty_rows(self, order: int | None = None) -> LocalRows:
        """Return the rows D of the smoothness penalty |D u|^2 of the unknowns u.

        The rows are the divided differences of w_s c on each edge, of this `order` (None: degree +
        2), and one row for each trained base weight w_b. A network without splines has no rows.
        """
        parts = list[tuple[Tensor, Tensor]]()
        start = 0
        for layer in self.edge_layers:
            parts += layer.penalty_rows(order, start)
            start += layer.unknowns_at()
        if not parts:
            none = next(self.parameters()).detach().new_zeros(0, 1)
            return LocalRows(none.long(), none, self.unknowns_at(None))
        indices, values = map(torch.cat, zip(*parts, strict=True))
        return LocalRows(indices, values, start)

    def regularisation(
        self, x: Inputs, *, l1: float = 1.0, entropy: float = 1.0, kind: str = "mean_abs"
    ) -> Tensor:
        """Return the KAN paper's penalty on the size of edge functions, as a differentiable scalar.

        It is the sum over layers of l1 |Phi|_1 + entropy S(Phi), with

            |Phi|_1 = sum_e m_e,   S = - sum_e p_e log p_e,   p_e = m_e / |Phi|_1

        and m_e the norm of the output of edge e over x. It is zero for networks without edges.
        Source: arXiv 2404.19756, eqs. 2.17 to 2.20.

        Args:
            x: Samples, shape (samples, inputs).
            l1: Weight of the L1 norm.
            entropy: Weight of the entropy.
            kind: Norm m_e: the mean of |phi| (`mean_abs`) or the root mean square (`rms`).
        """
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        tiny = torch.finfo(x.dtype).tiny
        # Lower bound of an edge's share of the norm in the entropy, so that the logarithm is finite
        # for zero edges.
        least = 1e-12
        for layer, products in zip(self.edge_layers, self.products, strict=True):
            norms = edge_norms(layer, x, kind)[layer.mask]
            size = norms.sum()
            shares = (norms / size.clamp(min=tiny)).clamp(min=least)
            total = total + l1 * size - entropy * (shares * shares.log()).sum()
            x = nodes_of(layer(x), products)
        return total

    @property
    def edge_layers(self) -> Sequence[SplineLayer]:
        """Spline layers from inputs to outputs; empty for a network without edges."""
        return ()

    def activations(self, x: Float[Tensor, "*batch inputs"]) -> list[Tensor]:
        """Return the inputs of each layer in `edge_layers`, followed by the network's output."""
        return [x, self(x)]

    def edge_inputs(self, x: Inputs) -> list[tuple[SplineLayer, Tensor]]:
        """Return the layers in `edge_layers`, each with its inputs for `x`, without gradients."""
        with torch.no_grad():
            return list(zip(self.edge_layers, self.activations(x), strict=False))

    def determined(self, x: Inputs) -> dict[nn.Parameter, Bool[Tensor, "_ _ ..."]]:
        """Map parameters to masks of the entries that the samples `x` determine.

        A coefficient is not determined if its basis function is zero at all samples. At samples
        outside the grid, the functions that the extrapolation continues count as nonzero. The
        trained weight of a base function is not determined if any coefficient of its edge is not.
        Other parameters, such as the spline scales w_s, have no mask.
        """
        masks: dict[nn.Parameter, Tensor] = {}
        for layer, at in self.edge_inputs(x):
            seen = layer.touched(at)
            masks[layer.coefficients] = seen.expand_as(layer.coefficients)
            if layer.trained_base is not None:
                masks[layer.trained_base] = seen.all(1).expand_as(layer.mask)
        return masks

    # -------------------- grids

    @property
    def intervals(self) -> int | None:
        """Number of grid intervals; None for a network without grids."""
        return None

    def refined(self, intervals: int, x: Inputs) -> Regridded:
        """Return the network on grids with this number of intervals and the same ranges.

        The change of the outputs is measured at `x` (samples, inputs).
        """
        return self._measured([layer.refined(intervals) for layer in self.edge_layers], x)

    def regrid(
        self,
        x: Inputs,
        *,
        intervals: int | None = None,
        grid_eps: float = 1.0,
        margin: float = MARGIN,
        inputs: InputGrid = "keep",
    ) -> Regridded:
        """Return the network with hidden grids fitted to the activations at `x`.

        The activations are those of this network, so each layer is transferred once. Outliers are
        excluded from the ranges (see `breakpoints_from_data`) and extrapolated, so that the
        function hardly changes where most data lie.

        Args:
            x: Samples, shape (samples, inputs).
            intervals: Number of intervals of all grids; None: unchanged.
            grid_eps: Share of uniform spacing, 0 to 1; the rest follows quantiles.
            margin: Fraction of the activations' range by which a grid extends beyond it.
            inputs: What happens to the first layer's grid. `keep`: its range and spacing stay;
                `within`: it is redrawn towards the quantiles of `x`, within its domain; `follow`:
                it is fitted to `x` like hidden grids (as other KAN libraries do).
        """
        moved = []
        for number, (layer, values) in enumerate(self.edge_inputs(x)):
            grid = layer.grid
            count = intervals or layer.grid.intervals
            if number == 0 and inputs == "keep":
                same = count == grid.intervals
                moved.append((layer, "insertion") if same else layer.refined(count))
                continue
            within = number == 0 and inputs == "within"
            ends = grid.breakpoints[:, [0, -1]] if within else None
            points = breakpoints_from_data(values, count, 1 - grid_eps, margin, ends)
            moved.append(layer.moved(points, uniform=grid_eps == 1.0))
        return self._measured(moved, x)

    def covers(self, x: Inputs, share: float) -> bool:
        """Return whether all hidden activations at `x` lie in their grids and fill them.

        The range of a node's activations must be at least the fraction `share` of its grid.
        """
        return all(layer.grid.covers(values, share) for layer, values in self.edge_inputs(x)[1:])

    def _measured(self, moved: Sequence[tuple[SplineLayer, str]], x: Tensor) -> Regridded:
        """Return the network with the layers `moved`, and the change of its outputs at `x`.

        `moved` pairs each layer with the method by which the layer was transferred.
        """
        if not moved:
            return Regridded(deepcopy(self))
        new = self.of_layers([layer for layer, _ in moved], self.products[:-1])
        methods = {method for _, method in moved}
        with torch.no_grad():
            before = self(x)
            after = new(x)
        size = max(largest_but_rare(before), torch.finfo(before.dtype).tiny)
        change = largest_but_rare(after - before) / size
        return Regridded(new, methods.pop() if len(methods) == 1 else "both", change)

    # -------------------- closed form

    def fit_linear(
        self, x: Inputs, y: Float[Tensor, "samples out"], roots: Tensor | None = None
    ) -> bool:
        """If the model is linear in its parameters, set them by least squares and return True.

        Otherwise return False and change nothing. `roots` (samples, 1) are the square roots of the
        samples' weights.
        """
        return False
