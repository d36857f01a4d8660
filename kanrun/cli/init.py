"""`kanrun init`: a small package of one's own, which adds a part of each kind to kanrun."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from kanrun.errors import UsageError

STARTER = Path(__file__).with_name("starter")
"""Its files, with `.in` after their names; NAME and DISTRIBUTION stand for the package's."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The package's. Default: that of the folder."),
    ] = None,
) -> None:
    """Write a small package of your own: a model, a solver, a target, an experiment, a configuration and their test."""
    module = re.sub(r"[^a-z0-9]+", "_", (name or folder.absolute().name).lower()).strip("_")
    if (
        not module.isidentifier()
        or keyword.iskeyword(module)
        or module in {"kanrun", *sys.stdlib_module_names}
    ):
        raise UsageError(
            f"{module!r} cannot be the name of a package; give one with --name, such as my_kans."
        )
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and is not an empty folder; name a new one.")
        for source in sorted(path for path in STARTER.rglob("*.in") if path.is_file()):
            place = folder / _filled(
                source.relative_to(STARTER).as_posix().removesuffix(".in"), module
            )
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(_filled(source.read_text(encoding="utf-8"), module), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror or error}; name another folder."
        ) from error
    print(
        f"kanrun: {folder}/README.md says what is in it; install it with: pip install -e {folder}",
        file=sys.stderr,
    )
    print(folder)


def _filled(text: str, module: str) -> str:
    return text.replace("DISTRIBUTION", module.replace("_", "-")).replace("NAME", module)
