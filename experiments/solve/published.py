"""Relative L2 errors that others published of problems in the group `equation`, drawn beside kanrun's."""

from __future__ import annotations

#: By the name of the equation: errors and where they stand. The KAN paper's is the root of its mean squared error over
#: that of the solution (0.25).
PUBLISHED: dict[str, tuple[tuple[float, str], ...]] = {
    "poisson": ((5.7e-4, "KAN [2,10,1], arXiv 2404.19756"), (4.7e-3, "MLP, arXiv 2404.19756")),
    "poisson_product": (
        (2.6e-2, "KAN, pykan's example"),
        (1e-6, "MLP, natural gradient, arXiv 2302.13163: 1e-6 to 1e-8"),
    ),
    "helmholtz": ((1.0e-3, "KAN, arXiv 2407.17611"), (1.3e-2, "KAN, arXiv 2509.03417"), (3.5e-3, "MLP")),
    "allen_cahn": ((1.4e-2, "KAN"), (5.4e-5, "MLP on a GPU")),
    "burgers": ((2.4e-2, "KAN"), (8e-9, "MLP on a GPU")),
}
