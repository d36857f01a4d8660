"""The inputs of a table that matter: a search in all of them would not end."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.budget import count_work
from kanrun.engine.symbolic.candidates import input_symbols
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.symmetries import Reduction
from kanrun.engine.tables.effects import importance_table
from kanrun.engine.tables.table_model import TablePolicy, fit_table
from kanrun.points import Points

#: Number of inputs from which on only those that matter are searched, and how many these are at
#: most: the formulas of physics in the score cards have up to 9 inputs.
_MANY, _MOST = 10, 8
#: Increase of the error if an input is permuted, relative to the largest of all inputs, from which
#: it matters: of 16 inputs with noise of 15% of the variance, idle ones have up to 0.03.
_MATTERS = 0.05
#: Rows on which the importance is measured, and its work.
_ROWS, _WORK = 1000, 2.0
#: Relative part of an input that others do not determine, below which it is left out.
_DEPENDENT = 1e-9


def relevant_inputs(data: SearchData) -> Reduction:
    """Return the inputs that matter, unchanged, as the variables of a search.

    Constant inputs and those that are sums of others before them, such as the last of several
    exclusive indicators, are left out. Of many, the most important ones by the model of tables are
    kept.
    """
    x, inputs = data.all_points.x, data.x.shape[1]
    kept, basis = list[int](), np.ones((len(x), 1)) / np.sqrt(len(x))
    for j, column in enumerate((x - x.mean(0)).T):
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > _DEPENDENT * np.linalg.norm(x[:, j]):
            kept.append(j)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    if len(kept) >= _MANY:
        count_work(_WORK)
        points = Points(x[:_ROWS, kept], data.all_points.y[:_ROWS, None])
        model = fit_table(points, None, TablePolicy(folds=0))
        table = importance_table(model, points, {str(j): [i] for i, j in enumerate(kept)}, 0)
        importance = table["permutation_importance"]
        kept = sorted(map(int, table["input"][importance >= _MATTERS * importance[0]][:_MOST]))
    symbols = input_symbols(inputs)
    return Reduction(inputs, tuple(symbols[j] for j in kept))
