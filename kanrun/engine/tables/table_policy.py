"""Settings of the automatic model of a table.

Constants of one step stand in the module of that step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class EvidencePolicy:
    """Settings of fits by evidence.

    The defaults were chosen on the tables of `kanrun bench part=tables`.
    """

    #: Candidates of the stack, a selection of `candidates.COMPONENTS`.
    candidates: tuple[str, ...] = ("additive", "steps", "pairs", "neighbourhoods")
    #: Smooth functions of an input, its straight line included; and its functions that follow
    #: jumps.
    functions: int = 10
    step_functions: int = 24
    #: Shapes to keep, by the index of the input (see `design.SHAPES`); such inputs take no part in
    #: pairs.
    shapes: tuple[tuple[int, str], ...] = ()
    #: Functions, pairs included, up to which tables are solved over functions; otherwise over rows.
    max_functions: int = 600
    #: Rows up to which pairs are solved over rows; for longer tables the strongest pairs are
    #: chosen.
    dense_rows: int = 2500
    #: Multiplications of one step up to which classes have pairs, and by which centres are limited.
    max_work: float = 1e10
    #: Fractions of the output's variance at which the noise starts. The likelihood has a second
    #: maximum near zero
    #: noise if the inputs determine the output, and the higher maximum counts.
    noise_fractions: tuple[float, ...] = (0.5, 0.01)
    #: Variances of the logits of classes at the start. If only combinations of inputs separate the
    #: classes, a start
    #: at low variances converges to the constant model.
    logit_variances: tuple[float, ...] = (1.0, 100.0)
    #: Classes, the most frequent first, from which variances are estimated.
    variance_classes: int = 8
    #: Steps of the variances at most, and the change of their logarithms at which they end.
    max_steps: int = 25
    tolerance: float = 0.02
    #: Repetitions of the sparse fit.
    sparse_rounds: int = 2
    #: Standard deviation of all omitted hidden nodes, relative to that of the noise, and nodes of
    #: an output at most.
    omitted: float = 0.02
    max_nodes: int = 40


@dataclass(frozen=True)
class TablePolicy:
    """Candidates of `model=auto` and their selection; see docs/tables.md.

    Attributes:
        pairs: Whether to include pairs of inputs and neighbourhoods.
        shapes: (Index of an input, shape) pairs; with a curvature the output is not transformed.
        extrapolation: `clip`, `linear`, `constant` or `zero`.
        bounds: Lower and upper limit of all outputs, or of each.
        alternatives: Whether to fit the sparse, linear and transformed models next to the stack.
        folds: Folds of the cross-validation; below 2 rows are left out one by one only.
        single_fold: Whether to leave out only one of the folds.
        robust: Error, in standard deviations of the output, beyond which losses grow linearly
            (Huber).
    """

    evidence: EvidencePolicy = field(default_factory=EvidencePolicy)
    pairs: bool = True
    shapes: tuple[tuple[int, str], ...] = ()
    extrapolation: str = "clip"
    bounds: tuple[Any, Any] = (-np.inf, np.inf)
    alternatives: bool = True
    folds: int = 5
    single_fold: bool = False
    robust: float = 1.75

    @staticmethod
    def additive() -> TablePolicy:
        """Return the policy of one smooth effect per input: no pairs, steps, folds or clipping.

        The work is linear in the rows, and weights count exactly as repeated rows.
        """
        evidence = EvidencePolicy(
            ("additive",), step_functions=0, max_functions=10**9, sparse_rounds=0
        )
        return TablePolicy(evidence, extrapolation="linear", alternatives=False, folds=0)
