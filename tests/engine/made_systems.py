"""Systems from text, and what a solver returns."""

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
    """Return what a generator returns."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value
