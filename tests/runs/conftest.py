import pytest

from kanrun.runs import Manifest, Point, RunFolder, Status
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

    folder = RunFolder.create(outputs, Manifest("fit", points=len(errors)), fill)
    for number, error in enumerate(errors):
        key = [number, 0, 0]
        if error is None:
            folder.journal({"failed": key, "digest": "", "reason": "it diverged"})
            continue
        folder.table("summary").extend(
            {"point": [number], "a": [number], "seed": [0], "test_rmse": [error]}
        )
        rows = {"summary": [1, ["seed", "test_rmse"]]}
        folder.journal({"finished": key, "digest": "", "rows": rows})
        folder.journal({"point": number, "metrics": {"test_rmse": error}, "claims": []})
    folder.finish(Status.FAILED if None in errors else Status.COMPLETED)
    return folder.path
