"""The fit of a table, and what nodes of jumps add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy import ndarray

from kanrun.engine.tables.design import Design, Terms
from kanrun.engine.tables.jumps import CUT_INTERVALS, BoostingPolicy, BoostingTarget, boost
from kanrun.engine.tables.reduced_basis import Columns, PerRow, RowFunctions, RowOutputs
from kanrun.engine.tables.table_candidates import (
    JUMPS,
    OTHER_JUMPS,
    SIMPLE,
    MainPosterior,
    Posterior,
    TableRows,
)
from kanrun.engine.tables.variance_components import TablePolicy

_MEAN_ROWS = 2000  # over which mean outputs are taken

#: Weights of the members from their leave-one-out predictions (rows, outputs), and their loss.
Stack = Callable[[Sequence[ndarray]], tuple[ndarray, float]]


@dataclass(frozen=True, eq=False)
class TableFit:
    """Stack of one table.

    Attributes:
        design: Functions of the table.
        u: Encoded rows, shape (rows, inputs).
        weights: Weights of the candidates by name.
        terms: Terms of all outputs; two classes have the one logit of the second.
        left_out: Predictions of rows left out one by one, shape (rows, outputs).
        noise: Residual standard deviation of each output or of its link; 1 for classes.
        posteriors: Functions that compute the posteriors of outputs over `unit`, of the candidates
            with a weight and of the richest one without pairs.
        unit: Factor of each output since the fit, shape (outputs,).
        sparse: The sparse fit.
    """

    design: Design
    u: ndarray
    weights: Mapping[str, float]
    terms: Terms
    left_out: ndarray
    noise: ndarray
    posteriors: Mapping[str, Posterior]
    unit: ndarray
    sparse: TableFit | None = None

    @cached_property
    def main(self) -> MainPosterior:
        """Posterior of the first output in the richest candidate without pairs, over `unit`."""
        name = next(name for name in (*SIMPLE, *self.posteriors) if name in self.posteriors)
        found = self.posteriors[name](0, False)
        assert found is not None  # An invariant: that of the first output is kept.
        return found

    @property
    def effective(self) -> float:
        """Effective degrees of freedom of main effects, neighbourhoods and jumps, by weight."""
        total = 0.0
        for name, posterior in self.posteriors.items():
            if weight := self.weights.get(name):
                found = posterior(0, False)
                assert found is not None  # An invariant, see `main`.
                total += weight * found.degrees_of_freedom(np.arange(len(found.prior)))
        for name, nodes in zip((JUMPS, OTHER_JUMPS), self.design.jumps, strict=False):
            total += self.weights[name] * nodes.degrees_of_freedom(len(self.u))
        return total

    def functions(self) -> Columns:
        """Return the functions of single inputs, which may be many times the table."""
        return self.design.basis.columns(self.u)

    def raw(self, h: RowFunctions) -> RowOutputs:
        """Evaluate all outputs; functions that `h` lacks count as zero."""
        return self.terms.values(h)

    @cached_property
    def mean(self) -> ndarray:
        """Mean of each output over the first rows, shape (outputs,)."""
        return np.asarray(self.raw(self.design.functions(self.u[:_MEAN_ROWS])).mean(0))

    def times(self, factor: ndarray | float, shift: ndarray | float = 0.0) -> TableFit:
        """Return the fit of the outputs times `factor` plus `shift`."""
        factors, shifts = (np.broadcast_to(a, len(self.terms.main)) for a in (factor, shift))
        return replace(
            self,
            terms=self.terms.times(factors, shifts),
            left_out=factor * self.left_out + shift,
            noise=factor * self.noise,
            unit=factors * self.unit,
            sparse=self.sparse and self.sparse.times(factor, shift),
        )


def with_jumps(
    rows: TableRows, fit: TableFit, target: BoostingTarget, level: float, stack: Stack
) -> TableFit:
    """Add nodes of jumps for the output, and for what the stack leaves, if these reduce its loss.

    The first are added to `level`, the best constant.
    """
    bases = {JUMPS: np.full(len(fit.left_out), level), OTHER_JUMPS: fit.left_out[:, 0]}
    found, left_out = _search(rows, fit, target, bases, stack)
    if not found:
        return fit
    boosting = affordable(fit, rows.policy)
    jumps = tuple(
        boost(rows.u, target, bases[name], boosting, count=count if weight else 0)
        for name, (count, weight) in found.items()
    )
    weights = {name: weight for name, (_, weight) in found.items()}
    kept = 1 - weights[JUMPS]
    smooth = fit.times(kept, weights[JUMPS] * level)
    design = replace(fit.design, jumps=jumps)
    design = design if kept else replace(design, radial=None)
    main = smooth.terms.main[:, : len(design.main)]
    main = np.pad(main, ((0, 0), (0, len(design.main) - main.shape[1])))
    main = np.append(main, [[*weights.values()]], 1)
    return replace(
        smooth,
        design=design,
        terms=replace(smooth.terms, main=main),
        weights={name: kept * weight for name, weight in fit.weights.items()} | weights,
        left_out=left_out,
        noise=fit.noise,
        unit=fit.unit,
    )


def lowers_loss(
    before: PerRow, after: PerRow, least: tuple[float, float, float], fraction: float
) -> bool:
    """Return whether losses of rows fall by this `fraction` of the `least` gain or more.

    That is relative to the losses before, in standard errors, and a number; the largest counts.
    """
    gain = before - after
    limits = before.mean(), gain.std() / np.sqrt(len(gain)), 1.0
    return bool(gain.mean() > fraction * np.max(np.multiply(least, limits)))


def affordable(fit: TableFit, policy: TablePolicy) -> BoostingPolicy:
    """Return the policy with as many cuts as the network affords: each refines all its edges."""
    boosting, design = policy.boosting, fit.design
    nodes = len(design.main) - len(design.lines) + 2 * boosting.max_nodes
    most = policy.max_coefficients // (CUT_INTERVALS * nodes * len(design.relevance))
    return replace(boosting, max_cuts=int(np.clip(most, policy.min_cuts, boosting.max_cuts)))


def _search(
    rows: TableRows,
    fit: TableFit,
    target: BoostingTarget,
    bases: Mapping[str, PerRow],
    stack: Stack,
) -> tuple[dict[str, tuple[int, float]], ndarray]:
    """Return number of nodes and weight by name, none without gain; and predictions of rows.

    Rows are predicted by nodes that were fitted to other rows, one part after the other: no further
    part is fitted once the gain is too small for the parts so far.
    """
    policy, smooth = rows.policy, fit.left_out
    if len(smooth) < policy.jump_rows:
        return {}, smooth
    parts, boosting = np.argsort(rows.order) % policy.jump_parts, affordable(fit, policy)
    members, counts = [smooth, *(smooth.copy() for _ in bases)], list[list[int]]()
    before = target.weights * target.loss(target.y, smooth[:, 0])
    for part in range(policy.jump_parts):
        out = parts == part
        found = [boost(rows.u, target, base, boosting, out=out) for base in bases.values()]
        counts.append([len(nodes.values) for nodes in found])
        for member, nodes, base in zip(members[1:], found, bases.values(), strict=True):
            member[out, 0] = base[out] + nodes(rows.u[out])
        mixture, _ = stack(members)
        mixture = np.where(mixture < policy.min_weight, 0.0, mixture)
        mixture /= mixture.sum()
        left_out = np.tensordot(mixture, members, 1)
        after = target.weights * target.loss(target.y, left_out[:, 0])
        if not lowers_loss(before, after, policy.jump_gain, (part + 1) / policy.jump_parts):
            return {}, smooth
    number = np.round(np.mean(counts, axis=0)).astype(int).tolist()
    each = zip(number, mixture[1:].tolist(), strict=True)
    return dict(zip(bases, each, strict=True)), left_out
