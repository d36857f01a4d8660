"""From data points to B-splines: the first half of the lecture that kanrun follows.

Reproduces the polynomial through equispaced points of 1/(1 + 25 x^2) and its growing error
(`interpolation`, `errors`); the points (0, 5), (1, 1), (2, 3), (5, 2) (`lecture_points`); the
Bernstein basis and de Casteljau's construction (`bernstein_basis`, `de_casteljau`); the B-spline
basis on its knots, a curve with its control polygon and Bézier pieces, and what one moved control
point changes (`bspline_basis`, `bspline_pieces`, `local_control`); how smooth a knot of
multiplicity m leaves a curve (`continuity`); planar curves through and near points (`planar`).
Beyond the lecture: Chebyshev points, measured orders, and identities on random curves, of which
alone every seed is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import CurvesConfig
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def check(cfg: CurvesConfig) -> None:
    """Raise UsageError for settings that cannot work."""
    from kanrun.experiments.curves.parts import check_settings

    check_settings(cfg)


def cells(cfg: CurvesConfig) -> list[dict[str, Any]]:
    """Return one cell per part."""
    return [{"part": part} for part in cfg.parts]


def run(cfg: CurvesConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Yield the tables of one part; only the identities are checked on every seed."""
    from kanrun.experiments.curves.parts import PARTS

    if seed == cfg.seed or cell["part"] == "identities":
        yield from PARTS[cell["part"]](cfg, seed)


def figures(tables: Tables) -> Figures:
    """Yield the figures of each part that was run."""
    from kanrun.experiments.curves.plots import FIGURES

    from kanrun.figures import figures_of

    yield from figures_of(tables, FIGURES)


def claims(tables: Tables) -> Claims:
    """Return the claims of each part that was run."""
    from kanrun.experiments.curves.claim_checks import claims_of

    return list(claims_of(tables))
