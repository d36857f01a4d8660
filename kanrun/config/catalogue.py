"""The commands that run an experiment: one plain table, which the command line, Hydra's schemas and resuming read."""

from __future__ import annotations

from dataclasses import dataclass

from kanrun.config.commands import (
    BenchConfig,
    CompareMLPConfig,
    ContinualConfig,
    CurvesConfig,
    ExtendGridConfig,
    FitConfig,
    InterpretConfig,
)
from kanrun.config.experiment import ExperimentConfig


def module_of(command: str) -> str:
    """The command's name as a module and a file have it: `extend-grid` is extend_grid."""
    return command.replace("-", "_")


@dataclass(frozen=True)
class Command:
    """A command: its module is experiments/<module>.py, its configuration conf/<module>.yaml."""

    name: str
    schema: type[ExperimentConfig]
    summary: str
    examples: tuple[str, ...]

    @property
    def module(self) -> str:
        return module_of(self.name)


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "fit",
            FitConfig,
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
        Command(
            "curves",
            CurvesConfig,
            "Go from data points over polynomials and Bézier curves to B-splines.",
            (
                "kanrun curves",
                "kanrun curves 'parts=[planar]' target.path=points.csv control_points=12",
                "kanrun curves 'polynomial_points=[5,10,15]' 'function.formula=abs(x0)'",
                "kanrun curves study=multiplicity",
            ),
        ),
        Command(
            "extend-grid",
            ExtendGridConfig,
            "Train along grid schedules and from scratch, and see the order of convergence.",
            (
                "kanrun extend-grid",
                "kanrun extend-grid study=paper",
                "kanrun extend-grid 'parts=[order]' 'degrees=[2,3]'",
            ),
        ),
        Command(
            "interpret",
            InterpretConfig,
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
        Command(
            "compare-mlp",
            CompareMLPConfig,
            "Compare KANs with MLPs of the same parameters, FLOPs or time.",
            (
                "kanrun compare-mlp",
                "kanrun compare-mlp match=flops",
                "kanrun compare-mlp target=expression 'target.formula=x0*sin(x1)' 'model.hidden=[2]'",
                "kanrun compare-mlp target=table target.path=houses.csv 'target.inputs=[rooms]' target.outputs=price",
                "kanrun compare-mlp study=no_activation",
            ),
        ),
        Command(
            "continual",
            ContinualConfig,
            "Learn peak after peak, and measure what is forgotten.",
            (
                "kanrun continual",
                "kanrun continual study=two_dimensional",
                "kanrun continual peaks=7 spacing=0.3 order=random",
            ),
        ),
        Command(
            "bench",
            BenchConfig,
            "Measure speed side by side with other KAN libraries and an MLP.",
            (
                "kanrun bench",
                "kanrun bench part=layers",
                "kanrun bench part=growth rounds=50",
                "kanrun bench threads=1",
            ),
        ),
    )
}
