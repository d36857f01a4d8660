"""A study: everything that runs more than once is points x cells x seeds of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.config.composed import ComposedConfig, MissingSettings
from kanrun.errors import UsageError
from kanrun.runs.files import write_atomic
from kanrun.runs.manifest import POINTS_FILE, Point, plain_values, read_points, write_points
from kanrun.runs.reader import Run, config_path, read_config

__all__ = ["Point", "Study"]
#: Columns that an error names.
MAX_NAMES = 20


@dataclass(frozen=True)
class Study:
    """A command, its points, and the configurations that they are made of.

    Attributes:
        command: The command, such as "fit".
        argv: Arguments as typed, for the record.
        bases: Composed configurations as plain values, interpolations kept; one for each
            combination of group choices. Each has every key of the values that are set on it.
        points: The points in the order of their numbers.
        source: File that the bases were read from, for errors.
    """

    command: str
    argv: tuple[str, ...]
    bases: tuple[Mapping[str, Any], ...]
    points: tuple[Point, ...]
    source: str = ""
    _composed: dict[int, ComposedConfig] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_several(self) -> bool:
        """Whether the study has several points."""
        return len(self.points) > 1

    def config(self, number: int) -> ExperimentConfig:
        """Return the typed and checked configuration of the point `number`. Raises UsageError."""
        try:
            return self._config(self.points[number])
        except UsageError as error:
            raise UsageError(f"{self.source}: {error}" if self.source else str(error)) from error

    def _config(self, point: Point) -> ExperimentConfig:
        base = self.bases[point.base]
        if point.base not in self._composed:
            self._composed[point.base] = ComposedConfig(self.command, base)
        values = plain_values(base, point.values)
        try:
            return self._composed[point.base].with_values(values)
        except MissingSettings as error:
            table = values.get("target.path") or dict(base.get("target") or {}).get("path")
            if error.paths[0] != "target.outputs" or not isinstance(table, str):
                raise
            from kanrun.targets.table_reading import column_names

            names = column_names(Path(table))
            more = " and more" if len(names) > MAX_NAMES else ""
            columns = f"{', '.join(names[:MAX_NAMES])}{more}"
            hint = f"target.outputs=[NAME], of the columns {columns}"
            raise UsageError(f"target.outputs must be given, as {hint}.") from error

    def store(self, folder: Path) -> None:
        """Write `config.yaml`, `config-1.yaml`, ..., and of several points `points.csv`."""
        for number, base in enumerate(self.bases):
            text = OmegaConf.to_yaml(OmegaConf.create(dict(base)))
            write_atomic(config_path(folder, number), text.encode(), durable=True)
        if self.has_several:
            write_points(folder, self.points)

    @classmethod
    def read(cls, folder: Path) -> Study:
        """Return the study that the run in `folder` stored. Raises StorageFailed."""
        manifest = Run(folder).manifest
        points: tuple[Point, ...] = (Point(0, manifest.overrides),)
        if (folder / POINTS_FILE).is_file():
            points = tuple(read_points(folder))
        bases = range(max(point.base for point in points) + 1)
        configs = tuple(read_config(config_path(folder, number)) for number in bases)
        source = str(config_path(folder, 0))
        return cls(manifest.command, manifest.argv, configs, points, source)
