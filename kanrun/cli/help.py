"""What --help of an experiment's command says beside the options: groups and choices, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

import kanrun.conf
from kanrun.config.catalogue import module_of


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
    """The groups of a command with their choices, read from the names of the configuration files alone.

    They are those that the primary configuration's defaults name, in its order; the choices of `study` are
    the command's own.
    """
    module = module_of(command)
    folder = Path(kanrun.conf.__path__[0])
    primary = (folder / f"{module}.yaml").read_text(encoding="utf-8")
    for line in primary.splitlines():
        name = line.strip().removeprefix("- ").partition(":")[0].removeprefix("optional ").lstrip("/")
        place = folder / name / module if name == "study" else folder / name
        if line.startswith("  - ") and ":" in line and not name.startswith(("override ", "hydra")) and place.is_dir():
            yield name, sorted(path.stem for path in place.glob("*.yaml"))
