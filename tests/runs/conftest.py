import pytest

from kanrun.runs import Manifest, Point, Row, RunFolder, Status
from kanrun.runs.journal import FailedLine, FinishedLine, ResultLine
from kanrun.runs.records import write_points


@pytest.fixture(name="make_points")
def points_maker():
    return make_points


def make_points(outputs, *errors):
    """Make a run with one point for each error; a point without one failed."""
    points = [Point(n, (f"a={n}",), {"a": n, "target": "sine"}) for n in range(len(errors))]

    def fill(folder):
        write_points(folder, points)
        (folder / "config.yaml").write_text("a: 0\ntarget: {kind: named}\n")

    record = Manifest("fit", config={"a": 0, "target": {"kind": "named"}}, points=len(errors))
    folder = RunFolder.create(outputs, record, fill)
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
