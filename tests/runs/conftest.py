import pytest

from kanrun.runs import Manifest, Point, Row, RunFolder, Status
from kanrun.runs.records import FailedLine, FinishedLine, ResultLine


@pytest.fixture(name="make_points", scope="session")
def points_maker():
    return make_points


def make_points(outputs, *errors):
    """Return a function that makes a run with one point per error; None means a failed point."""
    points = [Point(n, (f"a={n}",), {"a": n, "target": "sine"}) for n in range(len(errors))]

    base = {"a": 0, "target": {"kind": "named"}}
    folder = RunFolder.create(outputs, Manifest("fit", points=tuple(points), bases=(base,)))
    for number, error in enumerate(errors):
        marks = {"point": number, "seed": 0}
        if error is None:
            folder.record(FailedLine(**marks, reason="it diverged"))
            continue
        folder.rows(Row("summary", {"test_rmse": error}), marks)
        folder.record(FinishedLine(**marks))
        folder.record(ResultLine(number, metrics={"test_rmse": error}))
    folder.finish(Status.FAILED if None in errors else Status.COMPLETED)
    return folder.path
