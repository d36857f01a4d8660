"""The one row of `summary.csv` that an interpretation leaves."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic import Formula
from kanrun.runs.records import Row
from kanrun.study.interpret.question import Question
from kanrun.study.interpret.result import Interpretation
from kanrun.study.interpret.tables import shape_of

#: R^2 from which on a formula that is not the truth counts as an approximation.
APPROXIMATED = 0.99


def summary_row(question: Question, result: Interpretation, formula: Formula | None) -> Row:
    """The result with its certificate, errors in the user's units; `formula` is in these units already."""
    certificate = result.certificate
    return Row(
        "summary",
        {
            "target": question.name,
            "kind": question.kind,
            "noise": question.noise,
            "outcome": result.outcome,
            "score": score_of(question, result),
            "formula": str(formula.expression) if formula else "",
            "formula_rmse": _number(certificate.formula_rmse * question.unit) if certificate else None,
            "network_rmse": _number(certificate.network_rmse * question.unit) if certificate else None,
            "certificate": _number(certificate.difference * question.unit) if certificate else None,
            "graph_difference": question.graph_difference,
            "recovered": certificate.recovered if certificate else question.unknown,
            "form": certificate.form if certificate else question.unknown,
            "symbolically": certificate.symbolically if certificate else question.unknown,
            "r2": _number(certificate.r2) if certificate else None,
            "structure": result.structure,
            "shape": shape_of(result.tried.network) if result.tried else "",
            "active_edges": result.tried.network.active_edges if result.tried else 0,
            "numeric_edges": _numeric(result),
            "complexity": formula.complexity if formula else None,
            "seconds": result.seconds,
            "reason": result.sentence,
        },
    )


def score_of(question: Question, result: Interpretation) -> str:
    """`recovered`, `approximated` (a formula, of candidates alone or partly numeric, with R^2 of at least 0.99 on the
    check points) or `failed`."""
    if result.outcome == "recovered":
        return "recovered"
    spread = float(np.std(question.check.y))
    for formula in (result.formula, result.approximation):
        if formula is None:
            continue
        with np.errstate(all="ignore"):
            error = float(np.sqrt(np.mean((formula(question.check.x) - question.check.y) ** 2)))
        if error <= np.sqrt(1 - APPROXIMATED) * spread:
            return "approximated"
    return "failed"


def _numeric(result: Interpretation) -> int:
    """Edges that stay numeric."""
    if result.formula is not None:
        return len(result.formula.splines)
    return result.tried.network.active_edges if result.tried else 0


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
