"""A search for a formula: its data and candidates, and its policy of documented numbers.

Errors are root mean squares relative to the standard deviation of y. Work is in units of about one
second of one core (`budget`); no result depends on a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.constants import RoundingPolicy
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.refit import GraphTrainingPolicy
from kanrun.engine.symbolic.simplification import SimplificationPolicy


@dataclass(frozen=True)
class MatchingPolicy:
    """Matching c f(a t + b) + d to an edge: a grid search over (a, b), then a refit.

    Attributes:
        points: Samples of the edge that are used.
        coarse: Equal steps for the grid search.
        polished: Best candidates that are refitted.
        starts: Grid points from which they are refitted.
        steps: Maximum number of steps of a refit.
    """

    points: int = 120
    coarse: int = 81
    polished: int = 12
    starts: int = 2
    steps: int = 40


@dataclass(frozen=True)
class QuotientPolicy:
    """Quotients of polynomials.

    Attributes:
        degree: Maximum degree of the numerator.
        below: Maximum degree of the denominator.
        monomials: Maximum number of monomials to choose from.
        terms: Maximum number of terms in the end.
        nothing: Error relative to y that counts as none.
        sudden: Factor by which the error must fall with the last degree.
    """

    degree: int = 6
    below: int = 4
    monomials: int = 250
    terms: int = 12
    nothing: float = 1e-12
    sudden: float = 1e-4


@dataclass(frozen=True)
class UnivariatePolicy:
    """Formulas of one variable for an edge.

    Attributes:
        points: Samples of the edge that are used.
        rounding: Relative error of the values if nothing else is known.
        precise: Accuracy of the values below which the first formula as good as that is taken.
        quotients: Search for quotients of polynomials.
        generic: Constants of each function that come from the range of the argument.
        entries: Maximum size of a dictionary.
        simple: Entries that are multiplied by factors; half as many by one another.
        factors: Number of factors.
        alike: Entries of the same family in products of two entries.
        kept: Single terms and pairs of them that are looked at.
        promising: Fraction of the variance that a term may leave of the values over a weight.
        singles: Families of each kind that are refitted, and formulas that are returned.
        near: Multiple of the accuracy up to which every pair is refitted.
        steps: Maximum number of steps of a refit.
        width: Formulas that are extended side by side.
        terms: Maximum number of terms that are added.
        budget: Work for an edge, if there are several.
    """

    points: int = 120
    rounding: float = 3e-14
    precise: float = 1e-10
    quotients: QuotientPolicy = field(default_factory=lambda: QuotientPolicy(degree=16, terms=20))
    generic: int = 90
    entries: int = 3000
    simple: int = 300
    factors: int = 20
    alike: int = 3
    kept: int = 60
    promising: float = 0.1
    singles: int = 6
    near: float = 1e3
    steps: int = 60
    width: int = 4
    terms: int = 4
    budget: float = 3.0


@dataclass(frozen=True)
class PruningPolicy:
    """Removing edges and nodes of a trained graph.

    Attributes:
        intervals: Maximum number of intervals of the grids on which removals are tried.
        tolerance: Relative increase of the smallest error so far that a removal may cause.
        floor: Error up to which every removal is accepted.
        edge_steps: Steps of the refit without an edge.
        node_steps: Steps of the refit without a node, or without a term of a formula.
        accurate: Error below which a network counts as accurate.
        accurate_growth: Factor by which the error of an accurate network may grow without a node.
    """

    intervals: int = 8
    tolerance: float = 0.3
    floor: float = 1e-7
    edge_steps: int = 12
    node_steps: int = 40
    accurate: float = 3e-3
    accurate_growth: float = 6.0


@dataclass(frozen=True)
class SelectionPolicy:
    """Replacing splines by candidates.

    Attributes:
        assignments: Maximum number of assignments of a whole graph.
        per_edge: Matches of an edge that are used.
        budget: Work for a structure.
        doubted: 1 - R^2 of the best match above which an edge gets formulas.
        smooth: Error below which splines of exact data can stay, so that it is no noise.
        as_good: Multiple of the network's error at which a formula is good enough if noise limits
            the network.
        within: Fraction of the network's error that a formula of one edge may leave.
        polished: Error below which constants are polished before formulas are compared.
        diverged: Ratio of c f to c f + d at which constants diverge.
    """

    assignments: int = 24
    per_edge: int = 5
    budget: float = 16.0
    doubted: float = 3e-8
    smooth: float = 2e-5
    as_good: float = 1.02
    within: float = 0.1
    polished: float = 1e-7
    diverged: float = 1e7


@dataclass(frozen=True)
class MixingPolicy:
    """Networks that stay numeric on some edges.

    Attributes:
        structures: Maximum number of networks that are tried.
        near: Multiple of the smallest error up to which a network is tried.
        candidates: Candidates that are tried on each edge.
        rounds: Passes over the edges that stayed numeric.
        budget: Work for all networks.
    """

    structures: int = 4
    near: float = 3.0
    candidates: int = 3
    rounds: int = 2
    budget: float = 8.0


@dataclass(frozen=True)
class SymmetryPolicy:
    """Scalings, translations and norms, read off the derivatives of a Gaussian process fit.

    Attributes:
        tuned: Points from which the fit's lengths are found.
        steps: Maximum number of steps for that.
        points: Points that the fit goes through.
        resolved: Error above which the fit is repeated with twice as many points.
        no_fit: Error above which the fit says nothing.
        accurate: Error below which a fit is as good as exact.
        idle: Strength of an input without effect, relative to the strongest one.
        slopes: Minimum number of points at which slopes are read.
        tolerance: Size of a small eigenvalue's square root.
        slope_error: Error of slopes relative to that of the fit.
        pairs: Pairs of inputs that are tried.
        error_growth: Factor by which the fit's error may grow in fewer variables.
        constant: Relative deviation of a constant.
        indices: Maximum number of products or sums of which y may be a function alone.
        rough: Roughness of y along these, relative to that in no order.
        deviations: Standard errors within which exponents of a power law are rounded.
        sizes: Minimum ratio of the largest and the smallest |y| for relative noise.
        noise: Minimum relative noise.
        noise_factor: Validation error of the logarithm, relative to its noise.
        likelier: Minimum gain of relative noise in nats.
    """

    tuned: int = 250
    steps: int = 25
    points: int = 600
    resolved: float = 0.02
    no_fit: float = 0.2
    accurate: float = 1e-5
    idle: float = 1e-4
    slopes: int = 80
    tolerance: float = 0.03
    slope_error: float = 3.5
    pairs: int = 4
    error_growth: float = 1.5
    constant: float = 1e-9
    indices: int = 4000
    rough: float = 0.2
    deviations: float = 2.5
    sizes: float = 10.0
    noise: float = 5e-4
    noise_factor: float = 1.5
    likelier: float = 3.0


@dataclass(frozen=True)
class DictionaryPolicy:
    """The dictionary of several inputs, and the sums of its entries that are compared with y.

    Attributes:
        inputs: Maximum number of inputs.
        constants: Constants of a function of a term; twice as many of a function of an input.
        factors: Simplest entries of which products and sums of two are formed.
        inner: Simplest entries of these of which functions are formed.
        thirds: Simplest entries that are joined with an input.
        entries: Size of the dictionary.
        simple: Entries for functions of y and for y divided by a weight.
        few: Entries for quotients, and for functions of y divided by a weight.
        triples: Entries of which triples are compared.
        weights: Simplest entries that are tried as weights.
        points: Points at which terms are compared.
        kept: Sums of each kind that are looked at.
        promising: Fraction of the variance that a sum may leave.
        exact: Relative error of an exact formula.
        returned: Number of other formulas that are returned.
        refined: Number of those that are kept after a refit.
    """

    inputs: int = 5
    constants: int = 4
    factors: int = 120
    inner: int = 300
    thirds: int = 200
    entries: int = 8000
    simple: int = 3200
    few: int = 600
    triples: int = 160
    weights: int = 8
    points: int = 80
    kept: int = 6
    promising: float = 1e-4
    exact: float = 1e-10
    returned: int = 8
    refined: int = 2


@dataclass(frozen=True)
class RidgePolicy:
    """A quadratic polynomial and a factor times one function of a bilinear form.

    Attributes:
        inputs: Maximum number of inputs.
        max_forms: Maximum number of forms of three monomials.
        points: Points at which formulas are compared and fitted.
        kept: Nearest forms of each function and factor.
        promising: Fraction of the variance that these may leave.
        tried: Formulas that are refitted.
        steps: Maximum number of steps of a refit.
        returned: Number of formulas that are returned.
    """

    inputs: int = 3
    max_forms: int = 8000
    points: int = 120
    kept: int = 2
    promising: float = 0.6
    tried: int = 16
    steps: int = 60
    returned: int = 3


@dataclass(frozen=True)
class SumProductPolicy:
    """A constant and one product of sums of functions, by alternating least squares.

    Attributes:
        inputs: Maximum number of inputs.
        grids: Intervals of the splines. All groups of inputs are tried on the first of them, a
            factor for each input on the others.
        max_error: Error at or above which the next grid is tried.
        points: Minimum number of points for each coefficient.
        margin: Margin of the grids, relative to the range of the points.
        ridge: Ridge relative to the mean of the diagonal.
        starts: Number of random starts.
        tried: Sweeps of each start.
        sweeps: Maximum number of further sweeps of the best one.
        gain: Relative gain of a sweep below which they end.
    """

    inputs: int = 6
    grids: tuple[int, ...] = (6, 24, 60)
    max_error: float = 0.1
    points: int = 4
    margin: float = 0.02
    ridge: float = 1e-10
    starts: int = 4
    tried: int = 6
    sweeps: int = 60
    gain: float = 1e-3


@dataclass(frozen=True)
class SearchPolicy:
    """The search as a whole.

    Attributes:
        budget: Total work.
        search_fraction: Fraction of it for the search; the rest is for rounding and simplification.
        longer_search_budget: Work for all longer searches in structures.
        snap_threshold: Error up to which a network is snapped.
        degree: Degree of the splines.
        ranked: Maximum number of structures that are ranked by coarse fits.
        explored: Number of the best of them that are trained.
        ranking_stop_error: Error of a coarse fit that ends the ranking.
        edge_handicap: Factor of the error of a coarse fit for each edge.
        surrogate: Width and intervals of the KAN that shows which inputs act together.
        module: Sine by which its gradient may turn within a module.
        uncertain: The same as a multiple of its error (chosen on four seeds of nested_4d).
        module_inputs: Maximum number of inputs for which all subsets are tested.
        no_formula_factor: Factor of the error of a structure without a formula.
        noise_stop_ratio: Multiple of the best network's error at which a formula ends the search if
            it leaves noise.
        single_edge_budget_fraction: Fraction of the remaining budget for the function of a single
            input.
        plain: Maximum number of inputs at which two plain networks are trained first of all.
        group_fraction: Fraction of the remaining budget for a search in the groups that symmetries
            leave.
    """

    budget: float = 60.0
    search_fraction: float = 0.85
    longer_search_budget: float = 30.0
    snap_threshold: float = 0.05
    degree: int = 3
    ranked: int = 14
    explored: int = 7
    ranking_stop_error: float = 3e-3
    edge_handicap: float = 1.2
    surrogate: tuple[int, int] = (5, 8)
    module: float = 0.12
    uncertain: float = 2.0
    module_inputs: int = 9
    no_formula_factor: float = 100.0
    noise_stop_ratio: float = 1.05
    single_edge_budget_fraction: float = 0.8
    plain: int = 3
    group_fraction: float = 0.6
    symmetry: SymmetryPolicy = field(default_factory=SymmetryPolicy)
    quotients: QuotientPolicy = field(default_factory=QuotientPolicy)
    dictionary: DictionaryPolicy = field(default_factory=DictionaryPolicy)
    ridge: RidgePolicy = field(default_factory=RidgePolicy)
    sum_product: SumProductPolicy = field(default_factory=SumProductPolicy)
    training: GraphTrainingPolicy = field(default_factory=GraphTrainingPolicy)
    pruning: PruningPolicy = field(default_factory=PruningPolicy)
    matching: MatchingPolicy = field(default_factory=MatchingPolicy)
    univariate: UnivariatePolicy = field(default_factory=UnivariatePolicy)
    selection: SelectionPolicy = field(default_factory=SelectionPolicy)
    mixing: MixingPolicy = field(default_factory=MixingPolicy)
    rounding: RoundingPolicy = field(default_factory=RoundingPolicy)
    simplification: SimplificationPolicy = field(default_factory=SimplificationPolicy)


@dataclass(frozen=True)
class SearchProblem:
    """Data of a formula search, the candidate functions of edges, and its policy.

    `dimensions` are the exponents of the base units of the inputs and, last, the output, shape
    (inputs + 1, bases), if they are known.
    """

    data: SearchData
    candidates: tuple[Candidate, ...]
    policy: SearchPolicy = field(default_factory=SearchPolicy)
    dimensions: Array | None = None
