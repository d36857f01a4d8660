"""Names of cells, made of the settings in which they differ."""

from kanrun.study import names_of


def test_names_of_cells_leave_out_what_all_share():
    expression = {"kind": "expression", "formula": "x0^2"}
    cells = [
        {"target": {"kind": "named"}, "model": {"hidden": [2], "degree": 3}, "bounds": {"r2": 1}},
        {"target": expression, "model": {"hidden": [], "degree": 3}},
        {"target": expression, "model": {"hidden": [4, 2], "degree": 3}},
    ]
    assert names_of(cells) == [
        "target.kind=named, model.hidden=[2]",
        "target.kind=expression, model.hidden=[], target.formula=x0^2",
        "target.kind=expression, model.hidden=[4, 2], target.formula=x0^2",
    ]


def test_cells_with_equal_names_get_numbers():
    assert names_of([{}, {}, {"part": "a"}]) == ["cell 0", "cell 1", "part=a"]
    long = "sin(x0) + " * 10
    first, second = names_of([{"f": f"{long}1"}, {"f": f"{long}2"}])
    assert (first[-9:], second[-9:]) == ("…, cell 0", "…, cell 1")
