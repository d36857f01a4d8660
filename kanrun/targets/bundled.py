"""The tables that scikit-learn brings: small real data that need no network."""

from __future__ import annotations

import numpy as np

from kanrun.config import BundledTarget
from kanrun.errors import UsageError
from kanrun.near import near
from kanrun.targets.data import Points, Target
from kanrun.targets.table_dataset import RowTable, classes_of, table_target

#: name -> (loader of sklearn.datasets, task)
BUNDLED = {
    "diabetes": ("load_diabetes", "regression"),
    "linnerud": ("load_linnerud", "regression"),
    "iris": ("load_iris", "classification"),
    "wine": ("load_wine", "classification"),
    "breast_cancer": ("load_breast_cancer", "classification"),
    "digits": ("load_digits", "classification"),
}


def read_bundled(config: BundledTarget) -> RowTable:
    """The table with its classes called by their names, such as `target virginica`.

    Raises UsageError for a table that is not known, or where scikit-learn is not installed.
    """
    name = config.name
    if name not in BUNDLED:
        raise UsageError(
            f"target.name={name!r}: there is no bundled table {name}{near(name, BUNDLED)}; "
            f"known are {', '.join(BUNDLED)}."
        )
    try:
        import sklearn.datasets
    except ImportError:
        raise UsageError(
            f"the table {name} comes with scikit-learn, which is not installed; run: pip install 'kanrun[datasets]'."
        ) from None
    loader, task = BUNDLED[name]
    data = getattr(sklearn.datasets, loader)(as_frame=True)
    inputs = tuple(str(column) for column in data.data.columns)
    outputs = tuple(str(column) for column in data.frame.columns if column not in data.data.columns)
    x = data.data.to_numpy(dtype=np.float64)
    y = data.frame[list(outputs)].to_numpy(dtype=np.float64)
    if task == "regression":
        return RowTable(name, inputs, outputs, Points(x, y))
    names = [f"{outputs[0]} {label}" for label in data.target_names]
    classes, labels = classes_of([names[int(number)] for number in y[:, 0]], outputs[0])
    return RowTable(name, inputs, outputs, Points(x, labels[:, None].astype(np.float64)), classes, labels)


def build_bundled(config: BundledTarget) -> Target:
    """The table's columns as a target without a function; its domain is the range of all rows."""
    return table_target(read_bundled(config))
