"""Commands from functions: signature and docstring declare arguments and options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from kanrun.cli.completion import complete_override, complete_run

F = TypeVar("F", bound=Callable[..., None])
#: An entry of the section Args, such as `output (-o FILE): File of the predictions.`
_ENTRY = re.compile(r"^    (\w+)(?: \((.*?)\))?: (.+(?:\n     +.+)*)", re.MULTILINE)
_RUN = "latest, fit/latest, fit/v0003, fit/v0003/7 (a point), a path, a tag, or a beginning."

RunName = Annotated[str, typer.Argument(metavar="RUN", help=_RUN, autocompletion=complete_run)]
RunNames = Annotated[
    list[str], typer.Argument(metavar="RUN...", help=_RUN, autocompletion=complete_run)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Changes to the configuration: key=value, group=choice, +key=value, ~key.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
#: Default folder of the run folders.
OUTPUTS = Path("outputs")
Outputs = Annotated[
    Path,
    typer.Option(
        "--outputs", metavar="DIR", envvar="KANRUN_OUTPUTS", help="Folder of the run folders."
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors only, no progress.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with code 1 if a claim of the run does not hold.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="As CSV, for programs.")]
SpreadsheetSafe = Annotated[
    bool,
    typer.Option(
        "--spreadsheet-safe", help="Mark cells that a spreadsheet would run as text: '=A1."
    ),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        show_default=False,
        help="Load a module of custom models, targets, ...; may be repeated (or KANRUN_PLUGINS).",
    ),
]


def command(app: typer.Typer, name: str, **settings: Any) -> Callable[[F], F]:
    """Return a decorator that makes a function the command `name` of `app`.

    Parameters behind `*` are options, the others arguments. The section Args of the docstring has
    the help of each; in brackets stand the word for its value and further names of an option. A
    type that is `Annotated` already stays as it is. `settings` are those of `app.command`.
    """

    def add(function: F) -> F:
        text, _, section = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:\n")
        parameters = inspect.signature(function).parameters
        hints = get_type_hints(function, include_extras=True)
        for parameter, brackets, about in _ENTRY.findall(section):
            words = brackets.split()
            metavar = next((word for word in words if word[0] != "-"), None)
            shown: Any = {"metavar": metavar, "help": " ".join(about.split())}
            declared = typer.Argument(**shown)
            if parameters[parameter].kind is inspect.Parameter.KEYWORD_ONLY:
                names = (
                    f"--{parameter.replace('_', '-')}",
                    *(word for word in words if word[0] == "-"),
                )
                declared = typer.Option(*names, **shown)
            hints[parameter] = Annotated[hints[parameter], declared]
        function.__annotations__ = hints
        function.__doc__ = text
        app.command(name, **settings)(function)
        return function

    return add
