"""Edges, graphs and data for the tests of the search for formulas."""

import numpy as np

from kanrun.engine.symbolic import Edge, Graph, SearchData, Symbolic
from kanrun.engine.symbolic.candidates import TABLE
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse


def split(x, y, validation=0.25):
    """Return data whose last points, the fraction `validation`, are used for validation."""
    cut = round((1 - validation) * len(y))
    return SearchData(x[:cut], y[:cut], x[cut:], y[cut:])


def uniform(low, high, count, inputs, seed=0):
    return np.random.default_rng(seed).uniform(low, high, (count, inputs))


def evaluate(formula, x):
    return to_numpy(formula, [f"x{i}" for i in range(x.shape[1])])(x)


def points(text, low, high, inputs, count=500):
    x = uniform(low, high, count, inputs, 3)
    return split(x, evaluate(parse(text), x), 0.1)


def edge(source, target, name, *constants, free="abcd"):
    return Edge(source, target, Symbolic(TABLE[name], constants, free))


def one_edge(name, *constants, free="abcd"):
    return Graph(1, ("sum",), (edge(0, 1, name, *constants, free=free),))
