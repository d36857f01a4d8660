"""From data and networks to formulas.

Candidates, matching, selection in context, structures, certificates.
"""

from kanrun.engine.symbolic.budget import Budget, WorkSpent, at_most, count_work, limited
from kanrun.engine.symbolic.candidates import TABLE, Candidate, choose, input_names
from kanrun.engine.symbolic.edge_functions import EdgeMatch, Identity, Spline, Symbolic
from kanrun.engine.symbolic.formula import (
    Certificate,
    ConstantInterval,
    Formula,
    certify,
    confidence_intervals,
    finish_formula,
    rename_variables,
    significant,
    widened,
)
from kanrun.engine.symbolic.graph import (
    IDENTITY_LABEL,
    Edge,
    Graph,
    Subgraph,
    depths,
    edge_name,
    function_label,
    shape_of,
)
from kanrun.engine.symbolic.graph_changes import edge_scores
from kanrun.engine.symbolic.laws import fit_expression
from kanrun.engine.symbolic.matching import match_edge
from kanrun.engine.symbolic.problem import (
    EXACT,
    FittedStructure,
    SearchData,
    SearchPolicy,
    SearchProblem,
    SearchStage,
)
from kanrun.engine.symbolic.refit import (
    ConstantsFitting,
    TrainedGraph,
    fit_constants,
)
from kanrun.engine.symbolic.search import choose_formula, fixed_shape, search
from kanrun.engine.symbolic.simplification import (
    as_written,
    equivalent_forms,
    exact_decimals,
    has_form_of,
    proven_equal,
    round_numbers,
)
from kanrun.engine.symbolic.smooth_fit import errors_are_relative
from kanrun.engine.symbolic.snapping import (
    Decision,
    matched,
    partly_symbolic,
    refine_to_formula,
)
from kanrun.engine.symbolic.univariate import match_formulas
