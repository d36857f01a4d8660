"""Find formulas for data and for trained networks.

The package matches candidate functions to the edges of a network, searches for the structure of a
formula, fits and rounds its constants, and certifies the result on new points.
"""

from kanrun.engine.symbolic.budget import Budget, WorkSpent, count_work, limited
from kanrun.engine.symbolic.candidates import TABLE, choose, input_names, input_symbols
from kanrun.engine.symbolic.certificate import (
    Certificate,
    Evidence,
    VerificationData,
    certify,
    evidence,
)
from kanrun.engine.symbolic.formula import (
    Formula,
    finish_formula,
    rename_variables,
    widened,
)
from kanrun.engine.symbolic.graph import Edge, Graph, Spline, Symbolic, depths, edge_name, shape_of
from kanrun.engine.symbolic.problem import (
    EXACT,
    FittedStructure,
    Rival,
    SearchData,
    SearchProblem,
    SearchStage,
    titled,
)
from kanrun.engine.symbolic.refit import (
    ConstantInterval,
    ConstantsFitting,
    confidence_intervals,
    fit_constants,
    open_constants,
    significant,
)
from kanrun.engine.symbolic.search import choose_formula, fit_expression, search
from kanrun.engine.symbolic.simplification import (
    as_written,
    equivalent_forms,
    exact_decimals,
    round_numbers,
)
from kanrun.engine.symbolic.smooth_fit import errors_are_relative
from kanrun.engine.symbolic.snapping import (
    Decision,
    edge_scores,
    match_edge,
    partly_symbolic,
    refine_to_formula,
)
from kanrun.engine.symbolic.sparse import LARGEST_SAMPLE
