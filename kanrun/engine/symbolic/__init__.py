"""From data and networks to formulas: candidates, matching, selection in context, structures, certificates."""

from kanrun.engine.symbolic.candidates import TABLE, Candidate, choose
from kanrun.engine.symbolic.description_length import EXACT, SearchData
from kanrun.engine.symbolic.edge_matching import EdgeMatch, match_edge
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.formula import Certificate, Formula, certify, finished, renamed
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.graph_training import TrainedGraph
from kanrun.engine.symbolic.invariances import gauges
from kanrun.engine.symbolic.search import choose_formula, fixed_shape, search
from kanrun.engine.symbolic.search_problem import NumericSettings, SearchSettings, SelectionSettings
from kanrun.engine.symbolic.snapping import Decision, Mixed, Stage, Tried, partly_symbolic, refine_to_formula

__all__ = [
    "EXACT",
    "TABLE",
    "Candidate",
    "Certificate",
    "Decision",
    "Edge",
    "EdgeMatch",
    "Formula",
    "Graph",
    "Identity",
    "Mixed",
    "NumericSettings",
    "SearchData",
    "SearchSettings",
    "SelectionSettings",
    "Spline",
    "Stage",
    "Symbolic",
    "TrainedGraph",
    "Tried",
    "certify",
    "choose",
    "choose_formula",
    "finished",
    "fixed_shape",
    "gauges",
    "match_edge",
    "partly_symbolic",
    "refine_to_formula",
    "renamed",
    "search",
]
