"""`kanrun keys`: every configuration key."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from kanrun.config.keys import Key, keys_of
from kanrun.errors import UsageError
from kanrun.suggestions import near


def keys(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only keys that begin so, such as model or solver.pen.")
    ] = "",
    command: Annotated[
        str | None, typer.Option("--command", metavar="NAME", help="Only keys of this experiment, such as fit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show the configuration keys: type, default, allowed values, and what each is."""
    known = keys_of(command)
    found = [key for key in known if key.path.startswith(prefix)]
    if not found:
        raise UsageError(f"no key begins with {prefix!r}{near(prefix, [key.path for key in known]) or '.'}")
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=2))
        return
    print("\n".join(_lines(key) for key in found))


def _lines(key: Key) -> str:
    values = key.allowed or ", ".join(key.choices)
    parts = [key.type, f"default {key.default}" if key.default else "", values if values != key.type else ""]
    facts = "; ".join(part for part in parts if part)
    where = "" if len(key.where) > 3 else f" ({', '.join(key.where)})"
    return f"{key.path}{where}\n    {key.about}\n    {facts}" if key.about else f"{key.path}{where}\n    {facts}"
