"""From data and networks to formulas.

Candidates, matching, selection in context, structures, certificates.
"""

from kanrun.engine.symbolic.budget import Budget, WorkSpent, at_most, count_work, limited
from kanrun.engine.symbolic.candidates import TABLE, Candidate, choose
from kanrun.engine.symbolic.constants import ConstantInterval, confidence_intervals
from kanrun.engine.symbolic.description_length import EXACT, SearchData
from kanrun.engine.symbolic.edge_functions import Identity, Spline, Symbolic
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.formula import (
    Certificate,
    Formula,
    certify,
    finish_formula,
    rename_variables,
)
from kanrun.engine.symbolic.graph import Edge, Graph, Subgraph, depths
from kanrun.engine.symbolic.graph_pruning import edge_scores
from kanrun.engine.symbolic.refit import (
    ConstantsFitting,
    GraphTrainingPolicy,
    TrainedGraph,
    fit_constants,
)
from kanrun.engine.symbolic.search import choose_formula, fixed_shape, search
from kanrun.engine.symbolic.search_problem import SearchPolicy, SearchProblem
from kanrun.engine.symbolic.simplification import (
    SimplificationPolicy,
    as_written,
    equivalent_forms,
    exact_decimals,
    round_numbers,
    simplify_expression,
)
from kanrun.engine.symbolic.snapping import (
    Decision,
    FittedStructure,
    PartlySymbolic,
    SearchStage,
    matched,
    partly_symbolic,
    refine_to_formula,
)
from kanrun.engine.symbolic.structure import fit_expression
from kanrun.engine.symbolic.univariate import match_formulas
