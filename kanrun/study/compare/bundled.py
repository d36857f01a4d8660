"""scikit-learn's bundled tables as files for `target=table`: small real data that need no network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kanrun.config import TableTarget
from kanrun.errors import UsageError

#: name -> (loader of sklearn.datasets, task)
BUNDLED = {
    "diabetes": ("load_diabetes", "regression"),
    "linnerud": ("load_linnerud", "regression"),
    "iris": ("load_iris", "classification"),
    "wine": ("load_wine", "classification"),
    "breast_cancer": ("load_breast_cancer", "classification"),
    "digits": ("load_digits", "classification"),
}


def check_bundled(name: str) -> None:
    """Raise UsageError for a table that is not known, or where scikit-learn is not installed."""
    if name not in BUNDLED:
        raise UsageError(f"There is no bundled table {name}; choose one of {', '.join(BUNDLED)}.")
    try:
        import sklearn.datasets  # noqa: F401
    except ImportError as error:
        raise UsageError("Real tables come with scikit-learn; install kanrun[datasets].") from error


@contextmanager
def bundled_table(name: str) -> Iterator[TableTarget]:
    """The table in a temporary CSV file, which is gone after the body. Raises UsageError as `check_bundled` does."""
    check_bundled(name)
    import sklearn.datasets

    loader, task = BUNDLED[name]
    data = getattr(sklearn.datasets, loader)(as_frame=True)
    frame = data.frame
    inputs = [str(column) for column in data.data.columns]
    outputs = [str(column) for column in frame.columns if column not in data.data.columns]
    if task == "classification":
        labels = [str(label) for label in data.target_names]
        frame[outputs[0]] = [f"{outputs[0]} {labels[int(value)]}" for value in frame[outputs[0]]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.csv"
        frame.to_csv(path, index=False)
        yield TableTarget(str(path), inputs, outputs, task)
