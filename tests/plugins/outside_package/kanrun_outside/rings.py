"""A target kind in one file: circular waves sin(frequency |x|) on [-1, 1]^dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kanrun.config import setting, target

if TYPE_CHECKING:
    from kanrun.targets import Target


@target("kanrun_outside.rings:build")
@dataclass
class RingsTarget:
    """Circular waves around the origin."""

    frequency: float = setting(4.0, "waves per unit length, times 2 pi", above=0)
    dimension: int = setting(2, "number of variables", minimum=1, maximum=5)
    kind: str = "rings"


def build(settings: RingsTarget) -> Target:
    """The function as a formula, so that it is known exactly."""
    from kanrun.formulas import parse
    from kanrun.targets import formula_target

    inputs = [f"x{i}" for i in range(settings.dimension)]
    radius = f"sqrt({'+'.join(f'{x}^2' for x in inputs)})"
    return formula_target("rings", parse(f"sin({settings.frequency!r}*{radius})"), inputs, None)
