"""Differential equations: Taylor series, residuals as least squares, solutions on a box."""

from kanrun.engine.equations.fields import (
    Field,
    HardConditions,
    OutputForm,
    Windows,
    breakpoints_of,
)
from kanrun.engine.equations.policy import (
    Ansatz,
    Create,
    EquationPolicy,
    EquationStage,
    Grids,
    Method,
    Solution,
)
from kanrun.engine.equations.residuals import Block, ResidualProblem, Residuals, arguments_at
from kanrun.engine.equations.solving import solve
from kanrun.engine.equations.system import (
    Condition,
    EvolutionSystem,
    Face,
    IncompatibleCorner,
    Observations,
    System,
    evolution_system,
)
from kanrun.engine.equations.taylor import Monomials
from kanrun.engine.equations.tensor_splines import is_direct
