"""Jacobians of MLPs and curves in closed form: their part of `networks.jacobian.linearise`.

`torch.func` would do the same more slowly, and loads torch's compiler, which takes longer than many a fit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kanrun.engine.networks.curves import Curve
from kanrun.engine.networks.mlp import ACTIVATIONS, MLP


def linearise_curve(network: Curve, x: Tensor) -> tuple[Tensor, Tensor]:
    """A curve is linear in its coefficients (functions, outputs): d y_o / d c_fo = basis_f."""
    with torch.no_grad():
        basis = network.basis(x)
        each = torch.eye(network.coefficients.shape[1], dtype=x.dtype, device=x.device)
        return basis @ network.coefficients, (basis[:, None, :, None] * each[None, :, None, :]).flatten(2)


def linearise_mlp(network: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """By layers, backwards: d y / d W = (d y / d z) (inputs of the layer), with z the sums before activation."""
    reaching, slopes, y = _forward(network, x)
    samples, outputs = y.shape
    upstream = torch.eye(outputs, dtype=x.dtype, device=x.device).expand(samples, -1, -1)
    columns: list[Tensor] = []
    with torch.no_grad():
        for number in range(len(network.linear) - 1, -1, -1):
            layer = network.linear[number]
            assert isinstance(layer, nn.Linear)
            if layer.bias.requires_grad:
                columns.append(upstream)
            if layer.weight.requires_grad:
                columns.append((upstream[..., None] * reaching[number][:, None, None, :]).flatten(2))
            if number:
                upstream = (upstream @ layer.weight) * slopes[number - 1][:, None]
    return y, torch.cat(columns[::-1], dim=-1)


def _forward(network: MLP, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What reaches each layer, the slopes of the activations after each but the last, and f(x)."""
    act = ACTIVATIONS[network.activation]
    reaching, slopes = [x], []
    for layer in network.linear[:-1]:
        with torch.no_grad():
            before: Tensor = layer(reaching[-1])
        with torch.enable_grad():
            before.requires_grad_()
            after = act(before)
            (slope,) = torch.autograd.grad(after.sum(), before)
        reaching.append(after.detach())
        slopes.append(slope)
    with torch.no_grad():
        return reaching, slopes, network.linear[-1](reaching[-1])
