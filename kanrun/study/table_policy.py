"""The constants of the automatic model of a table, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from kanrun.engine.evidence import EvidencePolicy
from kanrun.targets import ScorePolicy


@dataclass(frozen=True)
class TablePolicy:
    """Constants of the automatic model; `pairs`, `extrapolation`, `shapes` and `folds` are settings of `model=auto`.

    `extrapolation`: with `clip` predictions are held near the range of the training outputs, and inputs go on to a
    little beyond theirs; with `linear` neither is held; with `constant` inputs are held at the ends of their range, and
    with `zero` an input beyond it adds nothing. `shapes` are (index of the input, increasing, decreasing, convex or concave); with a
    convex or concave one the output is not transformed.

    Without `lottery` the stack alone is fitted: neither the linear model in the user's units nor a transformed output.
    The loss is the mean of squared errors (log losses) of rows that folds leave out and of rows that are left out one
    by one with the variances held; errors beyond `robust` standard deviations of the output count linearly (Huber's
    loss), so that the few rows of a long tail do not decide. The share of the transformed stack is where it is lowest;
    nearer than `pure` to 0 or 1 one stack stands alone. Logits are multiplied by the factor where it is lowest, with a
    normal prior of deviation 1 for its logarithm. The linear model is taken where the loss is lower for the blend by
    less than `simpler` standard errors of the difference and by less than `negligible` of itself; the sparse fit where
    it is better than the blend by more than `sparser` standard errors in the folds. Of a table of more
    than `most_rows` rows, or of more than `fold_work` rows x classes x inputs^2, one fold is left out alone, as with
    `one_fold`; with `folds` below 2 rows are left out one by one only. `robust` was chosen on both sets of tables of
    `kanrun bench part=tables`.
    """

    evidence: EvidencePolicy = field(default_factory=EvidencePolicy)
    scores: ScorePolicy = field(default_factory=ScorePolicy)
    pairs: bool = True
    extrapolation: str = "clip"
    shapes: tuple[tuple[int, str], ...] = ()
    lottery: bool = True
    folds: int = 5
    one_fold: bool = False
    robust: float = 1.75
    pure: float = 0.1
    simpler: float = 0.5
    sparser: float = 1.0
    negligible: float = 0.003
    most_rows: int = 10_000
    fold_work: float = 2e7

    @staticmethod
    def additive() -> TablePolicy:
        """One smooth effect per input and nothing to choose: no pairs, no steps, no folds, predictions not held.

        The work does not grow with rows times functions squared more than once, and weights are repeated rows exactly.
        """
        evidence = EvidencePolicy(
            candidates=("additive",), step_functions=0, most_functions=10**9, sparse_rounds=0
        )
        return TablePolicy(evidence, extrapolation="linear", lottery=False, folds=0)
