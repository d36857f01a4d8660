"""From data and networks to formulas: candidates, matching, selection in context, structures, certificates."""

from kanrun.engine.symbolic.candidates import TABLE, Candidate, choose
from kanrun.engine.symbolic.description import EXACT
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.fixed import fixed_shape
from kanrun.engine.symbolic.formula import Certificate, Formula, certify, finished, renamed
from kanrun.engine.symbolic.gauge import gauges
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.matching import Match, match_edge
from kanrun.engine.symbolic.numeric import NumericSettings, Trained
from kanrun.engine.symbolic.partial import Decision, Mixed, partly_symbolic
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.search import search
from kanrun.engine.symbolic.selection import SelectionSettings
from kanrun.engine.symbolic.snapping import refine_to_formula
from kanrun.engine.symbolic.steps import SearchSettings, Step, Tried, choose_formula

__all__ = [
    "EXACT",
    "TABLE",
    "Candidate",
    "Certificate",
    "Decision",
    "Edge",
    "Formula",
    "Graph",
    "Identity",
    "Match",
    "Mixed",
    "NumericSettings",
    "Samples",
    "SearchSettings",
    "SelectionSettings",
    "Spline",
    "Step",
    "Symbolic",
    "Trained",
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
