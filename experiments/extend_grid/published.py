"""Test errors that others have published for the setting of `kanrun extend-grid`; facts to be put beside ours.

exp(sin(pi x0) + x1^2) on [-1, 1]^2, 1000 training points, k = 3, by number of grid intervals. `paper`: Liu et al.,
arXiv 2404.19756, Figure 2.3 (LBFGS, 200 steps a grid). `pykan`: pykan 0.2.8 run with the same recipe.
"""

from __future__ import annotations

#: {widths: {intervals: RMSE}}; what diverged or was not run is left out.
PAPER: dict[tuple[int, ...], dict[int, float]] = {
    (2, 5, 1): {
        3: 1.8e-3, 5: 4.6e-4, 10: 1.5e-4, 20: 3.9e-5, 50: 2.9e-5, 100: 3.2e-5, 200: 3.7e-5, 500: 3e-4,
    },
    (2, 1, 1): {
        3: 1.8e-2, 5: 6.5e-3, 10: 4.5e-4, 20: 5.0e-5, 50: 3.0e-6, 100: 1.3e-6, 200: 1.1e-5, 500: 1.8e-4,
    },
}  # fmt: skip
PYKAN: dict[tuple[int, ...], dict[int, float]] = {
    (2, 5, 1): {3: 3.4e-3, 5: 1.4e-3, 10: 2.5e-4, 20: 8.2e-5, 50: 1.1e-4},
    (2, 1, 1): {3: 1.4e-2, 5: 7.2e-3, 10: 5.1e-4, 20: 6.1e-5, 50: 3.1e-5, 100: 3.5e-5},
}
TARGET, POINTS, DEGREE = "exp_sin_square", 1000, 3


def published(
    target: str, points: int | None, degree: int, shape: tuple[int, ...]
) -> dict[int, tuple[float, float | None]]:
    """{intervals: (paper's test RMSE, pykan's or None)} for this setting; empty where nothing was published."""
    if (target, points, degree) != (TARGET, POINTS, DEGREE):
        return {}
    return {g: (rmse, PYKAN[shape].get(g)) for g, rmse in PAPER.get(shape, {}).items()}
