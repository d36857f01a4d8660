"""Small tables like those of runs, and functions that inspect a figure."""

import itertools
import warnings

import numpy as np
import pandas


def predictions(inputs, truth=True, lattice=False, rows=60):
    """Return train, test and grid rows; each prediction is 0.1 above the true value."""
    generator = np.random.default_rng(0)
    parts = []
    for split in ("train", "test", "grid"):
        x = generator.uniform(-1, 1, (rows, inputs))
        if split == "grid" and lattice:
            axis = np.linspace(-1, 1, 8)
            x = np.stack(np.meshgrid(*[axis] * inputs), axis=-1).reshape(-1, inputs)
        y = np.sin(x.sum(axis=1))
        part = pandas.DataFrame({f"input:x{i}": column for i, column in enumerate(x.T)})
        part["truth:y"] = y if truth or split == "train" else np.nan
        parts.append(part.assign(**{"prediction:y": y + 0.1, "split": split, "seed": 0}))
    table = pandas.concat(parts, ignore_index=True)
    return pandas.concat([table, table.assign(seed=1)], ignore_index=True)


def edges(shape, points=21):
    """Return a table of all edges of a network; their scores decrease from 1."""
    x = np.linspace(-1, 1, points)
    layers = list(itertools.pairwise(shape))
    places = [(i, o, s) for i, (a, b) in enumerate(layers) for o in range(b) for s in range(a)]
    rows = [
        pandas.DataFrame(
            {
                "seed": 0,
                "layer": layer,
                "out": out,
                "in": source,
                "x": x,
                "x_data": x,
                "seen": True,
                "pruned": False,
                "y": (source + 1) * x + out,
                "score": 1 - rank / len(places),
                "input_name": None if layer else f"column {source}",
                "output_name": "target" if layer == len(layers) - 1 else None,
            }
        )
        for rank, (layer, out, source) in enumerate(places)
    ]
    return pandas.concat(rows, ignore_index=True)


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
