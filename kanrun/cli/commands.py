"""Commands from functions, whose signature and docstring declare arguments, options and TAB.

TAB completes groups, choices, keys and values of arguments, columns of a table, and runs.
"""

from __future__ import annotations

import contextlib
import glob
import inspect
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from kanrun.config import CONF, EXPERIMENTS, TARGETS, default_choices, groups_of, keys_of
from kanrun.config.registry import implied_choices, resolve
from kanrun.errors import KanrunError, UsageError
from kanrun.runs import find_runs

#: Settings that name columns of the table in target.path.
_COLUMNS = {
    *("inputs", "outputs", "exclude", "categorical_columns", "columns", "weight_column"),
    *("split", "monotone", "curvature", "units"),
}
_ENDS = ("=", ".", "/", ":")  # after which the shell must not end the word


def complete_run(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of runs, points and tags that begin with `incomplete`, the newest first."""
    return runs_beginning(incomplete, _outputs(ctx))


def complete_override(ctx: Any, incomplete: str) -> list[str]:
    """Return the words that begin with `incomplete`, for Typer's completion of OVERRIDES."""
    words, word, cut = [str(one) for one in ctx.params.get("overrides") or ()], incomplete, 0
    if os.environ.get("_KANRUN_COMPLETE", "").endswith("bash") and "COMP_WORDS" in os.environ:
        # bash splits at `=`, so that neither the words nor the incomplete one are whole.
        pieces = os.environ["COMP_WORDS"].split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
        *whole, word = re.sub(r"\n?=\n?", "=", "\n".join(pieces)).split("\n")
        words = [one for one in whole if "=" in one]
        cut = word.rfind("=") + 1
    return [one[cut:] for one in completions(ctx.info_name, words, word, _outputs(ctx))]


def _outputs(ctx: Any) -> Path:
    return Path(ctx.params.get("outputs") or os.environ.get("KANRUN_OUTPUTS") or "outputs")


def completions(
    command: str, words: Sequence[str], word: str, outputs: Path = Path("outputs")
) -> list[str]:
    """Return all groups, choices, keys and values that begin with `word`, given the other `words`.

    A single result that ends with `=`, `.`, `/` or `:` is followed by its continuations, so that
    the shell does not end the word there.
    """
    if command not in EXPERIMENTS:
        return []
    begun = word.lstrip("+~")
    sign = word.removesuffix(begun)
    call = _Call(command, words, outputs)
    found = call.matching(begun)
    if len(found) == 1 and found[0] != begun and found[0].endswith(_ENDS):
        found += [name for name in call.matching(found[0]) if name != found[0]]
    return [sign + name for name in found]


def runs_beginning(beginning: str, outputs: Path) -> list[str]:
    """Return names of runs that begin so, newest first; of points after a whole name; and tags."""
    runs = find_runs(outputs)[::-1]
    names = [
        "latest",
        *(f"{run.path.parent.name}/latest" for run in runs),
        *(run.name for run in runs),
        *(tag for run in runs for tag in run.labels.tags),
        *(one.name for run in runs if beginning.startswith(f"{run.name}/") for one in run.points),
    ]
    return [name for name in dict.fromkeys(names) if name.startswith(beginning)]


class _Call:
    """A call that is being typed: the choices of its groups, and the keys that it has with them."""

    def __init__(self, command: str, words: Sequence[str], outputs: Path) -> None:
        self._groups, self._outputs = dict(groups_of(command)), outputs
        typed = dict(word.lstrip("+~").partition("=")[::2] for word in words)
        chosen = {key: value for key, value in typed.items() if key in self._groups}
        with contextlib.suppress(KanrunError):
            implied = implied_choices(EXPERIMENTS[command], chosen, typed)
            chosen |= dict(word.partition("=")[::2] for word in implied)
        self._kinds = default_choices(command) | chosen
        for group, choice in self._kinds.items():
            file = CONF / group / f"{choice}.yaml"
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            if kind := re.search(r"\bkind: (\w+)", text):
                self._kinds[group] = kind[1]
        places = {f"{group}={kind}" for group, kind in self._kinds.items()}
        self._table = typed.get("target.path", "").strip("'\"")
        self._keys = {
            key.path: key
            for key in keys_of(command)
            if key.type != "group" and ("=" not in key.where[0] or key.where[0] in places)
        }

    def matching(self, beginning: str) -> list[str]:
        """Return the groups, keys or values that begin so, sorted."""
        key, equals, value = beginning.partition("=")
        if equals:
            names = {f"{key}={each}" for each in self._groups.get(key) or self._values(key, value)}
        else:  # up to the next dot
            paths = [path for path in (*self._keys, *self._groups) if path.startswith(key)]
            names = {path[: path.find(".", len(key)) + 1] or f"{path}=" for path in paths}
        return sorted(name for name in names if name.startswith(beginning))

    def _values(self, key: str, value: str) -> Iterable[str]:
        """Return what a key may be: known names, choices, columns, files, runs, or its default."""
        if key == "from_run":
            return runs_beginning(value, self._outputs)
        if key.endswith("path"):
            home = os.path.expanduser(value)
            paths = sorted(glob.glob(f"{glob.escape(home)}*"))
            return [value + path[len(home) :] + "/" * os.path.isdir(path) for path in paths]
        name = key.rpartition(".")[2]
        if name in _COLUMNS and self._table and (name != "split" or ":" in value):
            from kanrun.targets.table_files import column_names

            # Each after what is typed before it, as in [a,b.
            before = value[: max(value.rfind(mark) for mark in ",[{:") + 1]
            written = [part.partition(":")[0].strip() for part in before.lstrip("[{").split(",")]
            with contextlib.suppress(KanrunError, OSError):
                columns = column_names(self._table)
                return [f"{before}{column}" for column in columns if column not in written]
        if key not in self._keys:
            return []
        setting = self._keys[key]
        names = list(setting.choices)
        if key in ("target.name", "target.id") and (known := TARGETS[self._kinds["target"]].names):
            found = resolve(known)
            names = list(found() if callable(found) else found)
        defaults = [setting.default] * (setting.default not in ("", "null", "must be given"))
        if setting.type.startswith("list") and " or text" not in setting.type:
            return [*(f"[{one}" for one in names), *defaults]
        return names or defaults


kanrun_commands = typer.Typer(
    name="kanrun",
    help="Experiments with Kolmogorov-Arnold Networks; each run has a folder of its own.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
runs_commands = typer.Typer(
    help="List, show, compare, label, repeat, resume and remove runs.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
kanrun_commands.add_typer(runs_commands, name="runs")
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


def check_new(file: Path, force: bool) -> None:
    """Raise UsageError for a folder, for a file without one, and without `force` for one there."""
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder" if file.is_dir() else "its folder is not there"
        raise UsageError(f"cannot write {file}: {reason}; choose another file.")
    if file.is_file() and not force:
        raise UsageError(f"{file} exists. Add --force to replace it, or name another file.")


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
