"""The constants of fitting by evidence, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvidencePolicy:
    """What a caller may change; the defaults were chosen on the whole set of tables of `kanrun bench part=tables`.

    `candidates` are stacked: additive, with steps, with pairs, neighbourhoods; `linear` is one too.

    Basis: `intervals` of every input's cubic grid, half of whose spacing follows the quantiles (`grid_eps`), no
    interval narrower than `narrowest` of the uniform one; `functions` kept of each input, of which `pair_functions`
    take part in pairs (the straight line and the smoothest wiggles; `long_pair_functions` where rows are too many for
    kernels); beside them `step_functions`, where the data tell `fewest_steps` or more apart. In intervals without rows
    curvature counts `stiffness` times.

    Evidence: from starts where the noise has each of `noise_shares` of the output's variance, estimated on at most
    `most_rows` rows (`evidence_rows` where all pairs are solved over rows) by at most `rounds` steps, until no
    logarithm of a variance moves by `settled`; a component that explains less than `negligible` of the output's
    variance is left out.
    `relevance` is the least weight of an input in pairs, where the input with the largest effect has 1 + `relevance`.

    Sparse: the additive candidate fitted again `sparse_rounds` times, each with the variances of an input's functions
    in proportion to the size of its effect before, plus `least_share` of the largest (the group lasso by reweighting),
    where a table has at least `sparse_inputs` inputs.

    Neighbourhoods (for 2 to `radial_inputs` inputs and `radial_fewest` rows): the logarithms of precisions have a prior
    of deviation `precision_deviation`, those of the variances of lines, neighbourhoods and noise one of
    `variance_deviation` about `radial_variances`, of outputs of variance 1. They are found by at most `radial_steps`
    steps, until one gains less than a share of `radial_settled`, on as many of the `evidence_rows` as inputs x rows^2
    stays below `radial_work`; at most `radial_centres` centres (rows x centres^2 at most `most_work`) are chosen among
    `radial_rows` rows, until no row has more variance left than `remainder` of the noise's. They are in the stack where
    they lower its loss of left-out rows by `radial_gain` of it.

    Size: with at most `most_functions` functions, pairs included, and no more than rows, tables are solved over their
    functions; else over their rows, up to `dense_rows` of them, and longer ones over the functions of the `most_pairs`
    pairs in whose coefficients the likelihood is steepest.

    Classes: variances start where they give logits that of `logit_variances` with which the first candidate predicts
    left-out rows best; at most `newton_steps` steps until no logit moves by `newton_settled`, in units of what matters
    to its probability p, 1 / (2 sqrt(p (1 - p))). Of many classes the `variance_classes` most frequent tell variances.
    Where classes x rows^3 is more than `most_work`, pairs are chosen as in long tables, and are no candidate where a
    step then takes a tenth of it.

    `shapes`: of inputs by their index, `increasing`, `decreasing`, `convex` or `concave`; their effects keep it, and they take no
    part in pairs.

    Assembly: hidden nodes are left out as long as what they add to the training rows stays below `remainder` of the
    noise (`most_nodes` for each output at most).
    """

    candidates: tuple[str, ...] = ("additive", "steps", "pairs", "neighbourhoods")
    intervals: int = 32
    grid_eps: float = 0.5
    narrowest: float = 1e-2
    functions: int = 10
    pair_functions: int = 8
    long_pair_functions: int = 4
    stiffness: float = 100.0
    step_functions: int = 24
    fewest_steps: int = 3
    most_functions: int = 600
    most_rows: int = 4000
    evidence_rows: int = 400
    noise_shares: tuple[float, ...] = (0.5, 0.01)
    rounds: int = 25
    settled: float = 0.02
    negligible: float = 1e-5
    relevance: float = 0.05
    sparse_rounds: int = 2
    sparse_inputs: int = 6
    least_share: float = 1e-3
    dense_rows: int = 2500
    most_pairs: int = 24
    most_work: float = 1e10
    logit_variances: tuple[float, ...] = (1.0, 100.0)
    variance_classes: int = 8
    newton_steps: int = 25
    newton_settled: float = 1e-2
    radial_inputs: int = 200
    radial_fewest: int = 30
    precision_deviation: float = 1.5
    radial_variances: tuple[float, float, float] = (0.3, 0.5, 0.2)
    variance_deviation: float = 3.0
    radial_steps: int = 40
    radial_settled: float = 1e-5
    radial_work: float = 2e7
    radial_rows: int = 1500
    radial_centres: int = 300
    radial_gain: float = 0.005
    shapes: tuple[tuple[int, str], ...] = ()
    remainder: float = 0.02
    most_nodes: int = 40
