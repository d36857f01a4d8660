"""Registries of target kinds, models, solvers, candidate functions and experiments.

A kind of target, model or solver is declared by a decorated dataclass. Its fields are the settings
of this kind, and its methods create the object that the settings describe:

    @model
    @dataclass
    class ChebyshevConfig(ModelConfig):
        \"\"\"Chebyshev polynomials on the edges.\"\"\"

        degree: Annotated[int, Meta(ge=0), "degree of the polynomials"] = 5
        kind: str = "chebyshev"

        def create(self, problem, generator): ...

The default value of `kind` is the name of the kind. Large packages are imported inside the methods,
so that help, error messages and completion do not load torch. The modules that declare kinds are
imported when a registry is first read: first those in `COMPONENTS`, then plug-ins. A plug-in is a
module of another package that is registered as an entry point of the group `kanrun.plugins`. A
configuration file cannot load a plug-in, because reading a file must not execute code.
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

#: Plain data by name, such as nested settings or the values of a row.
Plain = Mapping[str, Any]
#: Group of the entry points that register plug-ins.
GROUP = "kanrun.plugins"
#: Prefix of a plug-in's module name in the recorded package versions of a run.
RECORDED = "plug-in "
_loaded: dict[str, str] = {}  # loaded plug-in modules, with the name and version of their package

K = TypeVar("K")
C = TypeVar("C", bound=type[Any])


class Registry(Mapping[str, K], Generic[K]):
    """Mapping from names to kinds, in the order of declaration, with plug-ins last.

    `what` says in messages what the kinds are, such as "target".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._kinds: dict[str, K] = {}

    def add(self, name: str, kind: K) -> None:
        """Add a kind. Raises ValueError if the name exists already."""
        if name in self._kinds:
            raise ValueError(f"there are two kinds of {self.what} called {name!r}")
        self._kinds[name] = kind

    def declare(self, settings: C) -> C:
        """Add the dataclass `settings` under the default value of its `kind`, and return it."""
        self.add(settings.kind, settings)  # type: ignore[arg-type]
        return settings

    def sort(self, key: Callable[[K], int]) -> None:
        """Sort the kinds by `key`."""
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
        """Return the kind called `name`; raise UsageError if there is none.

        `key` is the setting with the value `name`, for the message.
        """
        if name not in self:
            offer = did_you_mean(name, self) or "."
            raise UsageError(f"{key or self.what}={name} is not one of {', '.join(self)}{offer}")
        return self[str(name)]


def module_of(command: str) -> str:
    """Return the name of the module and the file of a command, such as extend_grid."""
    return command.replace("-", "_")


@dataclass(frozen=True)
class ExperimentKind:
    """An experiment, which is a command of kanrun.

    Its primary configuration is the file conf/<file>.yaml; for a plug-in it is made from `groups`.

    Attributes:
        name: Name of the command as typed.
        summary: One sentence that describes the command.
        settings: Dataclass of the command's settings.
        examples: Command lines that the help shows.
        groups: For a plug-in: its groups with their default choices.
        table_model: Default model if the target is a table.
        implied: The choice that a setting implies, by setting; for example, target.formula implies
            target=expression.
        argument: Setting that an argument without a key sets.
        figures: Names of the command's figures; `*` stands for any text.
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
        """Name of the command's configuration file and of its folder of studies."""
        return module_of(self.name)

    @property
    def module(self) -> str:
        """Name of the module that implements the experiment.

        It is the module that declares the settings or, if that module is called `config`, the
        package around it.
        """
        return str(self.settings.__module__).removesuffix(".config")

    def build(self) -> Any:
        """Import and return the module that implements the experiment."""
        return importlib.import_module(self.module)


TARGETS: Registry[Any] = Registry("target")
MODELS: Registry[Any] = Registry("model")
SOLVERS: Registry[Any] = Registry("solver")
#: Candidate functions of an edge: formulas in x0 by name.
CANDIDATES: Registry[str] = Registry("candidate")
EXPERIMENTS: Registry[ExperimentKind] = Registry("experiment")

#: Groups whose choices each have a settings dataclass of their own, distinguished by `kind`.
GROUPS: dict[str, Registry[Any]] = {"target": TARGETS, "model": MODELS, "solver": SOLVERS}


#: Declares a kind of target: a dataclass that derives from `TargetConfig`.
target = TARGETS.declare
#: Declares a model: a dataclass that derives from `ModelConfig`.
model = MODELS.declare
#: Declares a solver: a dataclass that derives from `SolverConfig`.
solver = SOLVERS.declare
#: Declares a candidate function of an edge, such as "sinc" with the formula "sin(x0)/x0".
candidate = CANDIDATES.add


def experiment(name: str, summary: str, **more: Any) -> Callable[[C], C]:
    """Return a decorator for the dataclass of a command's settings, which declares the command.

    `more` are further fields of `ExperimentKind`.
    """

    def declare(settings: C) -> C:
        EXPERIMENTS.add(name, ExperimentKind(name, summary, settings, **more))
        return settings

    return declare


def is_plugin(settings: type) -> bool:
    """Return whether another package declares these settings."""
    return settings.__module__.partition(".")[0] != "kanrun"


def group_of(experiment: ExperimentKind, key: str) -> str:
    """Return the group to which a key without a group belongs, such as "model" for "folds".

    Return "" unless exactly one group of the experiment has this key.
    """
    fields = experiment.settings.__dataclass_fields__
    if key in fields or key in GROUPS or not key.isidentifier():
        return ""
    groups = [name for name in GROUPS if name in fields and _kinds_with(name, key)]
    if "sampling" in fields and key in fields["sampling"].default_factory().__dataclass_fields__:
        groups.append("sampling")
    return groups[0] if len(groups) == 1 else ""


def foreign_setting(path: str, chosen: Mapping[str, str]) -> str:
    """Return an error message if another choice of a group has the setting `path`, otherwise "".

    Args:
        path: The setting, such as "model.folds" or "folds".
        chosen: For each group, the current choice, which does not have the setting.
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
    """Return the choices, such as "target=table", that a command line implies.

    `choices` maps groups to their choices, and `keys` are the settings, both as given on the
    command line. A setting such as target.formula implies its target, unless a target or a study is
    chosen. A table implies the experiment's `table_model`, unless a model or a study is chosen.
    Raises UsageError for a solver setting together with an implied table model.
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
    """Import the modules that declare kinds, at the first call only.

    A plug-in that cannot be imported is skipped with a warning.
    """
    if _loaded:
        return
    # Set before the import, because the imported modules may read a registry again.
    _loaded[""] = ""
    for module in COMPONENTS:
        _import_alone(module)
    # Sorted, because some modules may have been imported earlier, by their experiments.
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
    """Import a settings module without importing its package, which may load torch."""
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
    """Return the loaded plug-in modules, each with the name and version of its package."""
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
