"""What --help of an experiment's command says beside the options: groups and choices, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

import kanrun.conf
from kanrun.config import EXPERIMENTS, GROUPS


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
        plugins = [name for name, kind in GROUPS.get(group, {}).items() if kind.is_plugin]
        if place.is_dir():
            yield group, sorted([*(path.stem for path in place.glob("*.yaml")), *plugins])


def _groups_in(primary: Path) -> Iterator[str]:
    for line in primary.read_text(encoding="utf-8").splitlines():
        name = line.strip().removeprefix("- ").partition(":")[0].removeprefix("optional ").lstrip("/")
        if line.startswith("  - ") and ":" in line and not name.startswith(("override ", "hydra")):
            yield name
