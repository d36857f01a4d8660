"""Tables of test cases for parametrised tests, written as text with one case per line."""

import re
from ast import literal_eval

import pytest

from kanrun.errors import UsageError


def cases(text):
    """Return the rows of a table as tuples of cells, which are separated by " | ".

    A cell that is a Python literal is converted to its value; all others stay text.
    """
    rows = [line.strip().split(" | ") for line in text.strip().splitlines()]
    return [tuple(map(_value, row)) if len(row) > 1 else _value(row[0]) for row in rows]


def _value(cell):
    try:
        return literal_eval(cell.strip())
    except (SyntaxError, ValueError):
        return cell.strip()


def refuses(text):
    """Expect a refusal that contains the parts of `text` between " ... " in this order."""
    return pytest.raises(UsageError, match=".*".join(map(re.escape, text.split(" ... "))))
