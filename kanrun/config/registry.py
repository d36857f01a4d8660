"""Registries of target kinds, models, solvers, candidate functions and experiments.

Settings that choose something build it. A kind is the dataclass of its settings, which a decorator
declares; its methods build what the settings describe:

    @model
    @dataclass
    class ChebyshevConfig(ModelConfig):
        \"\"\"Chebyshev polynomials on the edges.\"\"\"

        degree: Annotated[int, Meta(ge=0), "degree of the polynomials"] = 5
        kind: str = "chebyshev"

        def create(self, problem, generator): ...

Its name is the default of `kind`. Heavy packages are imported inside the methods, so that help,
errors and completion load no torch. Modules that declare are imported when a registry is first
read: those of `COMPONENTS`, then plug-ins, which are modules of other packages that entry
points of the group `kanrun.plugins` name. A configuration file cannot name one, because reading a
file must not run code.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import module_from_spec
from typing import Any, Generic, TypeVar

from kanrun.components import COMPONENTS
from kanrun.errors import UsageError, did_you_mean

#: Plain data by name: settings (nested), the values of a row, a description.
Plain = Mapping[str, Any]
#: Group of the entry points that name plug-ins.
GROUP = "kanrun.plugins"
#: Text before a module's name among the versions of a run.
RECORDED = "plug-in "
_loaded: dict[str, str] = {}  # modules of plug-ins, and their package with its version

K = TypeVar("K")
C = TypeVar("C", bound=type[Any])


class Registry(Mapping[str, K], Generic[K]):
    """Kinds of one sort by name, in the order of their declaration; plug-ins come last."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._kinds: dict[str, K] = {}

    def add(self, name: str, kind: K) -> None:
        """Add a kind. Raises ValueError for a name that is taken."""
        if name in self._kinds:
            raise ValueError(f"there are two kinds of {self.what} called {name!r}")
        self._kinds[name] = kind

    def sort(self, key: Callable[[K], int]) -> None:
        """Order the kinds by a number."""
        self._kinds = dict(sorted(self._kinds.items(), key=lambda pair: key(pair[1])))

    def __getitem__(self, name: str) -> K:
        if name not in self._kinds:
            load_components()
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        load_components()
        return iter(self._kinds)

    def __len__(self) -> int:
        load_components()
        return len(self._kinds)

    def find(self, name: object, key: str = "") -> K:
        """Return the kind `name`, the value of the setting `key`. Raises UsageError."""
        if name not in self:
            offer = did_you_mean(name, self) or "."
            raise UsageError(f"{key or self.what}={name} is not one of {', '.join(self)}{offer}")
        return self[str(name)]


def module_of(command: str) -> str:
    """Return a command's name as a module and a file have it, such as extend_grid."""
    return command.replace("-", "_")


