"""Functions that read systems of equations from text and run their solvers."""

from kanrun.experiments.solve.config import EquationConfig
from kanrun.experiments.solve.settings import EquationParser


def parsed(variables, formula, conditions, unknowns=("u",), **more):
    config = EquationConfig(
        variables=variables,
        formula=formula,
        conditions=list(conditions),
        unknowns=list(unknowns),
        **more,
    )
    return EquationParser(config).system()


def finished(running):
    """Run a generator to its end, and return the value that it returns."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value
