"""Options and arguments that commands share, and TAB completion.

TAB completes groups, choices, keys, values, columns of a table, and names of runs.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from kanrun.config import CONF, EXPERIMENTS, TARGETS, default_choices, groups_of, keys_of
from kanrun.config.registry import implied_choices
from kanrun.errors import KanrunError, UsageError

if TYPE_CHECKING:
    from kanrun.runs import Run

#: Settings that name columns of the table in target.path.
_COLUMNS = {
    *("inputs", "outputs", "exclude", "categorical_columns", "columns", "weight_column"),
    *("split", "monotone", "curvature", "units"),
}
#: Pattern of characters with a special meaning in bash, which completion must escape.
_UNSAFE = r"""([\s()'"$`\\&;|<>*?!#])"""
_ENDS = ("=", ".", "/", ":")  # after these characters the shell must not end the word


def complete_run(ctx: Any, incomplete: str) -> list[str]:
    """Return the names of runs, points and tags that begin with `incomplete`, the newest first."""
    return runs_beginning(incomplete, _outputs(ctx))


def complete_override(ctx: Any, incomplete: str) -> list[str]:
    """Return the possible arguments that begin with `incomplete`, for Typer's completion."""
    typed = [str(argument) for argument in ctx.params.get("overrides") or ()]
    if not os.environ.get("_KANRUN_COMPLETE", "").endswith("bash"):
        return completions(ctx.info_name, typed, incomplete, _outputs(ctx))
    # bash splits words at `=`, so the words must be joined again. It inserts completions unchanged,
    # so blanks and brackets must be escaped unless a quote is open.
    pieces = os.environ["COMP_WORDS"].split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    *whole, word = re.sub(r"\n?=\n?", "=", "\n".join(pieces)).split("\n")
    words = [_unquoted(argument) for argument in whole if "=" in argument]
    completed = completions(ctx.info_name, words, _unquoted(word), _outputs(ctx))
    if word[:1] in ("'", '"'):
        return completed
    cut = _unquoted(word).rfind("=") + 1
    return [re.sub(_UNSAFE, r"\\\1", argument[cut:]) for argument in completed]


def _unquoted(word: str) -> str:
    """Return a word of the shell without its quotes and backslashes."""
    return re.sub(r"\\(.)", r"\1", word.strip("'\""))


def _outputs(ctx: Any) -> Path:
    return Path(ctx.params.get("outputs") or os.environ.get("KANRUN_OUTPUTS") or "outputs")


def completions(
    command: str, typed: Sequence[str], word: str, outputs: Path = Path("outputs")
) -> list[str]:
    """Return all groups, choices, keys and values that begin with `word`.

    `typed` has the other arguments of the command line. A single result that ends with `=`, `.`,
    `/` or `:` is followed by its continuations, so that the shell does not end the word there.
    """
    if command not in EXPERIMENTS:
        return []
    begun = word.lstrip("+~")
    sign = word.removesuffix(begun)
    call = _Call(command, typed, outputs)
    completed = call.matching(begun)
    if len(completed) == 1 and completed[0] != begun and completed[0].endswith(_ENDS):
        completed += [name for name in call.matching(completed[0]) if name != completed[0]]
    return [sign + name for name in completed]


def runs_beginning(beginning: str, outputs: Path) -> list[str]:
    """Return names of runs (newest first) and tags that start with `beginning`.

    After the whole name of a run and a slash, the names of its points are returned too.
    """
    from kanrun.runs import find_runs

    runs = find_runs(outputs)[::-1]
    names = [
        "latest",
        *(f"{run.path.parent.name}/latest" for run in runs),
        *(run.name for run in runs),
        *(tag for run in runs for tag in run.tags),
        *(
            point.name
            for run in runs
            if beginning.startswith(f"{run.name}/")
            for point in run.points
        ),
    ]
    return [name for name in dict.fromkeys(names) if name.startswith(beginning)]


def find_run(name: str, outputs: Path, *, one: bool = False) -> Run:
    """Call `kanrun.runs.find_run`, which is imported only when it is needed."""
    from kanrun.runs import find_run

    return find_run(name, outputs, one=one)


class _Call:
    """An incomplete command line: the choices of its groups, and the keys these choices allow."""

    def __init__(self, command: str, arguments: Sequence[str], outputs: Path) -> None:
        self._groups = dict(groups_of(command))
        self._outputs = outputs
        typed = dict(word.lstrip("+~").partition("=")[::2] for word in arguments)
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
            if key.rule != "group" and ("=" not in key.where[0] or key.where[0] in places)
        }

    def matching(self, beginning: str) -> list[str]:
        """Return the groups, keys or values that start with `beginning`, sorted."""
        key, equals, value = beginning.partition("=")
        if equals:
            names = {
                f"{key}={choice}" for choice in self._groups.get(key) or self._values(key, value)
            }
        else:  # complete only up to the next dot
            paths = [path for path in (*self._keys, *self._groups) if path.startswith(key)]
            names = {path[: path.find(".", len(key)) + 1] or f"{path}=" for path in paths}
        return sorted(name for name in names if name.startswith(beginning))

    def _values(self, key: str, value: str) -> Iterable[str]:
        """Return completions of a key's value: names, choices, columns, files, runs, or default."""
        if key == "from_run":
            return runs_beginning(value, self._outputs)
        if key.endswith("path"):
            home = os.path.expanduser(value)
            paths = sorted(glob.glob(f"{glob.escape(home)}*"))
            return [value + path[len(home) :] + "/" * os.path.isdir(path) for path in paths]
        name = key.rpartition(".")[2]
        if name in _COLUMNS and self._table and (name != "split" or ":" in value):
            from kanrun.targets.table_files import column_names

            # Put the text before the incomplete name, such as "[a,", before each column.
            before = value[: max(value.rfind(mark) for mark in ",[{:") + 1]
            written = [part.partition(":")[0].strip() for part in before.lstrip("[{").split(",")]
            with contextlib.suppress(KanrunError, OSError):
                columns = column_names(self._table)
                return [f"{before}{column}" for column in columns if column not in written]
        if key not in self._keys:
            return []
        setting = self._keys[key]
        names = list(setting.choices)
        if key in ("target.name", "target.id"):
            names = list(TARGETS[self._kinds["target"]].names())
        defaults = [setting.default] * (setting.default not in ("", "null", "must be given"))
        if setting.rule.startswith("a list") and " or text" not in setting.rule:
            return [*(f"[{text}" for text in names), *defaults]
        return names or defaults


class Command(TyperCommand):
    """A command whose help names the arguments without their types."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            parameters = [
                parameter for parameter in self.get_params(ctx) if parameter.param_type_name == kind
            ]
            records = [parameter.get_help_record(ctx) for parameter in parameters]
            rows = [
                (re.sub(r" <.*>$", "", name) if kind == "argument" else name, about)
                for name, about in filter(None, records)
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


kanrun_commands = typer.Typer(
    name="kanrun",
    help="Experiments with Kolmogorov-Arnold Networks; each run has a folder of its own.",
    epilog="First steps: kanrun fit, kanrun runs show, kanrun fit --help.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
runs_commands = typer.Typer(
    help="List, show, compare, repeat, resume and remove runs.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
kanrun_commands.add_typer(runs_commands, name="runs")
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


def output_option(content: str) -> Any:
    """Return the option that names the file to write, with the sentence `content` as its help."""
    return typer.Option("--output", "-o", metavar="FILE", help=content)


Replace = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
ModelName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of the model's file. Default: that of the first seed."),
]
Jobs = Annotated[
    int | None,
    typer.Option("--n-jobs", metavar="N", min=1, help="Processes here, instead of the run's."),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Dask cluster, instead of the run's."),
]


def check_new(file: Path, force: bool) -> None:
    """Raise UsageError if `file` cannot be created, or exists although `force` is False."""
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder" if file.is_dir() else "its folder is not there"
        raise UsageError(f"cannot write {file}: {reason}; choose another file.")
    if file.is_file() and not force:
        raise UsageError(f"{file} exists. Add --force to replace it, or name another file.")
