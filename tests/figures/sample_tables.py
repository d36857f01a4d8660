"""Small tables like those of runs, and functions that inspect a figure."""

import itertools
import warnings

import numpy as np
import pandas as pd


def predictions(inputs, rows=60, lattice=False):
    """Return train, test and grid rows of two seeds; predictions are 0.1 above the true values."""
    x = np.random.default_rng(0).uniform(-1, 1, (3 * rows, inputs))
    if lattice:
        x[-rows:] = np.indices((rows // 6, 6)).reshape(2, -1).T
    table = pd.DataFrame(x, columns=[f"input:x{i}" for i in range(inputs)])
    y = np.sin(x.sum(axis=1))
    table["split"] = np.repeat(["train", "test", "grid"], rows)
    table = table.assign(**{"truth:y": y, "prediction:y": y + 0.1})
    return pd.concat([table.assign(seed=seed) for seed in (0, 1)], ignore_index=True)


def edges(shape):
    """Return a table of all edges of a network at 21 points; their scores decrease from 1."""
    layers = enumerate(itertools.pairwise(shape))
    places = [(n, o, i) for n, (a, b) in layers for o in range(b) for i in range(a)]
    table = pd.DataFrame(places, columns=["layer", "out", "in"])
    table["score"] = 1 - table.index / len(table)
    table["input_name"] = ("column " + table["in"].astype(str)).where(table["layer"] == 0, None)
    table["output_name"] = np.where(table["layer"] == len(shape) - 2, "target", None)
    x = np.linspace(-1, 1, 21)
    table = table.merge(pd.DataFrame({"x": x, "x_data": x}), how="cross")
    y = (table["in"] + 1) * table["x"] + table["out"]
    return table.assign(seed=0, seen=True, pruned=False, y=y)


def stored(figure):
    """Lay out a figure, check that matplotlib does not warn, and return the panels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", "'.*deprecated", DeprecationWarning
        )  # from pyparsing in older matplotlib
        figure.draw_without_rendering()
    return figure.axes


def legend(figure):
    """Return the texts of all legends, those of the figure before those of panels."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for one in legends if one is not None for text in one.get_texts()]


def ticks(axis):
    """Return the texts at the major ticks of an axis."""
    return [text.get_text() for text in axis.get_ticklabels()]