@dataclass(frozen=True)
class ExperimentKind:
    """A command.

    Its primary configuration is conf/<file>.yaml; a plug-in's is made from `groups`.

    Attributes:
        name: The name as typed.
        summary: One sentence.
        settings: Dataclass of its settings.
        examples: Commands that its help shows.
        groups: A plug-in's groups and their default choices.
        table_model: Default model if the target is a table.
        implied: Keys, and the choice that setting each of them stands for.
        argument: Key that an argument without a key sets.
        figures: Names of its figures; `*` stands for any text.
    """

    name: str
    summary: str
    settings: Any
    examples: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    table_model: str = ""
    implied: Mapping[str, str] = field(default_factory=dict)
    argument: str = ""
    figures: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of its files."""
        return module_of(self.name)

    @property
    def module(self) -> str:
        """Name of the module with its functions: that of its settings, or of `config` there."""
        return str(self.settings.__module__).removesuffix(".config")

    def build(self) -> Any:
        """Import and return the module with its functions."""
        return importlib.import_module(self.module)


TARGETS: Registry[Any] = Registry("target")
MODELS: Registry[Any] = Registry("model")
SOLVERS: Registry[Any] = Registry("solver")
#: Formulas in x0 by name.
CANDIDATES: Registry[str] = Registry("candidate")
EXPERIMENTS: Registry[ExperimentKind] = Registry("experiment")

#: Groups whose choices have separate settings, distinguished by `kind`.
GROUPS: dict[str, Registry[Any]] = {"target": TARGETS, "model": MODELS, "solver": SOLVERS}


def target(settings: C) -> C:
    """Declare a kind of target: a dataclass that derives from `TargetConfig`."""
    TARGETS.add(settings.kind, settings)
    return settings


def model(settings: C) -> C:
    """Declare a model: a dataclass that derives from `ModelConfig`."""
    MODELS.add(settings.kind, settings)
    return settings


def solver(settings: C) -> C:
    """Declare a solver: a dataclass that derives from `SolverConfig`."""
    SOLVERS.add(settings.kind, settings)
    return settings


def experiment(name: str, summary: str, **more: Any) -> Callable[[C], C]:
    """Declare a command by the dataclass of its settings; `more` are fields of its kind."""

    def declare(settings: C) -> C:
        EXPERIMENTS.add(name, ExperimentKind(name, summary, settings, **more))
        return settings

    return declare


def candidate(name: str, formula: str) -> None:
    """Declare a function of x0 that an edge may be, such as "sinc" with "sin(x0)/x0"."""
    CANDIDATES.add(name, formula)


def is_plugin(settings: type) -> bool:
    """Return whether another package declares these settings."""
    return settings.__module__.partition(".")[0] != "kanrun"


def group_of(experiment: ExperimentKind, key: str) -> str:
    """Return the only group of an experiment that has a key (model for folds), or ""."""
    own = experiment.settings.__dataclass_fields__
    if key in own or key in GROUPS or not key.isidentifier():
        return ""
    found = [name for name in GROUPS if name in own and _kinds_with(name, key)]
    if "sampling" in own and key in own["sampling"].default_factory().__dataclass_fields__:
        found.append("sampling")
    return found[0] if len(found) == 1 else ""


def foreign_setting(path: str, chosen: Mapping[str, str]) -> str:
    """Return the error message for a setting that other choices have, or "".

    Args:
        path: The setting, such as "model.folds" or "folds".
        chosen: Choices without the setting, by group.
    """
    for group, choice in chosen.items():
        if owners := _kinds_with(group, path.rpartition(".")[2]):
            choices = " or ".join(f"{group}={name}" for name in owners)
            return f"{path} is not a setting of {group}={choice}. Write {choices}."
    return ""


def _kinds_with(group: str, key: str) -> list[str]:
    kinds = GROUPS[group].items() if key != "kind" else ()
    return [name for name, kind in kinds if key in kind.__dataclass_fields__]


def implied_choices(
    experiment: ExperimentKind, choices: Mapping[str, str], keys: Iterable[str]
) -> list[str]:
    """Return the choices that a call implies, given the choices and keys that it names.

    A key such as target.formula selects its target, unless a target or a study is chosen. A table
    selects the experiment's model of tables, unless a model or a study is.
    """
    keys = set(keys)
    implied = dict[str, str]()
    if "study" in choices:
        return []
    for key, choice in experiment.implied.items():
        group, _, name = choice.partition("=")
        if key in keys and group not in choices:
            implied.setdefault(group, name)
    target = choices.get("target") or implied.get("target", "")
    model = experiment.table_model
    if model and "model" not in choices and target in TARGETS and TARGETS[target].table:
        implied["model"] = model
        for key in sorted(keys):
            if key == "precision" or key.startswith("solver"):
                raise UsageError(
                    f"{key} is not used by model={model}, the model of tables: "
                    "add model=kan to train a network."
                )
    return [f"{group}={name}" for group, name in implied.items()]


def load_components() -> None:
    """Import the modules that declare kinds, once.

    An entry point that cannot be imported is skipped with a warning.
    """
    if _loaded:
        return
    _loaded[""] = ""  # what these modules import may read a registry again
    for module in COMPONENTS:
        _import_alone(module)
    # Some may have been imported before, by their experiments.
    places = {module: place for place, module in enumerate(COMPONENTS)}
    EXPERIMENTS.sort(lambda kind: places.get(kind.settings.__module__, len(places)))
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # whatever a package raises, kanrun itself continues
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            warnings.warn(f"the plug-in {point.value} is left out: {reason}", stacklevel=2)
        else:
            package = point.dist
            version = f"{package.name} {package.version}" if package else "no package"
            _loaded[point.value.partition(":")[0]] = version


def _import_alone(name: str) -> None:
    """Import a module of settings without the package around it, which may load torch."""
    if name in sys.modules:
        return
    outer, folder, _ = name.rsplit(".", 2)
    places = [f"{path}/{folder}" for path in importlib.import_module(outer).__path__]
    spec = PathFinder.find_spec(name, places)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def loaded_plugins() -> Mapping[str, str]:
    """Return the modules that are loaded as plug-ins, with their packages and versions."""
    load_components()
    return {module: version for module, version in _loaded.items() if module}


def require_plugins(versions: Iterable[str]) -> None:
    """Raise UsageError if the recorded `versions` of a run name plug-ins that are not loaded."""
    used = [name.removeprefix(RECORDED) for name in versions if name.startswith(RECORDED)]
    if missing := [name for name in used if name not in loaded_plugins()]:
        raise UsageError(
            f"the run used the plug-in {missing[0]}, which is not installed. If you trust it, "
            "install its package with pip."
        )
