"""A model as one Python file that needs NumPy alone: the module `runtime`, what it uses, and the model's data."""

from __future__ import annotations

import inspect
from typing import Any

from kanrun.exports import runtime
from kanrun.exports.document import Document
from kanrun.targets.encoding import days_from, place_of, text_of

_END = '''

def predict(table: Any) -> Array:
    """Outputs (rows, outputs) for a table or for rows of numbers; see the top of the file."""
    return evaluate(MODEL, encode(MODEL, table))
'''


def python_source(pieces: Document) -> str:
    """The file's text. All that comes from the model stands in it as literals."""
    lines = inspect.getsource(runtime).splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith("from kanrun."))
    used = "".join(f"\n\n{inspect.getsource(function)}" for function in (days_from, place_of, text_of))
    return f"{own}{used}\n\n#: The data of the model.\nMODEL = {_literal(pieces, '')}\n{_END}"


def _literal(value: Any, indent: str) -> str:
    """Dictionaries and lists of them over several lines, all else in one, texts in ASCII."""
    inner = f"{indent}    "
    if isinstance(value, dict):
        entries = [f"{inner}{key!a}: {_literal(entry, inner)}," for key, entry in value.items()]
        return "\n".join(["{", *entries, f"{indent}}}"])
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(["[", *(f"{inner}{_literal(entry, inner)}," for entry in value), f"{indent}]"])
    return ascii(value)
