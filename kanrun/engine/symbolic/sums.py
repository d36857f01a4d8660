"""Find sums of a few terms of a dictionary: g(y / M) = c_1 t_1 + c_2 t_2 + ...

g is a transform of the output. M is 1, or the product of powers of those inputs on whose logarithms
log |y| depends linearly. Terms are monomials of the coordinates, and monomials times a function F(c
z). Pairs of terms are compared by their Gram matrix, and further terms are added by projection.
Further sums are found by backward elimination, starting from many simple terms.

Dictionaries of terms for sums: monomials, and monomials times functions F(c z) of monomials.

A dictionary leaves out the inputs on whose logarithms log |y| depends linearly, because their
powers are a common factor of all terms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from scipy import stats

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.columns import (
    APART,
    BLOCK,
    FAST,
    ONE_PLUS,
    RELATIVE,
    WAVES,
    Sample,
    arguments,
    explained_by_pairs,
    halves,
    monomials,
    scales,
)
from kanrun.engine.symbolic.templates import (
    IDENTITY_TRANSFORM,
    LOGARITHM,
    OPERATION,
    SQUARE,
    Factor,
    Monomial,
    Template,
    Term,
    Transform,
    take_two_values,
)

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


#: Number of terms, from the start of the dictionary, that are paired with all terms.
_FIRST = 1000
#: Number of the best pairs that are fitted, and to which further terms are added.
_PAIRS = 40
#: Number of undamped sines and cosines with a phase that are fitted, and to which further terms are
#: added. The same number of damped ones is used.
_WAVES = 6
#: Numbers of simple terms from which backward elimination starts.
_ELIMINATED = (40, 120, 250)


def in_phase(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Combine each sine and the cosine of nearly the same argument into a cosine with a phase."""
    # A sine and a cosine may be combined if their frequencies differ by at most this fraction.
    one_frequency = 0.25
    kept = list[Term]()
    for term in terms:
        for place, other in enumerate(kept):
            pair = {each.factors[-1].function.name: each for each in (term, other) if each.factors}
            if set(pair) != {"sin", "cos"} or term.monomial != other.monomial:
                continue
            wave = pair["cos"].factors[-1]
            sine = pair["sin"].factors[-1]
            is_near = math.isclose(sine.scale, wave.scale, rel_tol=one_frequency)
            if not is_near or _shape(pair["sin"]) != _shape(pair["cos"]):
                continue
            a = pair["cos"].coefficient
            b = pair["sin"].coefficient
            *others, wave = pair["cos"].factors
            factors = (*others, replace(wave, shift=-math.atan2(b, a)))
            kept[place] = Term(math.hypot(a, b), term.monomial, factors)
            break
        else:
            kept.append(term)
    return tuple(kept)


def _shape(term: Term) -> object:
    """Return a key that two terms share if they differ only in scales and in sine versus cosine."""
    *others, wave = term.factors
    return wave.monomial, [(each.function, each.monomial) for each in others]


