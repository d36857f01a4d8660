"""A model in one file: a KAN whose edge functions are sums of Chebyshev polynomials (arXiv 2405.07200).

The class of the network needs torch, so it is made on first use: kanrun imports this module for `--help` already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from kanrun.config import model, setting


@model(
    "kanrun_outside.chebyshev:create",
    network="kanrun_outside.chebyshev:ChebyshevKAN",
    label="Chebyshev KAN",
)
@dataclass
class ChebyshevConfig:
    """A KAN with Chebyshev polynomials on its edges."""

    hidden: list[int] = setting([3], "nodes of each hidden layer", minimum=1)
    degree: int = setting(4, "degree of the polynomials", minimum=1, maximum=30)
    kind: str = "chebyshev"


def create(settings: ChebyshevConfig, problem: Any, generator: Any) -> Any:
    """A fresh network for a kanrun.study.problem.LearningProblem, its random numbers from a torch.Generator."""
    shape = (problem.inputs, *settings.hidden, problem.outputs)
    return _network().create(shape, settings.degree, problem.domain, generator)


def __getattr__(name: str) -> Any:
    if name == "ChebyshevKAN":
        return _network()
    raise AttributeError(name)


@cache
def _network() -> Any:
    import torch
    from torch import Generator, Tensor, nn

    from kanrun.engine.networks import Network

    class ChebyshevKAN(Network):
        """phi(x) = sum over k of c_k T_k(u); u is x mapped from its domain to [-1, 1], and tanh(x) in hidden layers."""

        kind = "chebyshev"

        def __init__(self, shape: tuple[int, ...], degree: int, domain: Tensor) -> None:
            super().__init__()
            self.degree = degree
            self.register_buffer("domain", domain.clone())
            sizes = [(outputs, inputs, degree + 1) for inputs, outputs in pairwise(shape)]
            self.coefficients = nn.ParameterList(nn.Parameter(domain.new_zeros(size)) for size in sizes)

        @classmethod
        def create(cls, shape: tuple[int, ...], degree: int, domain: Tensor, generator: Generator) -> ChebyshevKAN:
            network = cls(shape, degree, domain)
            with torch.no_grad():
                for layer in network.coefficients:
                    noise = torch.randn(layer.shape, generator=generator, dtype=layer.dtype)
                    layer.copy_(noise / (layer.shape[1] * (degree + 1)) ** 0.5)
            return network

        @property
        def shape(self) -> tuple[int, ...]:
            return (self.coefficients[0].shape[1], *(layer.shape[0] for layer in self.coefficients))

        @property
        def beyond(self) -> str:
            return "the edge functions keep their values at the ends"

        def describe(self) -> dict[str, Any]:
            return {"kind": self.kind, "shape": list(self.shape), "degree": self.degree}

        @classmethod
        def from_description(cls, description: dict[str, Any]) -> ChebyshevKAN:
            shape = tuple(description["shape"])
            return cls(shape, description["degree"], torch.zeros(shape[0], 2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            low, high = self.domain[:, 0], self.domain[:, 1]
            unit = ((2 * x - low - high) / (high - low)).clamp(-1, 1)
            for i, layer in enumerate(self.coefficients):
                unit = x.tanh() if i else unit
                terms = [torch.ones_like(unit), unit]
                for _ in range(2, self.degree + 1):
                    terms.append(2 * unit * terms[-1] - terms[-2])
                x = torch.einsum("...ik,oik->...o", torch.stack(terms, -1), layer)
            return x

    return ChebyshevKAN
