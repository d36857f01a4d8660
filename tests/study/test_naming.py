"""Cells are called by what tells them apart."""

from kanrun.study import names_of


def test_targets_are_called_by_name_and_what_all_share_is_left_out():
    cells = [
        {
            "target": {"kind": "named", "name": "product"},
            "model": {"hidden": [2], "degree": 3},
            "bounds": {"r2": 1},
        },
        {"target": {"kind": "expression", "formula": "x0^2"}, "model": {"hidden": [], "degree": 3}},
        {
            "target": {"kind": "expression", "formula": "x0^2"},
            "model": {"hidden": [4, 2], "degree": 3},
        },
    ]
    assert names_of(cells) == ["product, hidden [2]", "x0^2, hidden []", "x0^2, hidden [4,2]"]


def test_cells_that_words_do_not_tell_apart_have_numbers():
    assert names_of([{}, {}, {"part": "a"}]) == ["cell 0", "cell 1", "a"]
    long = "sin(x0) + " * 10
    cells = [{"target": {"formula": formula}} for formula in (f"{long}1", f"{long}2", "x0")]
    start = "sin(x0) + sin(x0) + sin(x0) + sin(x0) +…, cell"
    assert names_of(cells) == [f"{start} 0", f"{start} 1", "x0"]