class Sums:
    """Sparse regression of g(y / M) on a dictionary.

    Args:
        sample: Points of the search.
        transform: The transform g.
        common: The monomial M.
        dictionary: The terms.
    """

    def __init__(
        self, sample: Sample, transform: Transform, common: Monomial, dictionary: TermColumns
    ) -> None:
        self.sample = sample
        self.transform = transform
        self.common = common
        self.usable = True
        y = sample.y
        with np.errstate(all="ignore"):
            size = sample.coordinates.value(common)
            self.sign = 1.0
            if transform.name != "y":
                self.sign = float(np.sign(np.sum(y * np.sign(size)))) or 1.0
                size = size * self.sign
                seen = np.abs(y) > 4 * sample.noise
                self.usable = bool((y[seen] * size[seen] > 0).all())
            target = transform.forward(y / size)
            errors = np.hypot(sample.noise, RELATIVE * y)
            weights = 1 / (np.abs(transform.slope(y / size) / size) * errors)
        good = np.isfinite(target) & np.isfinite(weights)
        self.usable = self.usable and bool(good.mean() > 0.7)
        weights = np.where(good, weights, 0.0)
        self.weights = weights / (weights.max() or 1.0)
        self.target = np.where(good, target, 0.0) * self.weights
        self.usable = self.usable and bool(self.target.any())
        self.terms = dictionary.terms
        self.bits = dictionary.bits
        if not self.usable:
            return
        count_work(COSTS.value * dictionary.values.size)
        columns = dictionary.values * self.weights
        with np.errstate(over="ignore"):  # Terms whose norm overflows are left out.
            norms = np.linalg.norm(columns, axis=1)
        keep = np.isfinite(norms) & (norms > 0)
        self.index = np.flatnonzero(keep)
        self.columns = columns[keep] / norms[keep, None]
        self.norms = norms[keep]
        self.bits = dictionary.bits[keep]
        self.linear = take_two_values(dictionary.values[keep])
        self.terms = [dictionary.terms[i] for i in self.index]
        self.half = 0.5 * int((self.weights > 0).sum())

    def template(self, chosen: Sequence[int], solved: Array) -> Template:
        coefficients = solved / self.norms[list(chosen)]
        above = in_phase(
            [
                replace(self.terms[i], coefficient=float(c))
                for i, c in zip(chosen, coefficients, strict=True)
            ]
        )
        return Template(self.transform, Term(self.sign, self.common), above)

    def _solved(self, chosen: Sequence[int]) -> tuple[float, Array]:
        rows = self.columns[list(chosen)].T
        count_work(COSTS.solved(*rows.shape))
        solved = np.linalg.lstsq(rows, self.target, rcond=1e-13)[0]
        rest = self.target - rows @ solved
        return float(rest @ rest), solved

    def templates(self) -> Iterator[Template]:
        """Yield sums of two to four terms, then the sums found by backward elimination."""
        # Largest number of sums that are fitted after each of the two extensions by one term.
        longer = 20
        if not self.usable or len(self.terms) < 2:
            return
        chosen = [*self._waves(), *self._pairs()[:_PAIRS]]
        yield from self._fitted(chosen)
        for _ in range(2):
            chosen = self._longer(chosen)[:_PAIRS]
            yield from self._fitted(chosen[:longer])
        for count in _ELIMINATED:
            yield from self._fitted(self._eliminated(count))

    def _fitted(self, choices: Sequence[tuple[int, ...]]) -> Iterator[Template]:
        for chosen in choices:
            if self.transform is not IDENTITY_TRANSFORM and self.linear[list(chosen)].all():
                continue  # sums of indicators are tried for y itself only
            yield self.template(chosen, self._solved(chosen)[1])

    def _score(self, rest: Array, bits: Array, least: float = 1e-26) -> Array:
        """Return the description lengths (bits) of sums of terms, up to a constant.

        `rest` contains the sum of squared residuals that each sum leaves of the target, and `bits`
        the bits of its terms. Sums that leave less than the fraction `least` of the squares of the
        target count as equally good.
        """
        total = float(self.target @ self.target)
        return np.asarray(self.half * np.log2(np.maximum(rest / total, least)) + bits)

    def _pairs(self) -> list[tuple[int, ...]]:
        # Pairs of terms that leave less than this fraction of the squares of the target count as
        # equally good, because the rest may be rounding.
        rounding = 1e-12
        first = min(_FIRST, len(self.terms))
        share = self.columns @ self.target
        total = float(self.target @ self.target)
        best = list[tuple[float, int, int]]()
        step = max(BLOCK // len(self.terms), 1)
        for start in range(0, first, step):
            rows = slice(start, min(start + step, first))
            later = slice(start, None)
            gain = explained_by_pairs(
                self.columns[rows], share[rows], self.columns[later], share[later], APART
            )
            bits = self.bits[rows, None] + self.bits[later]
            score = self._score(total - gain, bits, rounding)
            score[np.tril_indices(len(score), m=score.shape[1])] = np.inf
            count_work(COSTS.value * score.size)
            nearest = np.argpartition(score.ravel(), min(4 * _PAIRS, score.size - 1))[: 4 * _PAIRS]
            i, j = np.divmod(nearest, score.shape[1])
            scores = score.ravel()[nearest].tolist()
            best += zip(scores, (i + start).tolist(), (j + start).tolist(), strict=True)
            best = sorted(best)[: 4 * _PAIRS]
        return self._distinct([(i, j) for _, i, j in best])

    def _waves(self) -> list[tuple[int, ...]]:
        """Return the best sums of a constant and the sine and cosine of one argument.

        Each sum is a tuple of indices of terms. Sums in which the sine and cosine are multiplied by
        an exponential follow the others.
        """
        places: dict[object, list[int]] = {}
        for i, term in enumerate(self.terms):
            if term.factors and term.factors[-1].function.name in ("sin", "cos"):
                *others, wave = term.factors
                key = term.monomial, tuple(others), wave.monomial, wave.scale
                places.setdefault(key, []).append(i)
        plain = [i for i, term in enumerate(self.terms) if term == Term(1.0)]
        waves = [(*plain, *pair) for pair in places.values() if len(pair) == 2]
        ranked = self._distinct(sorted(waves, key=lambda each: self._solved(each)[0]))
        damped = [each for each in ranked if len(self.terms[each[-1]].factors) > 1]
        return [*[each for each in ranked if each not in damped][:_WAVES], *damped[:_WAVES]]

    def _distinct(self, choices: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the choices of terms, without those that repeat a previous choice up to scales."""
        seen = set[object]()
        kept = []
        for chosen in choices:
            key = frozenset(
                (
                    self.terms[i].monomial,
                    tuple((f.function.name, f.monomial, f.power) for f in self.terms[i].factors),
                )
                for i in chosen
            )
            if key not in seen:
                seen.add(key)
                kept.append(chosen)
        return kept

    def _longer(self, choices: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        scores: dict[frozenset[int], float] = {}
        for chosen in choices:
            count_work(COSTS.value / 4 * self.columns.size + COSTS.value * 5 * len(self.columns))
            q = np.linalg.qr(self.columns[list(chosen)].T)[0]
            rest = self.target - q @ (q.T @ self.target)
            norms = 1 - np.sum((self.columns @ q) ** 2, axis=1)
            with np.errstate(all="ignore"):
                gain = (self.columns @ rest) ** 2 / norms
            gain[~(norms > 1e-9)] = 0
            left = np.maximum(float(rest @ rest) - gain, 0)
            score = self._score(left, self.bits + self.bits[list(chosen)].sum())
            for k in np.argsort(score)[:4].tolist():
                if k not in chosen:
                    scores[frozenset((*chosen, k))] = float(score[k])
        return self._distinct(
            [tuple(sorted(key)) for key in sorted(scores, key=scores.__getitem__)]
        )

    def _eliminated(self, count: int) -> list[tuple[int, ...]]:
        """Return the sums of at most `most_terms` terms that remain in backward elimination.

        The elimination starts from the `count` simplest monomials. Each sum is a tuple of indices
        of terms.
        """
        # Largest number of terms of a sum.
        most_terms = 12
        plain = [i for i, term in enumerate(self.terms) if not term.factors]
        kept = sorted(plain, key=lambda i: self.bits[i])[: min(count, len(self.target) // 4)]
        remaining = list[tuple[int, ...]]()
        while len(kept) > 2:
            rows = self.columns[kept].T
            count_work(COSTS.solved(*rows.shape))
            q, r = np.linalg.qr(rows)
            if np.abs(np.diag(r)).min() < 1e-11:
                kept = [i for i, d in zip(kept, np.abs(np.diag(r)), strict=True) if d >= 1e-11]
                continue
            inverse = np.linalg.inv(r)
            solved = inverse @ (q.T @ self.target)
            loss = solved**2 / np.sum(inverse**2, axis=1)
            rest = self.target - rows @ solved
            left = float(rest @ rest)
            if len(kept) <= most_terms:
                remaining.append(tuple(kept))
            price = self.half * np.log2(1 + loss / max(left, 1e-300)) - self.bits[kept]
            drop = max(1, len(kept) // 12) if len(kept) > 16 else 1
            order = np.argsort(price)[:drop].tolist()
            kept = [i for k, i in enumerate(kept) if k not in order]
        return remaining


def sums(sample: Sample, functions: bool) -> Iterator[Template]:
    """Yield templates that are sums of few terms.

    Without `functions`, sums are fitted to y and y^2; with `functions`, to y and log |y|. Each sum
    is tried with the common factor M from `constant_slopes`, and without a common factor.
    """
    common = constant_slopes(sample)
    for factor in dict.fromkeys([common, ()]):
        dictionary = build_dictionary(sample, factor, functions)
        for transform in (IDENTITY_TRANSFORM, LOGARITHM if functions else SQUARE):
            yield from Sums(sample, transform, factor, dictionary).templates()
