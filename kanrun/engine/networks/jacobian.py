"""A network linearised in its unknowns: what second-order solvers work with.

The *unknowns* are the trainable parameters but for w_s, which only scales directions that the coefficients
already span: d phi / d w_s = sum_n c_n d phi / d c_n / w_s. They are one vector, in the order of `unknowns`.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from kanrun.engine.layers import SplineLayer, base_function, base_slope
from kanrun.engine.networks.kan import KAN, activations
from kanrun.engine.splines import dense_rows, local_basis


def unknowns(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that a second-order solver moves, in the order of the Jacobian's columns."""
    return [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not name.endswith("spline_weight")
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


@linearise.register
def _(network: KAN, x: Tensor) -> tuple[Tensor, Tensor]:
    """By layers: d y / d coefficient = (d y / d x_out) w_s B(x_in), the first factor carried backwards."""
    with torch.no_grad():
        values = activations(network, x)
        samples, outputs = values[-1].shape
        upstream = torch.eye(outputs, dtype=x.dtype, device=x.device).expand(samples, -1, -1)
        blocks: list[Tensor] = []
        for i in range(len(network.layers) - 1, -1, -1):
            layer = network.layer(i)
            blocks = [*_columns(layer, values[i], upstream), *blocks]
            if i > 0:
                upstream = upstream @ edge_slopes(layer, values[i])
        return values[-1], torch.cat(blocks, dim=-1)


def edge_slopes(layer: SplineLayer, x: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples out inputs"]:
    """phi'_oi(x_i) of every edge, base included."""
    base_weight, spline_weight = layer.scales()
    return layer.spline_values(x, 1) * spline_weight + base_slope(layer.spec.base, x)[:, None, :] * base_weight


def _columns(layer: SplineLayer, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """This layer's columns, (samples, out, ...) each, in the order of its parameters."""
    basis, interval = local_basis(x, layer.grid)
    rows = dense_rows(basis, interval, layer.grid.functions)
    _, spline_weight = layer.scales()
    masked = upstream[..., None] * layer.mask  # (samples, network outputs, outputs, inputs)
    base = base_function(layer.spec.base)(x)[:, None, None, :]
    columns = {}
    columns["coefficients"] = ((masked * spline_weight)[..., None] * rows[:, None, None]).flatten(2)
    if layer.spec.scale == "single":
        columns["weight"] = (masked * (base + layer.spline_values(x)[:, None])).flatten(2)
    else:
        columns["base_weight"] = (masked * base).flatten(2)
    return [columns[name] for name, parameter in unknowns(layer)]
