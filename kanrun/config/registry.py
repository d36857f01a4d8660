"""Registries of target kinds, models, solvers, candidate functions and experiments.

A kind is declared by a decorator on the dataclass of its settings:

    @model("my_package.chebyshev:create", label="Chebyshev KAN")
    @dataclass
    class ChebyshevConfig:
        \"\"\"Chebyshev polynomials on the edges.\"\"\"

        degree: int = setting(5, "degree of the polynomials", minimum=0)
        kind: str = "chebyshev"

Its name is the default of `kind`, and its summary the first line of the docstring. Its builder is
named as "module:name" and imported on first use, so that help, errors and completion load no torch.
`TARGETS`, `MODELS`, `SOLVERS`, `CANDIDATES` and `EXPERIMENTS` hold what is declared, by name.

Another package adds to them by a module that declares, see `kanrun.config.plugins`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kanrun.config.plugins import load_plugins
from kanrun.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class RegistryEntry:
    """A choice, before anything heavy is imported."""

    name: str
    summary: str
    settings: Any = None  # its dataclass
    builder: str = ""  # "module:name" of what builds it

    @property
    def is_plugin(self) -> bool:
        """Whether another package declares it."""
        return str(self.settings.__module__).partition(".")[0] != "kanrun"

    def build(self) -> Any:
        """Import the builder's module and return the builder."""
        return resolve(self.builder)


@dataclass(frozen=True)
class TargetKind(RegistryEntry):
    """`builder` maps settings to a `kanrun.targets.Target`."""

    table: bool = False  # rows of a table rather than a function


@dataclass(frozen=True)
class ModelKind(RegistryEntry):
    """`builder` maps (settings, problem, generator) to a fresh network."""

    network: str = ""  # "module:Class" that a checkpoint of it is loaded into
    label: str = ""  # in tables and figures
    diagram: str = ""  # "module:function" that draws its network
    inputs: int | None = None  # how many inputs it takes, if not any number
    closed_form: bool = False  # fitted by linear least squares, whatever the solver
    tables_only: bool = (
        False  # its builder fits targets that are tables, and returns a network of another kind
    )


@dataclass(frozen=True)
class SolverKind(RegistryEntry):
    """`builder` maps (network, objective, plan, generator) to a solver; `auto` has none.

    Its settings have `steps` and `n_starts`, and reach it as `plan.settings`.
    """

    steps: int = 200  # on each grid, if the settings give none
    label: str = ""  # in sentences
    second_order: bool = False  # minimises squares in float64, and searches the penalty's weight
    #: Measures steps by the objective's curvature: it takes a small smoothness penalty, and hidden
    #: grids follow the activations again after its first steps.
    curvature: bool = False


@dataclass(frozen=True)
class CandidateKind(RegistryEntry):
    """A candidate function of x0 for edges, in addition to the engine's table."""

    formula: str = "x0"


@dataclass(frozen=True)
class ExperimentKind(RegistryEntry):
    """A command; `builder` is its module.

    Its primary configuration is conf/<file>.yaml; a plug-in's is made from `groups`.
    """

    examples: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(
        default_factory=dict
    )  # a plug-in's groups and their default choices
    table_model: str = (
        ""  # the default model where the target is a table, if another than for functions
    )
    implied: Mapping[str, str] = field(
        default_factory=dict
    )  # a key, and the choice that setting it stands for

    @property
    def file(self) -> str:
        """The name as a module and a file have it, such as extend_grid."""
        return module_of(self.name)

    @property
    def defaults(self) -> list[Any]:
        """Hydra's defaults list of a primary configuration that no file holds."""
        chosen = [{group: choice} for group, choice in self.groups.items()]
        return [
            f"schema/{self.file}",
            *chosen,
            {"executor": "serial"},
            "_self_",
            {"study": None},
        ]


def resolve(place: str) -> Any:
    """Import and return the object of "module:name", or the module of "module" alone."""
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


K = TypeVar("K", bound=RegistryEntry)
C = TypeVar("C", bound=type[Any])


