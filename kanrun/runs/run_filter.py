"""Conditions on runs as people type them, such as `test_rmse < 1e-4 and model.kind == 'kan'`.

The text is parsed by Python's own grammar and held to a whitelist of its nodes: names of columns, constants, lists,
comparisons, `in`, `and`, `or`, `not`. Nothing is evaluated but those.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kanrun.errors import UsageError
from kanrun.suggestions import near

Row = Mapping[str, Any]
Part = Callable[[Row], Any]
_LONGEST = 2000
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


class RunFilter:
    """A parsed condition; `columns` are the names in it. Raises UsageError for what cannot be read."""

    def __init__(self, text: str) -> None:
        self.text, self.columns = text, set[str]()
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"it is longer than {_LONGEST} characters")
            self._holds = self._part(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            cause = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
            raise UsageError(
                f"the condition {text!r} cannot be read: {cause}; write it like test_rmse < 1e-4 and seed == 0."
            ) from error

    def holds(self, row: Row) -> bool:
        """Whether `row` fulfils it. What a row does not have is None, and a comparison of other types is false."""
        return bool(self._holds(row))

    def _part(self, node: ast.AST) -> Part:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts, combine = [self._part(value) for value in values], all if isinstance(op, ast.And) else any
                return lambda row: combine(part(row) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                part = self._part(inner)
                return lambda row: not part(row)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda row: -number
            case ast.Compare(left=left, ops=ops, comparators=rest):
                return self._comparison([self._part(one) for one in (left, *rest)], [type(op) for op in ops])
            case ast.Constant(value=None | str() | int() | float() as value):
                return lambda row: value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts = [self._part(element) for element in elements]
                return lambda row: [part(row) for part in parts]
            case ast.Name() | ast.Attribute():
                return self._column(ast.unparse(node))
        raise ValueError(f"{ast.unparse(node)!r} is no column, value or comparison")

    def _column(self, name: str) -> Part:
        if not all(word.isidentifier() for word in name.split(".")):
            raise ValueError(f"{name!r} is no name of a column")
        if name.lower() in _WORDS:
            value = _WORDS[name.lower()]
            return lambda row: value
        self.columns.add(name)
        return lambda row: row.get(name)

    @staticmethod
    def _comparison(parts: list[Part], kinds: list[type]) -> Part:
        for kind in kinds:
            if kind not in _COMPARISONS:
                raise ValueError("`is` compares nothing here")
        tests = [_COMPARISONS[kind] for kind in kinds]

        def compare(row: Row) -> bool:
            values = [part(row) for part in parts]
            try:
                return all(test(a, b) for test, a, b in zip(tests, values, values[1:], strict=False))
            except TypeError:
                return False

        return compare


def unknown_column(name: str, known: Collection[str], where: str = "") -> UsageError:
    """The error of a column that no run has."""
    place = f" {where}" if where else ""
    return UsageError(f"no run has a column {name!r}{place}{near(name, known) or '; see them with --json.'}")
