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
        columns = {f"input:x{i}": x[:, i] for i in range(inputs)}
        known = y if truth or split == "train" else np.nan
        parts.append(
            pandas.DataFrame(
                {"seed": 0, "split": split, **columns, "truth:y": known, "prediction:y": y + 0.1}
            )
        )
    table = pandas.concat(parts, ignore_index=True)
    return pandas.concat([table, table.assign(seed=1)], ignore_index=True)


def edges(shape, points=21):
    """Return a table of all edges of a network; their scores decrease from 1."""
    x = np.linspace(-1, 1, points)
    rows = []
    total = sum(a * b for a, b in itertools.pairwise(shape))
    for layer, (sources, outs) in enumerate(itertools.pairwise(shape)):
        for out in range(outs):
            for source in range(sources):
                part = {
                    "seed": 0,
                    "layer": layer,
                    "out": out,
                    "in": source,
                    "x": x,
                    "x_data": x,
                    "seen": True,
                    "pruned": False,
                    "y": (source + 1) * x + out,
                }
                names = {
                    "input_name": f"column {source}" if layer == 0 else None,
                    "output_name": "target" if layer == len(shape) - 2 else None,
                }
                rows.append(pandas.DataFrame({**part, "score": 1 - len(rows) / total, **names}))
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
