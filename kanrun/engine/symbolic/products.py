"""Find products of powers of inputs and of one or two functions F(c z), by regression of log |y|.

The model log |y| = p_1 log |x_1| + ... + q_1 log |F_1(c_1 z_1)| + q_2 log |F_2(c_2 z_2)| is linear
in the exponents p and q; z is a monomial of the inputs. Columns are computed for all functions,
monomials and scales c of a grid, and the logarithms of the inputs are projected out of them. All
columns are then compared at once, and pairs of columns by their Gram matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.columns import (
    EXPONENT_STEPS,
    ONE_PLUS,
    RELATIVE,
    WAVES,
    Column,
    Sample,
    arguments,
    explained_by_pairs,
    halves,
    log_columns,
    near_powers,
    scales,
)
from kanrun.engine.symbolic.templates import IDENTITY_TRANSFORM, Factor, Monomial, Template, Term

#: Largest number of monomials that are arguments of functions.
_ARGUMENTS = 400
#: Largest number of products with one function that are fitted, and of pairs of functions.
KEPT = 40
#: Half widths, relative to the scale, of the smaller and smaller ranges in which the scale is
#: optimised.
_ZOOMS = (0.1, 0.03, 0.01)
#: Values of -c z at the minimum of z that are tried in 1 + c z if z is negative at some points.
_ABOVE_POLE = np.concatenate(
    [[0.01, 0.02], np.arange(0.04, 0.97, 0.04), [0.98, 0.99, 0.999, 0.9999]]
)
#: Largest number of columns among which pairs are chosen.
_COLUMNS = 8000
#: Exponents of functions that are tried.
POWERS = (0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0, 2.5, -2.5, 3.0, -3.0, 4.0, -4.0, 5.0, -5.0)


class Products:
    """Search for products by a regression of log |y| on logarithms of inputs and of functions."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.target = sample.projected((sample.log_y * sample.log_weights)[:, None])[:, 0]
        self.columns: list[Column] = []

    def power_laws(self) -> list[Template]:
        """Return power laws whose exponents are near the least-squares exponents.

        One least-squares fit is made to log |y|, and another to y itself.
        """
        sample = self.sample
        templates = []
        goal = sample.log_y * sample.log_weights
        start: Array = np.asarray(np.linalg.lstsq(sample.base, goal, rcond=None)[0], np.float64)
        for exponents in (start, _on_values(sample, start)):
            templates += self.rounded(exponents[1:], ())
        return templates

    def rounded(
        self, exponents: Array, factors: tuple[Factor, ...], extra: Monomial = ()
    ) -> list[Template]:
        """Return products with the exponents (inputs,) rounded to multiples of 1/2.

        Exponents that are not near a multiple are rounded both up and down. The products are
        multiplied by `factors` and by the monomial `extra`.
        """
        doubt = np.abs(exponents * EXPONENT_STEPS - np.round(exponents * EXPONENT_STEPS))
        unsure = [i for i in np.argsort(-doubt)[:3] if doubt[i] > 0.2]
        choices = []
        for i, p in enumerate(exponents.tolist()):
            near = [halves(p)]
            if i in unsure:
                near.append(halves(p + (0.5 if halves(p) < p else -0.5)))
            if near[0].denominator > 1:
                near.append(halves(p, 1))
            if self.sample.coordinates.linear[i]:
                near = [Fraction(0), Fraction(1)]
            choices.append(list(dict.fromkeys(near)))
        templates = []
        for powers in itertools.islice(itertools.product(*choices), 16):
            monomial = (*((i, p) for i, p in enumerate(powers) if p), *extra)
            if self.sample.coordinates.allows(monomial):
                templates += self.template(monomial, factors)
        return templates

    def template(self, monomial: Monomial, factors: tuple[Factor, ...]) -> list[Template]:
        """Return a list with the product and its least-squares coefficient, as a template.

        The list is empty if the coefficient is 0 or not finite.
        """
        sample = self.sample
        with np.errstate(all="ignore"):
            value = sample.coordinates.value(monomial)
            for f in factors:
                value = value * f.value(sample.coordinates.value(f.monomial))
            coefficient = float(value @ sample.y / (value @ value))
        if not np.isfinite(coefficient) or coefficient == 0:
            return []
        return [Template(IDENTITY_TRANSFORM, Term(1.0), (Term(coefficient, monomial, factors),))]

    def build(self) -> None:
        """Find the columns that explain most of log |y| in addition to the inputs, best first."""
        ranked: list[tuple[float, int, Column]] = []
        for columns, logs in self._batches():
            good, unit = self._projected(logs)
            gains = (self.target @ unit) ** 2
            for i, gain in zip(good.tolist(), gains.tolist(), strict=True):
                ranked.append((-gain, len(ranked), columns[i]))
        self.columns = [column for *_, column in sorted(ranked)[:_COLUMNS]]

    def _batches(self) -> Iterator[tuple[list[Column], Array]]:
        """Yield all columns with their values (N, columns), about `batch` values at once."""
        # Approximate number of values that are projected at once, so that they fit into the
        # processor's cache.
        batch = 200_000
        # Number of the simplest monomials that are also used as arguments of sin, cos and tan.
        wave_arguments = 60
        coordinates = self.sample.coordinates
        first = self.sample.inputs
        plain = [((i, Fraction(1)),) for i in range(first, len(coordinates.atoms))]
        columns = [Column(None, monomial, 1.0) for monomial in plain]
        logs = [coordinates.logs[first:].T]
        for place, monomial in enumerate(self._arguments()):
            for more, values in self._of_argument(monomial, place < wave_arguments):
                columns += more
                logs.append(values)
                if len(columns) * len(self.target) > batch:
                    yield columns, np.hstack(logs)
                    columns = []
                    logs = []
        if columns:
            yield columns, np.hstack(logs)

    def _arguments(self) -> list[Monomial]:
        coordinates = self.sample.coordinates
        algebraic = arguments(coordinates, _ARGUMENTS, waves=False)
        return sorted({*algebraic, *arguments(coordinates, _ARGUMENTS // 3)}, key=coordinates.bits)

    def _of_argument(self, monomial: Monomial, waves: bool) -> Iterator[tuple[list[Column], Array]]:
        """Yield columns, and their values (N, columns), for each function of a monomial."""
        z = self.sample.coordinates.value(monomial)
        size = float(np.abs(z).max())
        if not np.isfinite(size) or np.ptp(z) <= 1e-9 * size:
            return
        middle = float(np.median(np.abs(z))) or size
        for function in self.sample.functions:
            if function.name in WAVES and not waves:
                continue
            if function.name == "exp":
                yield [Column(function, monomial, 1.0 / size)], (z / size)[:, None]
                continue
            grid = scales(function, z, size, middle)
            table = log_columns(function, z, grid)
            good = np.isfinite(table).all(axis=0)
            yield [Column(function, monomial, c) for c in grid[good].tolist()], table[:, good]

    def _projected(self, logs: Array) -> tuple[NDArray[np.intp], Array]:
        """Project the logarithms of the inputs out of columns, and drop columns that these explain.

        Returns:
            The indices of the columns that remain, and their projections, scaled to length 1.
        """
        # A column is dropped if projecting out the logarithms of the inputs leaves less than this
        # fraction of its norm.
        left = 1e-6
        count_work(COSTS.value * logs.size)
        raw = logs * self.sample.log_weights[:, None]
        rest = self.sample.projected(raw)
        norms = np.sqrt(np.einsum("nk,nk->k", rest, rest))
        good = np.flatnonzero(norms > left * np.sqrt(np.einsum("nk,nk->k", raw, raw)))
        return good, rest[:, good] / norms[good]

    def singles(self) -> Iterator[Template]:
        """Yield the best products of powers of the inputs and one factor F(c z)^q, best first.

        The scale c is optimised for each function F, monomial z and exponent q.
        """
        # Largest number of pairs of a function and an argument for which the scale is optimised.
        refined = 150
        self.build()
        seen: set[object] = set()
        ranked: list[tuple[float, Array, Column, float]] = []
        for column in self.columns:
            key = column.function and column.function.name, column.monomial, column.scale > 0
            if key in seen or len(seen) >= refined:
                continue
            seen.add(key)
            ranked += self._refined(column)
        ranked.sort(key=lambda entry: entry[0])
        for _, exponents, column, power in ranked[:KEPT]:
            yield from self._with_columns([(column, power)], exponents)

    def _refined(self, column: Column) -> list[tuple[float, Array, Column, float]]:
        """Optimise the scale of a column's function for several exponents of the function.

        Returns:
            For each exponent of the function: the loss, the exponents of the inputs (inputs,), the
                column with the optimised scale, and the exponent.
        """
        # Number of the best exponents of each function for which the scale is optimised beyond the
        # grid.
        powers_kept = 8
        # Number of scales that are tried in each range of `_ZOOMS`.
        zoomed = 7
        # Number of scales that are tried between the neighbours of the best scale on the grid.
        finer = 13
        sample = self.sample
        if column.function is None or column.is_exponential:
            log = self.sample.log_column(column)
            power = self._solve([log])[-1]
            powers = [power] if column.is_exponential else [float(p) for p in near_powers(power)]
            return [(*self._rest(log * p), column, p) for p in powers]
        z = sample.coordinates.value(column.monomial)
        grid = column.scale * np.geomspace(0.4, 2.5, finer)
        if column.function is ONE_PLUS and (low := float((column.scale * z).min())) < 0:
            # c z must stay above -1, so that 1 + c z is positive.
            grid = column.scale * _ABOVE_POLE / -low
        losses = self._losses(column.function, z, grid, np.array(POWERS))
        best = losses.argmin(axis=1)
        refined = []
        for k in np.argsort(losses[np.arange(len(best)), best])[:powers_kept].tolist():
            scale = float(grid[best[k]])
            for width in _ZOOMS:
                near = scale * np.linspace(1 - width, 1 + width, zoomed)
                power = np.array([POWERS[k]])
                scale = float(near[self._losses(column.function, z, near, power)[0].argmin()])
            chosen = Column(column.function, column.monomial, scale)
            log = self.sample.log_column(chosen)
            if np.isfinite(log).all():
                refined.append((*self._rest(log * POWERS[k]), chosen, POWERS[k]))
        return refined

    def _losses(self, function: Candidate, z: Array, grid: Array, powers: Array) -> Array:
        """Return the losses of regressions of log |y| on the inputs and a power of F(c z).

        The exponents of the inputs are fitted, those of F(c z) are `powers`, and the scales c are
        `grid`. A loss is the weighted sum of squared residuals minus a constant that is the same
        for all. It is inf if F(c z) is 0 or not defined at a point. The result has the shape
        (powers, scales).
        """
        count_work(5 * COSTS.edge)
        logs = log_columns(function, z, grid)
        finite = np.isfinite(logs).all(axis=0)
        rest = self.sample.projected(logs[:, finite] * self.sample.log_weights[:, None])
        tried = powers[:, None]
        losses = np.full((len(powers), len(grid)), np.inf)
        losses[:, finite] = tried**2 * np.sum(rest**2, axis=0) - 2 * tried * (self.target @ rest)
        return losses

    def _solve(self, logs: Sequence[Array]) -> Array:
        sample = self.sample
        rows = np.column_stack([sample.base, *(log * sample.log_weights for log in logs)])
        count_work(COSTS.solved(*rows.shape))
        goal = sample.log_y * sample.log_weights
        return np.asarray(np.linalg.lstsq(rows, goal, rcond=1e-12)[0])

    def _rest(self, part: Array) -> tuple[float, Array]:
        """Subtract `part` (N,) from log |y|, and fit the exponents of the inputs to the difference.

        Returns:
            The norm of the weighted residual for exponents rounded to multiples of 1/2, and the
            exponents before rounding (inputs,).
        """
        sample = self.sample
        count_work(COSTS.solved(*sample.base.shape))
        goal = (sample.log_y - part) * sample.log_weights
        exponents = np.linalg.lstsq(sample.base, goal, rcond=1e-12)[0]
        rounded = np.round(exponents[1:] * EXPONENT_STEPS) / EXPONENT_STEPS
        rest = goal - sample.base[:, 1:] @ rounded
        ones = sample.base[:, 0]
        rest = rest - ones * (ones @ rest / (ones @ ones))
        return float(np.linalg.norm(rest)), np.asarray(exponents[1:], np.float64)

    def _with_columns(
        self, chosen: Sequence[tuple[Column, float]], exponents: Array
    ) -> list[Template]:
        factors = list[Factor]()
        extra = list[tuple[int, Fraction]]()
        for column, power in chosen:
            factor = column.factor(power)
            if factor is None:
                extra.append((column.monomial[0][0], halves(power)))
            elif factor.power:
                factors.append(factor)
        return self.rounded(exponents, tuple(factors), tuple(sorted(e for e in extra if e[1])))

    def pairs(self) -> Iterator[Template]:
        """Yield products of powers of the inputs and two factors F(c z)^q, best pairs first.

        The functions and scales c are those of `columns`, which `build` finds; `singles` calls
        `build`.
        """
        # Two columns count as parallel if projecting out one of them leaves less than this fraction
        # of the squared norm of the other.
        parallel = 2e-4
        if len(self.columns) < 2:
            return
        good, values = self._projected(
            np.stack([self.sample.log_column(each) for each in self.columns], axis=1)
        )
        columns = [self.columns[i] for i in good]
        index = self._spread(columns, values)
        chosen = values[:, index].T
        share = chosen @ self.target
        gain = explained_by_pairs(chosen, share, chosen, share, parallel)
        first, second = np.triu_indices(len(index), 1)
        order = np.argsort(-gain[first, second])
        seen: set[object] = set()
        for k in order.tolist():
            pair = [columns[index[first[k]]], columns[index[second[k]]]]
            key = tuple((c.function and c.function.name, c.monomial, c.scale > 0) for c in pair)
            if key in seen:
                continue
            seen.add(key)
            if len(seen) > KEPT:
                return
            yield from self._pair(pair)

    def _spread(self, columns: Sequence[Column], values: Array) -> list[int]:
        """Return the indices of about `paired` columns whose pairs are compared.

        These are the columns that explain most of log |y|, alone or in addition to one of the best
        columns. At most four columns have the same function and monomial.

        Args:
            columns: The columns, best first.
            values: Projections of the columns, scaled to norm 1, shape (N, columns).
        """
        # Approximate number of columns whose pairs are compared.
        paired = 300
        counts: dict[object, int] = {}
        chosen: list[int] = []

        def take(order: Sequence[int], most: int) -> None:
            taken = 0
            for i in order:
                column = columns[i]
                key = column.function and column.function.name, column.monomial
                if i not in chosen and counts.get(key, 0) < 4:
                    counts[key] = counts.get(key, 0) + 1
                    chosen.append(i)
                    taken += 1
                if taken >= most:
                    return

        take(range(len(columns)), paired // 2)
        for best in chosen[:20:4]:
            count_work(COSTS.value * values.size / 10)
            first = values[:, best]
            rest = self.target - first * float(first @ self.target)
            cross = first @ values
            with np.errstate(all="ignore"):
                gain = (rest @ values) ** 2 / (1 - cross**2)
            gain[~(np.abs(cross) < 0.999)] = 0
            take(np.argsort(-gain).tolist(), paired // 10)
        return chosen

    def _pair(self, pair: Sequence[Column]) -> Iterator[Template]:
        logs = [self.sample.log_column(column) for column in pair]
        solved = self._solve(logs)
        options = [
            [float(power)]
            if column.is_exponential
            else [float(p) for p in near_powers(float(power))]
            for column, power in zip(pair, solved[-2:], strict=True)
        ]
        for powers in itertools.product(*options):
            part = sum(p * log for p, log in zip(powers, logs, strict=True))
            _, exponents = self._rest(np.asarray(part))
            yield from self._with_columns(list(zip(pair, powers, strict=True)), exponents)[:2]


def _on_values(sample: Sample, start: Array) -> Array:
    """Fit a power law to y itself, starting from its fit to log |y|, which noise biases.

    `start` and the result are the logarithm of the coefficient and the exponents, shape (inputs +
    1,). If a value is not finite, `start` is returned.
    """
    logs = np.column_stack([np.ones(len(sample.y)), *sample.coordinates.logs[: sample.inputs]])
    sizes = np.hypot(sample.noise, RELATIVE * sample.y)
    exponents = start.copy()
    goal = np.abs(sample.y)
    with np.errstate(all="ignore"):
        for _ in range(8):
            value = np.exp(logs @ exponents)
            rows = logs * (value / sizes)[:, None]
            if not np.isfinite(rows).all():
                return start
            count_work(COSTS.solved(*rows.shape))
            move = np.linalg.lstsq(rows, (goal - value) / sizes, rcond=1e-9)[0]
            exponents = exponents + np.clip(move, -1, 1)
            if np.abs(move).max() < 1e-4:
                break
    return exponents
