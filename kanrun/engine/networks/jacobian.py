"""A network linearised in its unknowns: what second-order solvers work with.

The *unknowns* of a KAN are its spline coefficients: d phi / d w_s lies in the span of the coefficients' directions, and
d phi / d w_b nearly so, which is why w_b starts at zero here (scheme `spline`) and both stay where they are.
Training w_b along costs accuracy: it opens bad minima. Other networks' unknowns are all their trainable parameters.
They are one vector, in the order of `unknowns`.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from kanrun.engine.layers import SplineLayer, base_slope
from kanrun.engine.networks.curves import Curve
from kanrun.engine.networks.dense_jacobian import linearise_curve, linearise_mlp
from kanrun.engine.networks.kan import KAN, activations
from kanrun.engine.networks.mlp import MLP
from kanrun.engine.splines import local_basis


def unknowns(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that a second-order solver moves, in the order of the Jacobian's columns."""
    splines = isinstance(network, KAN | SplineLayer)
    return [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and (not splines or name.endswith("coefficients"))
    ]


def get_unknowns(network: nn.Module) -> Float[Tensor, " unknowns"]:
    """A copy of the unknowns as one vector."""
    return torch.cat([parameter.detach().reshape(-1) for _, parameter in unknowns(network)])


def set_unknowns(network: nn.Module, values: Float[Tensor, " unknowns"]) -> None:
    """Write `values` into the network's parameters."""
    with torch.no_grad():
        start = 0
        for _, parameter in unknowns(network):
            parameter.copy_(values[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()


@singledispatch
def linearise(
    network: nn.Module, x: Float[Tensor, "samples inputs"]
) -> tuple[Float[Tensor, "samples out"], Float[Tensor, "samples out unknowns"]]:
    """(f(x), df/du): outputs and their Jacobian in the unknowns, by reverse mode on each sample."""
    names = [name for name, _ in unknowns(network)]
    fixed = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    free = {name: fixed.pop(name).detach() for name in names}

    def one(parameters: dict[str, Tensor], sample: Tensor) -> tuple[Tensor, Tensor]:
        y = functional_call(network, {**fixed, **parameters}, (sample[None],))[0]
        return y, y

    columns, y = vmap(jacrev(one, has_aux=True), in_dims=(None, 0))(free, x)
    return y.detach(), torch.cat([columns[name].flatten(2) for name in names], dim=-1).detach()


linearise.register(Curve, linearise_curve)
linearise.register(MLP, linearise_mlp)


@linearise.register
def _(network: KAN, x: Tensor) -> tuple[Tensor, Tensor]:
    y, index, values = linearise_locally(network, x)
    jacobian = x.new_zeros(*y.shape, get_unknowns(network).numel())
    return y, jacobian.scatter_(-1, index.expand_as(values), values)


def linearise_locally(
    network: KAN, x: Float[Tensor, "samples inputs"]
) -> tuple[Float[Tensor, "samples out"], Int[Tensor, "samples 1 terms"], Float[Tensor, "samples out terms"]]:
    """(f(x), columns, values): the Jacobian's non-zeros, k + 1 of each edge, however fine the grids.

    By layers: d y / d coefficient = (d y / d x_out) w_s B(x_in), the first factor carried backwards.
    """
    with torch.no_grad():
        reaching = activations(network, x)
        samples, outputs = reaching[-1].shape
        upstream = torch.eye(outputs, dtype=x.dtype, device=x.device).expand(samples, -1, -1)
        start = get_unknowns(network).numel()
        index: list[Tensor] = []
        values: list[Tensor] = []
        for i in range(len(network.layers) - 1, -1, -1):
            layer = network.layer(i)
            start -= layer.coefficients.numel()
            basis, interval = local_basis(reaching[i], layer.grid)
            columns = layer_columns(layer, interval) + start
            values.append(_local_values(layer, basis, upstream))
            index.append(columns.flatten(1)[:, None])
            if i > 0:
                upstream = upstream @ edge_slopes(layer, reaching[i])
        return reaching[-1], torch.cat(index, -1), torch.cat(values, -1)


def layer_columns(
    layer: SplineLayer, interval: Int[Tensor, "samples inputs"]
) -> Int[Tensor, "samples out inputs local"]:
    """Positions in the flattened coefficients of the functions that do not vanish in `interval`."""
    outputs, inputs, functions = layer.coefficients.shape
    edge = torch.arange(outputs * inputs, device=interval.device).view(outputs, inputs, 1) * functions
    local = torch.arange(layer.spec.degree + 1, device=interval.device)
    return interval[:, None, :, None] + local + edge


def _local_values(layer: SplineLayer, basis: Tensor, upstream: Tensor) -> Tensor:
    _, spline_weight = layer.scales()  # zero on pruned edges
    factors = upstream[..., None] * spline_weight  # (samples, network outputs, outputs, inputs)
    return (factors[..., None] * basis[:, None, None]).flatten(2)


def edge_slopes(layer: SplineLayer, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples out inputs"]:
    """phi'_oi(x_i) of every edge, base included."""
    base_weight, spline_weight = layer.scales()
    return layer.spline_values(x, 1) * spline_weight + base_slope(layer.spec.base, x)[:, None, :] * base_weight
