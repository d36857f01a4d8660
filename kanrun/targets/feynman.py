"""The 27 dimensionless Feynman formulas of the KAN paper's Table 2 (arXiv 2404.19756), from the CSV beside this."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from kanrun.config import FeynmanTarget
from kanrun.errors import UsageError
from kanrun.formulas import parse
from kanrun.near import near
from kanrun.targets.data import Target
from kanrun.targets.formula import formula_target


@dataclass(frozen=True)
class FeynmanFormula:
    """A formula in x0, x1, ...; `variables` are their names in the lectures; `domain` has text such as 0.4*pi."""

    formula: str
    variables: tuple[str, ...]
    domain: tuple[tuple[str, str], ...]


@cache
def feynman_formulas() -> dict[str, FeynmanFormula]:
    """Equation id (volume.chapter.equation) to formula."""
    text = resources.files("kanrun.targets").joinpath("feynman_dimensionless.csv").read_text(encoding="utf-8")
    formulas = {}
    for row in csv.DictReader(text.splitlines()):
        ends = [pair.split(":") for pair in row["domain"].split()]
        domain = tuple((lower, upper) for lower, upper in ends)
        formulas[row["id"]] = FeynmanFormula(row["formula"], tuple(row["variables"].split()), domain)
    return formulas


def build_feynman(config: FeynmanTarget) -> Target:
    """A formula by its equation id; inputs are x0, x1, ... in the order of the CSV's variables."""
    formulas = feynman_formulas()
    if config.id not in formulas:
        raise UsageError(
            f"target.id={config.id!r} is not one of the 27 formulas{near(config.id, formulas)}; "
            f"known are {', '.join(formulas)}."
        )
    entry = formulas[config.id]
    inputs = [f"x{i}" for i in range(len(entry.variables))]
    return formula_target(config.id, parse(entry.formula), inputs, config.domain, entry.domain)
