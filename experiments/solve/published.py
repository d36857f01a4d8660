"""Errors that others published for the equations of `kanrun solve`."""

from __future__ import annotations

#: Relative L2 errors that others published, by the name of the equation, and their source. The KAN
#: paper's is the root of its mean squared error over that of the solution (0.25).
PUBLISHED: dict[str, tuple[tuple[float, str], ...]] = {
    "poisson": ((5.7e-4, "KAN [2,10,1], arXiv 2404.19756"), (4.7e-3, "MLP, arXiv 2404.19756")),
    "poisson_product": (
        (2.6e-2, "KAN, pykan's example"),
        (1e-6, "MLP, natural gradient, arXiv 2302.13163: 1e-6 to 1e-8"),
    ),
    "helmholtz": (
        (1.0e-3, "KAN, arXiv 2407.17611"),
        (1.3e-2, "KAN, arXiv 2509.03417"),
        (3.5e-3, "MLP"),
    ),
    "allen_cahn": ((1.4e-2, "KAN"), (1.9e-6, "MLP on a GPU")),
    "burgers": ((2.4e-2, "KAN"), (8.3e-9, "MLP on a GPU")),
    "kdv_cosine": ((2.2e-6, "MLP on a GPU"),),
    "kuramoto_sivashinsky": ((0.957, "MLP, PINNacle, arXiv 2306.08827"), (1.4e-4, "MLP on a GPU")),
    "schroedinger": ((1e-4, "MLP on a GPU"),),
    "heat_multiscale": ((6.2e-2, "MLP, PINNacle, arXiv 2306.08827"),),
    "cavity": ((3.6e-2, "MLP (velocity), PINNacle, arXiv 2306.08827"),),
}
