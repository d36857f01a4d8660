"""The commands that run an experiment: one table, and what they all share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kanrun.cli.completion import complete_override
from kanrun.cli.help import ExperimentCommand


@dataclass(frozen=True)
class Experiment:
    """A command; its module is experiments/<name>.py and its configuration conf/<name>.yaml, with underscores."""

    name: str
    summary: str
    examples: tuple[str, ...]


EXPERIMENTS = (
    Experiment(
        "fit",
        "Train a model on a function, a formula or a table.",
        (
            "kanrun fit",
            "kanrun fit seeds=5 'model.hidden=[1]' sampling.train=3000",
            "kanrun fit target=expression 'target.formula=exp(-x0)*sin(3*x1)' 'target.domain=[[-1,1],[0,2]]'",
            "kanrun fit target=table target.path=houses.csv 'target.inputs=[rooms,area (m2)]' target.outputs=price",
            "kanrun fit study=toy_suite",
            "kanrun fit -m model.degree=2,3,4",
        ),
    ),
    Experiment(
        "curves",
        "Go from data points over polynomials and Bézier curves to B-splines.",
        (
            "kanrun curves",
            "kanrun curves 'parts=[planar]' target.path=points.csv control_points=12",
            "kanrun curves 'polynomial_points=[5,10,15]' 'function.formula=abs(x0)'",
            "kanrun curves study=multiplicity",
        ),
    ),
    Experiment(
        "extend-grid",
        "Train along grid schedules and from scratch, and see the order of convergence.",
        ("kanrun extend-grid", "kanrun extend-grid study=paper", "kanrun extend-grid 'parts=[order]' 'degrees=[2,3]'"),
    ),
    Experiment(
        "interpret",
        "Find the formula behind a function or a table, and verify it.",
        (
            "kanrun interpret",
            "kanrun interpret target=expression 'target.formula=x0*log(x1)' 'target.domain=[[0,1],[0.2,2]]'",
            "kanrun interpret 'model.hidden=[5]'",
            "kanrun interpret 'candidates=[sin,exp,x^2]' 'own_candidates.bump=1/(1+x0^2)'",
            "kanrun interpret from_run=fit/latest",
            "kanrun interpret study=symbolic_suite executor=local",
        ),
    ),
    Experiment(
        "compare-mlp",
        "Compare KANs with MLPs of the same parameters, FLOPs or time.",
        ("kanrun compare-mlp", "kanrun compare-mlp match=flops", "kanrun compare-mlp study=no_activation"),
    ),
    Experiment(
        "continual",
        "Learn peak after peak, and measure what is forgotten.",
        (
            "kanrun continual",
            "kanrun continual study=two_dimensional",
            "kanrun continual peaks=7 spacing=0.3 order=random",
        ),
    ),
    Experiment(
        "bench",
        "Measure speed side by side with other KAN libraries and an MLP.",
        ("kanrun bench", "kanrun bench part=layers", "kanrun bench part=growth rounds=50", "kanrun bench threads=1"),
    ),
)


class Shown(StrEnum):
    """What --cfg prints."""

    JOB = "job"
    HYDRA = "hydra"
    ALL = "all"


class Info(StrEnum):
    """What --info prints."""

    ALL = "all"
    CONFIG = "config"
    DEFAULTS = "defaults"
    TREE = "defaults-tree"
    PLUGINS = "plugins"
    SEARCHPATH = "searchpath"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OVERRIDES",
        help="Changes to the configuration: key=value, group=choice, +key=value, ~key.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
Multirun = Annotated[bool, typer.Option("--multirun", "-m", help="Run once for each of the comma-separated values.")]
Outputs = Annotated[
    Path, typer.Option("--outputs", metavar="DIR", envvar="KANRUN_OUTPUTS", help="Where run folders are made.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables; warnings and errors only.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 if a claim of the run does not hold.")]
Cfg = Annotated[Shown | None, typer.Option("--cfg", "-c", help="Show the configuration and run nothing.")]
Resolve = Annotated[bool, typer.Option("--resolve", help="With --cfg: show interpolations resolved.")]
Package = Annotated[str | None, typer.Option("--package", "-p", metavar="KEY", help="With --cfg: show this part only.")]
InfoOf = Annotated[
    Info | None, typer.Option("--info", "-i", help="Show how the configuration comes about (default: all).")
]
ConfigDir = Annotated[
    str | None, typer.Option("--config-dir", "-cd", metavar="DIR", help="Add groups and choices of your own.")
]
ConfigName = Annotated[
    str | None, typer.Option("--config-name", "-cn", metavar="NAME", help="Use another primary configuration.")
]
ConfigPath = Annotated[
    str | None, typer.Option("--config-path", "-cp", metavar="DIR", help="Use this folder instead of kanrun's.")
]


def add_experiment(app: typer.Typer, experiment: Experiment) -> None:
    """Adds the command of `experiment` to the app."""

    def command(  # noqa: PLR0913, PLR0917  (each is an option)
        overrides: Overrides = None,
        multirun: Multirun = False,
        outputs: Outputs = Path("outputs"),
        quiet: Quiet = False,
        strict: Strict = False,
        cfg: Cfg = None,
        resolve: Resolve = False,
        package: Package = None,
        info: InfoOf = None,
        config_dir: ConfigDir = None,
        config_name: ConfigName = None,
        config_path: ConfigPath = None,
    ) -> None:
        from kanrun.cli.earlier_runs import with_run_folders
        from kanrun.cli.quoting import hydra_words
        from kanrun.launch import Request, launch

        words = hydra_words(with_run_folders(overrides or (), outputs, multirun), experiment.name, multirun)
        request = Request(
            command=experiment.name, overrides=tuple(words), argv=("kanrun", *sys.argv[1:]), outputs=outputs,
            multirun=multirun, quiet=quiet, strict=strict, cfg=cfg, resolve=resolve, package=package, info=info,
            config_dir=config_dir, config_name=config_name, config_path=config_path,
        )  # fmt: skip
        raise typer.Exit(launch(request))

    command.__doc__ = experiment.summary
    command.__name__ = experiment.name.replace("-", "_")
    options = {"experiment": experiment.name, "examples": experiment.examples}
    app.command(experiment.name, cls=ExperimentCommand, context_settings={"obj": options})(command)


def with_info_value(words: Sequence[str]) -> list[str]:
    """Writes a bare `--info` as `--info all`, since Typer's options always take their value."""
    filled = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        bare = word in ("--info", "-i") and (not following or "=" in following or following[0] in "-+~")
        filled += [word, Info.ALL] if bare else [word]
    return filled
