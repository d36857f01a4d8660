"""The model of a table: `auto`, unless the command line says anything about the model or its training."""

from __future__ import annotations

from collections.abc import Sequence

from kanrun.config.registry import MODELS, TARGETS, ExperimentKind

_TRAINING = ("model", "solver", "study", "precision", "suite")


def with_table_model(experiment: ExperimentKind, words: Sequence[str]) -> list[str]:
    """The overrides with the model that `experiment` takes for tables.

    A study, a solver or a key of another model keeps the model of functions, as do targets that are no tables.
    """
    settings = dict(word.lstrip("+").partition("=")[::2] for word in words if not word.startswith("~"))
    chosen = settings.get("target", "")
    if not experiment.table_model or chosen not in TARGETS or not TARGETS[chosen].table or "model" in settings:
        return list(words)
    own = {f"model.{name}" for name in MODELS[experiment.table_model].settings.__dataclass_fields__}
    other = any(key not in own and key.partition(".")[0] in _TRAINING for key in settings)
    return list(words) if other else [*words, f"model={experiment.table_model}"]
