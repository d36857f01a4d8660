"""Dictionaries of terms for sums: monomials, and monomials times functions F(c z) of monomials.

A dictionary leaves out the inputs on whose logarithms log |y| depends linearly, because their
powers are a common factor of all terms.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import stats

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.function_columns import (
    FAST,
    ONE_PLUS,
    WAVES,
    Sample,
    arguments,
    halves,
    monomials,
    scales,
)
from kanrun.engine.symbolic.templates import OPERATION, Factor, Monomial, Term

#: Largest number of monomials in a dictionary.
_MONOMIALS = 1000


@dataclass(frozen=True)
class TermColumns:
    """Terms, their values at the points (terms, N), and their description lengths (terms,)."""

    terms: list[Term]
    values: Array
    bits: Array


def constant_slopes(sample: Sample) -> Monomial:
    """Return the product of powers of the inputs on whose logarithms log |y| depends linearly.

    For each input, an F test compares a fit by smooth functions of all inputs with a fit in which
    this input has only a linear term of its logarithm. Exponents must be near a multiple of 1/2.
    """
    # The dependence also counts as linear if the F ratio of the input is at most this fraction of
    # the largest F ratio of an input.
    small = 0.1
    # Significance level of the F test of whether log |y| depends on the logarithm of an input in a
    # nonlinear way.
    constant = 1e-4
    d = sample.inputs
    weights = sample.log_weights
    if d < 2:
        return ()
    logs = sample.coordinates.logs[:d]
    span = np.ptp(logs, axis=1)
    scaled = (logs - logs.min(axis=1, keepdims=True)) / np.maximum(span, 1e-12)[:, None] * 2 - 1
    raw = sample.coordinates.values[:d]
    size = np.maximum(np.abs(raw).max(axis=1), 1e-300)
    linear = raw / size[:, None]
    goal = sample.log_y * weights

    def columns(inputs: Sequence[int]) -> list[Array]:
        parts = []
        for n, i in enumerate(inputs):
            parts += [scaled[i] ** 2, scaled[i] ** 3, linear[i], linear[i] ** 2]
            for j in inputs[:n]:
                parts += [scaled[i] * scaled[j], linear[i] * linear[j], linear[i] * scaled[j]]
        return parts

    def rest(inputs: Sequence[int]) -> tuple[float, int, Array]:
        rows = np.column_stack([np.ones(len(goal)), *scaled, *columns(inputs)])[:, : len(goal) // 3]
        rows = rows * weights[:, None]
        count_work(COSTS.solved(*rows.shape))
        solved, _, rank, _ = np.linalg.lstsq(rows, goal, rcond=1e-9)
        left = goal - rows @ solved
        return float(left @ left), int(rank), solved

    full, rank, _ = rest(range(d))
    freedom = max(int((weights > 0.1 * weights.max()).sum()) - rank, 10)
    ratios = []
    powers = []
    for i in range(d):
        left, fewer, solved = rest([j for j in range(d) if j != i])
        ratios.append((left - full) / max(rank - fewer, 1) / max(full / freedom, 1e-300))
        powers.append(float(solved[1 + i] * 2 / span[i]) if span[i] > 0 else 0.0)
    # If smooth functions leave more than noise unexplained, all F ratios are too large by a common
    # factor.
    limit = max(float(stats.f.isf(constant, max(rank // d, 1), freedom)), small * max(ratios))
    chosen = [
        (i, halves(power))
        for i, (ratio, power) in enumerate(zip(ratios, powers, strict=True))
        if ratio <= limit and abs(power - float(halves(power))) < 0.12 and halves(power)
    ]
    return tuple((i, p) for i, p in chosen if sample.coordinates.allows(((i, p),)))


def build_dictionary(sample: Sample, common: Monomial, functions: bool) -> TermColumns:
    """Return the dictionary of terms in the inputs that do not occur in `common`.

    With `functions`, it includes monomials times functions of monomials.
    """
    # Smallest effective number of rows that determine the coefficient of a term; with fewer, the
    # term could fit outliers.
    rows = 4.0
    coordinates = sample.coordinates
    taken = frozenset(i for i, _ in common)
    chosen = [
        m for m in monomials(coordinates, _MONOMIALS, halves=True) if _apart(sample, m, taken)
    ]
    if len(chosen) < _MONOMIALS // 2:
        chosen = monomials(coordinates, _MONOMIALS, 6, halves=True, without=taken)
    entries = [(Term(1.0), np.ones(len(sample.y)), 0.0)]
    for monomial in chosen:
        value = coordinates.value(monomial)
        if np.isfinite(value).all():
            entries.append((Term(1.0, monomial), value, coordinates.bits(monomial) + OPERATION))
    if functions:
        entries += _function_terms(sample, taken)
    values = np.array([value for _, value, _ in entries])
    sizes = np.abs(values).max(axis=1, keepdims=True)
    good = np.isfinite(sizes[:, 0]) & (sizes[:, 0] > 0)
    squares = np.where(good[:, None], values / np.where(good[:, None], sizes, 1.0), 1.0) ** 2
    good &= squares.sum(axis=1) ** 2 >= rows * (squares**2).sum(axis=1)
    count_work(COSTS.term_value * values.size)
    index = np.flatnonzero(good)
    return TermColumns(
        [entries[i][0] for i in index], values[index], np.array([entries[i][2] for i in index])
    )


def _apart(sample: Sample, monomial: Monomial, taken: frozenset[int]) -> bool:
    return not any(sample.coordinates.atoms[i].inputs & taken for i, _ in monomial)


def _function_terms(sample: Sample, taken: frozenset[int]) -> list[tuple[Term, Array, float]]:
    """Return terms with functions F(c z) of simple monomials z, their values and their bits.

    Each function is multiplied by a monomial; sines and cosines also by an exponential. Inputs in
    `taken` do not occur.
    """
    # Largest number of terms with a function.
    functions = 5000
    coordinates = sample.coordinates
    inner = [m for m in arguments(coordinates, 300, waves=False) if _apart(sample, m, taken)][:24]
    factors = [
        (),
        *(m for m in monomials(coordinates, 200, waves=False) if _apart(sample, m, taken)),
    ][:16]
    bases = [(Term(1.0, m), coordinates.value(m), coordinates.bits(m)) for m in factors]
    entries: list[tuple[Term, Array, float]] = []
    for monomial in inner:
        z = coordinates.value(monomial)
        cost = coordinates.bits(monomial)
        damped = list[tuple[Term, Array, float]]()
        for function in sample.functions:
            if function.name in ("exp+1", "arcsin", "arccos", "tan"):
                continue
            fastest = FAST[sample.inputs == 1 and monomial == ((0, Fraction(1)),)]
            for factor, value in _factors_of(function, monomial, z, fastest):
                total = cost + function.complexity + 3 * OPERATION + 5
                beside = [*bases, *(damped if function.name in WAVES else [])]
                if function.name in WAVES and factor.scale * np.ptp(z) > FAST[0]:
                    beside = bases[:1]
                count_work(len(beside) * (COSTS.edge + COSTS.value / 5 * z.size))
                with np.errstate(over="ignore"):  # infinite columns are left out later
                    products = [base * value for _, base, _ in beside]
                entries += [
                    (Term(1.0, term.monomial, (*term.factors, factor)), product, total + bits)
                    for (term, _, bits), product in zip(beside, products, strict=True)
                ]
                if function.name == "exp" and len(monomial) == 1 and monomial[0][1] == 1:
                    damped.append((Term(1.0, (), (factor,)), value, function.complexity))
    entries.sort(key=lambda entry: entry[2])
    return entries[:functions]


def _factors_of(
    function: Candidate, monomial: Monomial, z: Array, fastest: float
) -> Iterator[tuple[Factor, Array]]:
    """Yield the factors F(c z)^p for a grid of scales c and for a few powers p.

    Each factor is followed by its values (N,). Factors that are constant, or not finite at a point,
    are left out.
    """
    powers = [Fraction(1, 2), Fraction(-1)] if function is ONE_PLUS else [Fraction(1)]
    size = float(np.abs(z).max())
    grid = scales(function, z, size, float(np.median(np.abs(z))) or size, fastest)
    if function.name in ("exp", "exp-1", "tanh", "log", "log(1+x)"):
        grid = grid[:: 2 if len(grid) > 12 else 1]
    if function.name == "log":
        grid = np.array([1.0]) if z.min() > 0 else np.zeros(0)
    for scale, power in itertools.product(grid.tolist(), powers):
        factor = Factor(function, monomial, power, scale)
        count_work(4 * COSTS.edge + COSTS.value * z.size)
        with np.errstate(all="ignore"):
            value = factor.value(z)
        if np.isfinite(value).all() and np.ptp(value) > 0:
            yield factor, value
