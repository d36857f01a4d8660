"""Cases of parametrised tests, written as lines of a table."""

from ast import literal_eval


def cases(text):
    """Return the rows of a table as tuples of cells, which are separated by " | ".

    A cell that is a literal of Python becomes its value; every other cell is text.
    """
    rows = [line.strip().split(" | ") for line in text.strip().splitlines()]
    return [tuple(map(_value, row)) if len(row) > 1 else _value(row[0]) for row in rows]


def _value(cell):
    try:
        return literal_eval(cell.strip())
    except (SyntaxError, ValueError):
        return cell.strip()
