"""Differential equations: jets through networks, residuals as a least squares problem, and their solution on a box."""

from kanrun.engine.equations.enrichment import edges_of
from kanrun.engine.equations.equation_policy import (
    Ansatz,
    Create,
    EquationPolicy,
    EquationStage,
    Residuals,
    Solution,
)
from kanrun.engine.equations.field import Field, OutputForm, Windows
from kanrun.engine.equations.jets import Monomials
from kanrun.engine.equations.residuals import Block, ResidualProblem, evaluate
from kanrun.engine.equations.solving import solve
from kanrun.engine.equations.system import Condition, Corner, Face, Measured, System
