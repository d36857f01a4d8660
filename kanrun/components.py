"""The modules that declare kanrun's own targets, models, solvers and experiments.

`kanrun.config.registry` imports them when a registry is first read. They import no large package.
Plug-ins register their modules as entry points.
"""

#: Folders in `experiments/` whose `config.py` declares a command, in the order of `kanrun --help`.
_EXPERIMENTS = (
    "fit",
    "curves",
    "interpret",
    "imported",
    "solve",
    "extend_grid",
    "compare_mlp",
    "continual",
)
COMPONENTS = (
    "kanrun.targets.settings",
    "kanrun.model.settings",
    *map("kanrun.experiments.{}.config".format, _EXPERIMENTS),
)