class Registry(Mapping[str, K], Generic[K]):
    """Kinds of one sort by name, in the order of their declaration; plug-ins come last."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._kinds: dict[str, K] = {}

    def add(self, kind: K) -> None:
        """Add a kind. Raises ValueError for a name that is taken."""
        if kind.name in self._kinds:
            raise ValueError(f"there are two kinds of {self.what} called {kind.name!r}")
        self._kinds[kind.name] = kind

    def __getitem__(self, name: str) -> K:
        if name not in self._kinds:
            load_plugins()
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._kinds)

    def __len__(self) -> int:
        load_plugins()
        return len(self._kinds)

    def find(self, name: object, key: str = "") -> K:
        """Return the kind `name`, the value of the setting `key`. Raises UsageError."""
        if name not in self:
            offer = did_you_mean(name, self) or "."
            raise UsageError(f"{key or self.what}={name} is not one of {', '.join(self)}{offer}")
        return self[str(name)]


TARGETS: Registry[TargetKind] = Registry("target")
MODELS: Registry[ModelKind] = Registry("model")
SOLVERS: Registry[SolverKind] = Registry("solver")
CANDIDATES: Registry[CandidateKind] = Registry("candidate")
EXPERIMENTS: Registry[ExperimentKind] = Registry("experiment")

GROUPS: dict[str, Registry[Any]] = {"target": TARGETS, "model": MODELS, "solver": SOLVERS}
"""Groups whose choices have separate settings, distinguished by `kind`."""


def _declares(table: Registry[Any], kind: type[RegistryEntry]) -> Callable[..., Callable[[C], C]]:
    """Return the decorator of one sort of settings; it takes the builder and fields of `kind`."""

    def declares(builder: str, **more: Any) -> Callable[[C], C]:
        def declare(settings: C) -> C:
            summary = (settings.__doc__ or "").strip().partition("\n")[0]
            table.add(kind(settings.kind, summary, settings, builder, **more))
            return settings

        return declare

    return declares


target = _declares(TARGETS, TargetKind)
model = _declares(MODELS, ModelKind)
solver = _declares(SOLVERS, SolverKind)


def experiment(name: str, summary: str, *, module: str = "", **more: Any) -> Callable[[C], C]:
    """Declare a command; by default its module is kanrun.experiments.<name>."""

    def declare(settings: C) -> C:
        EXPERIMENTS.add(
            ExperimentKind(
                name, summary, settings, module or f"kanrun.experiments.{module_of(name)}", **more
            )
        )
        return settings

    return declare


def candidate(name: str, formula: str, summary: str = "") -> None:
    """Declare a function of x0 that an edge may be, such as "sinc" with "sin(x0)/x0"."""
    CANDIDATES.add(CandidateKind(name, summary, formula=formula))


def module_of(command: str) -> str:
    """Return a command's name as a module and a file have it."""
    return command.replace("-", "_")


def group_of(experiment: ExperimentKind, key: str) -> str:
    """Return the only group of an experiment that has a key (model for folds), or ""."""
    own = experiment.settings.__dataclass_fields__
    if key in own or key in GROUPS or not key.isidentifier():
        return ""
    found = [name for name in GROUPS if name in own and kinds_with(name, key)]
    if "sampling" in own and key in own["sampling"].default_factory().__dataclass_fields__:
        found.append("sampling")
    return found[0] if len(found) == 1 else ""


def kinds_with(group: str, key: str) -> list[str]:
    """Return the choices of a group that have a key, such as the models with `hidden`."""
    kinds = GROUPS[group].items()
    return [
        name for name, kind in kinds if key != "kind" and key in kind.settings.__dataclass_fields__
    ]


def owner_hint(group: str, key: str, kind: str) -> str:
    """Return the remedy for a key that other choices than `kind` have: "write model=kan"; or ""."""
    found = kinds_with(group, key) if group in GROUPS and kind in GROUPS[group] else []
    return f"write {' or '.join(f'{group}={name}' for name in found)}" if found else ""


def implied_choices(
    experiment: ExperimentKind, choices: Mapping[str, str], keys: Iterable[str]
) -> list[str]:
    """Return the choices that a call implies, given the choices and keys that it names.

    A key such as target.formula selects its target, unless a target or a study is chosen. A table
    selects the experiment's model of tables, unless a model or a study is.
    """
    keys, implied = set(keys), dict[str, str]()
    if "study" in choices:
        return []
    for key, choice in experiment.implied.items():
        group, _, name = choice.partition("=")
        if key in keys and group not in choices:
            implied.setdefault(group, name)
    target = choices.get("target") or implied.get("target", "")
    is_table = target in TARGETS and TARGETS[target].table
    if experiment.table_model and is_table and "model" not in choices:
        implied["model"] = experiment.table_model
        for key in sorted(keys & {"precision"} | {one for one in keys if one.startswith("solver")}):
            raise UsageError(
                f"{key} is not used by model={experiment.table_model}, the model of tables: "
                "add model=kan to train a network."
            )
    return [f"{group}={name}" for group, name in implied.items()]


def explain_foreign_key(key: str, model: str, solver: str) -> str:
    """Return the error message for a key that neither the chosen model nor its solver has."""
    models, solvers = kinds_with("model", key), kinds_with("solver", key)
    if models:
        return (
            f"{key} is not a setting of model={model}. Models that have it: {', '.join(models)}. "
            f"Write model={models[0]}."
        )
    if solvers and MODELS[model].tables_only:
        return f"{key} is a setting of solvers, and model={model} uses none. Write model=kan."
    if solvers:
        return (
            f"{key} is not a setting of solver={solver}. "
            f"Solvers that have it: {', '.join(solvers)}. Write solver={solvers[0]}."
        )
    kinds = [*MODELS.values(), *SOLVERS.values()]
    known = sorted({name for kind in kinds for name in kind.settings.__dataclass_fields__})
    return f"{key} is not a setting of model={model}{did_you_mean(key, known) or '.'}"
