"""What --help of an experiment's command says beside the options, and `kanrun keys`: every configuration key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import kanrun.conf
from kanrun.config import EXPERIMENTS
from kanrun.config.keys import Key, choices_of, keys_of
from kanrun.errors import UsageError
from kanrun.suggestions import did_you_mean


class ExperimentCommand(TyperCommand):
    """A command whose help ends with the configuration groups and with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        name, examples = ctx.obj.name, ctx.obj.examples
        with formatter.section("Configuration groups (group=choice)"):
            formatter.write_dl([(group, ", ".join(choices)) for group, choices in groups_of(name)])
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        formatter.write_paragraph()
        formatter.write_text(f"All keys and their values: kanrun {name} --cfg job")


def groups_of(command: str) -> Iterator[tuple[str, list[str]]]:
    """The groups of a command with their choices: names of configuration files, and plug-ins.

    They are those that the primary configuration's defaults name, in its order; the choices of `study` are
    the command's own. Reads no file of a group, and loads neither Hydra nor torch.
    """
    experiment, folder = EXPERIMENTS[command], Path(kanrun.conf.__path__[0])
    for group in experiment.groups or _groups_in(folder / f"{experiment.file}.yaml"):
        place = folder / group / experiment.file if group == "study" else folder / group
        if place.is_dir():
            yield group, choices_of(group, place)


def _groups_in(primary: Path) -> Iterator[str]:
    for line in primary.read_text(encoding="utf-8").splitlines():
        name = (
            line.strip().removeprefix("- ").partition(":")[0].removeprefix("optional ").lstrip("/")
        )
        if line.startswith("  - ") and ":" in line and not name.startswith(("override ", "hydra")):
            yield name


def keys(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX", help="Only keys that begin so, such as model or solver.pen."
        ),
    ] = "",
    command: Annotated[
        str | None,
        typer.Option(
            "--command", metavar="NAME", help="Only keys of this experiment, such as fit."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show the configuration keys: type, default, allowed values, and what each is."""
    known = keys_of(command)
    found = [key for key in known if key.path.startswith(prefix)]
    if not found:
        raise UsageError(
            f"no key begins with {prefix!r}{did_you_mean(prefix, [key.path for key in known]) or '.'}"
        )
    if as_json:
        print(json.dumps([asdict(key) for key in found], indent=2))
        return
    print("\n".join(_lines(key) for key in found))


def _lines(key: Key) -> str:
    values = key.allowed or ", ".join(key.choices)
    parts = [
        key.type,
        f"default {key.default}" if key.default else "",
        values if values != key.type else "",
    ]
    facts = "; ".join(part for part in parts if part)
    where = "" if len(key.where) > 3 else f" ({', '.join(key.where)})"
    return (
        f"{key.path}{where}\n    {key.about}\n    {facts}"
        if key.about
        else f"{key.path}{where}\n    {facts}"
    )
