"""A model as one Python file that needs NumPy alone: the module `runtime` with the model's data after it."""

from __future__ import annotations

import inspect
from typing import Any

from kanrun.exports import runtime
from kanrun.exports.document import Document

_END = '''

def predict(table: Any) -> Rows:
    """Outputs (rows, outputs) for a table or for rows of numbers; see the top of the file."""
    return evaluate(MODEL, encode(MODEL, table))
'''


def python_source(pieces: Document) -> str:
    """The file's text. All that comes from the model stands in it as literals."""
    return f"{inspect.getsource(runtime)}\n\n#: The data of the model.\nMODEL = {_literal(pieces, '')}\n{_END}"


def _literal(value: Any, indent: str) -> str:
    """Dictionaries and lists of them over several lines, all else in one, texts in ASCII."""
    inner = f"{indent}    "
    if isinstance(value, dict):
        entries = [f"{inner}{key!a}: {_literal(entry, inner)}," for key, entry in value.items()]
        return "\n".join(["{", *entries, f"{indent}}}"])
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(["[", *(f"{inner}{_literal(entry, inner)}," for entry in value), f"{indent}]"])
    return ascii(value)
