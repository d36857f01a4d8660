"""Search for formulas by sparse regressions, and rank them by their description lengths in bits.

Several stages propose templates, which are structures of formulas (see `templates`): power laws,
products with functions, and sums. The constants of each template are fitted to y. The search ends
when the residual of the formula with the shortest description is only rounding, or only noise. A
residual counts as noise if smooth functions of the inputs explain no more of it than they would by
chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from kanrun.engine.symbolic.budget import COSTS, Budget, WorkSpent, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.columns import Sample, functions_for
from kanrun.engine.symbolic.problem import SearchData, SearchProblem
from kanrun.engine.symbolic.products import Products
from kanrun.engine.symbolic.sums import sums
from kanrun.engine.symbolic.templates import (
    ROUNDING,
    Coordinates,
    Fitted,
    Template,
    TemplateFitting,
)

#: Angular frequencies of fast sines and cosines among the smooth functions, for inputs scaled to
#: [-1, 1].
_FAST = range(9, 22, 2)
#: An error counts as exact if it is at most this multiple of ROUNDING.
_EXACT = 10.0
#: A formula whose structure and constants take more bits than this does not end the search, because
#: there may be a shorter one.
_LONGEST = 90.0
#: Number of bits of the shortest products with one function. The stage that proposes these products
#: is skipped if a formula with fewer bits already leaves only noise (see `ProposalStage`).
_SINGLE = 22.0
#: Number of bits of the shortest sums without functions (see `_SINGLE`).
_SUM = 38.0
#: Largest number of points in sparse regressions. More points take proportionally more work.
LARGEST_SAMPLE = 2000


class Ranking:
    """The fitted templates so far, at most one of each structure, ranked by description length."""

    def __init__(self, coordinates: Coordinates, y: Array, rows: Array) -> None:
        self.coordinates = coordinates
        self.y = y
        self.rows = rows
        self.found: dict[object, Fitted] = {}

    def try_all(self, templates: Iterable[Template], steps: int = 30) -> None:
        """Fit the templates whose structures have not been fitted before."""
        for template in templates:
            key = template.key()
            if key not in self.found:
                fitted = TemplateFitting(template, self.coordinates, self.y, self.rows).run(steps)
                if fitted is not None and np.isfinite(fitted.bits):
                    self.found[key] = fitted

    @property
    def ordered(self) -> list[Fitted]:
        """The `ranked` fitted templates with the fewest bits, shortest first."""
        # Largest number of formulas in a ranking.
        ranked = 10
        return sorted(self.found.values(), key=lambda each: each.bits)[:ranked]

    @property
    def best(self) -> Fitted | None:
        return min(self.found.values(), key=lambda each: each.bits, default=None)


def smooth_columns(x: Array) -> Array:
    """Return the values of smooth functions of x (N, inputs), shape (N, functions).

    They are a constant, powers, sines and cosines of each input, and products of two inputs. For
    positive inputs that span a decade, the same functions of the logarithm are included. There are
    at most N / 4 functions.
    """
    columns = [np.ones(len(x))]
    waves = list[Array]()
    lines = list[Array]()
    for column in x.T:
        parts = [column]
        if (column > 0).all() and column.max() > 10 * column.min():
            parts.append(np.log(column))
        for part in parts:
            t = (part - part.min()) / (np.ptp(part) or 1.0) * 2 - 1
            columns += [t, t**2, t**3, np.sin(3 * t), np.cos(5 * t), np.sin(7 * t)]
            columns += [t * other for other in lines]
            lines.append(t)
            waves += [wave(k * t) for k in _FAST for wave in (np.sin, np.cos)]
    every = [*columns, *waves][: max(1, len(x) // 4)]
    count_work(COSTS.value * len(every) * len(x))
    return np.column_stack(every)


def is_noise(residual: Array, value: Array, columns: Array) -> bool:
    """Return whether smooth functions explain no more of a residual than by chance (F test).

    Args:
        residual: Residuals, shape (N,).
        value: Values of the formula, shape (N,). Their absolute values, and the square roots of
            these, are two further smooth functions.
        columns: Values of smooth functions, shape (N, functions).
    """
    # A residual counts as noise if the F test gives a p-value above this: the probability that
    # smooth functions explain so much of pure noise by chance.
    chance = 1e-3
    size = np.abs(value) / (np.abs(value).max() or 1.0)
    rows = np.column_stack([columns, size, np.sqrt(size)])
    count_work(2 * COSTS.solved(*rows.shape))
    q = np.linalg.svd(rows / np.linalg.norm(rows, axis=0), full_matrices=False)[0]
    inside = float(np.sum((q.T @ residual) ** 2))
    total = float(residual @ residual)
    k = q.shape[1]
    n = len(residual)
    ratio = (inside / k) / max((total - inside) / max(n - k, 1), 1e-300)
    return bool(stats.f.sf(ratio, k, max(n - k, 1)) > chance)


def first_noise(y: Array, columns: Array) -> float:
    """Return an upper bound of the standard deviation of the noise in y (N,).

    The bound is the RMS residual of a least-squares fit by the smooth `columns` (N, functions). If
    many |y| are too small for so much noise, the bound is smaller. It is at least 0.001 times the
    standard deviation of y.
    """
    shares = np.array([0.1, 0.25, 0.5])
    sizes = np.quantile(np.abs(y), shares) / stats.norm.isf((1 - shares) / 2)
    count_work(COSTS.solved(*columns.shape))
    rest = y - columns @ np.linalg.lstsq(columns, y, rcond=1e-10)[0]
    left = float(np.sqrt(rest @ rest / max(len(y) - columns.shape[1], 1)))
    return float(max(min(left, *sizes.tolist()), 1e-3 * np.std(y)))


@dataclass(frozen=True)
class ProposalStage:
    """A stage of the search, which proposes templates.

    Attributes:
        size: Number of bits of the shortest templates that this stage usually proposes. If a
            shorter formula already leaves only noise, the stage is skipped.
        propose: Function that returns the templates.
    """

    size: float
    propose: Callable[[], Iterable[Template]]


class SparseSearch:
    """A search by sparse regressions: its stages, and the ranking of the fitted templates.

    Args:
        problem: The search, whose points may be given in reduced variables.
        unreduced: The same points in all variables. A residual counts as noise only if smooth
            functions of these do not explain it either.
    """

    def __init__(self, problem: SearchProblem, unreduced: SearchData) -> None:
        # Fraction of the budget of a search that sparse regressions may use.
        fraction = 0.6
        points = problem.data.all_points.spread(LARGEST_SAMPLE)
        self.part = fraction * problem.budget
        self.x = points.x
        self.y = points.y
        self.size = 1.0 if points.relative else float(np.std(self.y)) or 1.0
        self.rows = 1 / np.abs(self.y) if points.relative else np.full(len(self.y), 1 / self.size)
        self.coordinates = Coordinates.of_inputs(self.x, waves=has_waves(problem.candidates))
        self.ranking = Ranking(self.coordinates, self.y, self.rows)
        columns = smooth_columns(self.x)
        noise = 0.0 if points.relative else first_noise(self.y, columns)
        inputs = unreduced.all_points.spread(LARGEST_SAMPLE).x
        is_reduced = not np.array_equal(inputs, self.x)
        others = [smooth_columns(inputs)] if is_reduced else []
        self.columns = np.column_stack([columns, *others])
        functions = functions_for(problem.candidates)
        self.sample = Sample(self.coordinates, self.y, noise, self.x.shape[1], functions)
        self.found_noise = False
        self._left = self.stages()

    def stages(self) -> Iterator[ProposalStage]:
        """Yield the stages, the cheapest first."""
        # Number of bits of the shortest products with two functions (see `_SINGLE`).
        pair = 52.0
        # Number of bits of the shortest sums with a function (see `_SINGLE`).
        sum_of_functions = 48.0
        yield ProposalStage(0.0, lambda: Products(self.sample).power_laws())
        self._sharpen()
        products = Products(self.sample)
        yield ProposalStage(0.0, products.power_laws)
        yield ProposalStage(_SINGLE, products.singles)
        self._sharpen()
        yield ProposalStage(_SUM, lambda: sums(self.sample, functions=False))
        yield ProposalStage(sum_of_functions, lambda: sums(self.sample, functions=True))
        yield ProposalStage(pair, products.pairs)

    def run(self, *, short: bool = False) -> None:
        """Run the stages until a residual is only rounding or noise.

        Later stages are still run if they may find a shorter formula. The search also ends when it
        has used up its fraction of the budget. With `short`, only products with at most one
        function are tried. A later call goes on with the stages that are left.
        """
        budget = Budget(self.part)
        try:
            with budget.enforced():
                self._run(_SINGLE if short else _LONGEST)
        except WorkSpent:
            if budget.left > 0:
                raise

    def _run(self, largest: float) -> None:
        """Run the stages whose `size` (in bits) is at most `largest`."""
        # Number of the best formulas from which terms are removed, one at a time, after every
        # stage.
        shortened = 3
        for stage in self._left:
            best = self.ranking.best
            if stage.size > largest:
                self._left = itertools.chain([stage], self._left)
                break
            if best is None or not (self.is_over() and best.size <= stage.size):
                self.ranking.try_all(stage.propose())
                for each in self.ranking.ordered[:shortened]:
                    self.ranking.try_all(each.template.shorter())
        best = self.ranking.best
        self.found_noise = self.is_over() and best is not None and best.size <= _LONGEST

    def is_over(self) -> bool:
        """Return whether the residual of the shortest description is only rounding or noise."""
        # Largest error of a formula, relative to the standard deviation of y, that may be explained
        # as noise.
        no_fit = 0.7
        best = self.ranking.best
        if best is None or best.error >= no_fit:
            return False
        if best.error <= _EXACT * ROUNDING:
            return True
        value = self.y * self.rows - best.residual
        return is_noise(best.residual, value, self.columns)

    def _sharpen(self) -> None:
        """Lower the assumed noise, which sets the weights, to the error of the best formula."""
        # Smallest standard deviation of the noise on which the weights of the points are based,
        # relative to the standard deviation of y.
        least_noise = 1e-4
        best = self.ranking.best
        if best is not None and self.sample.noise:
            error = max(best.error, least_noise) * self.size
            self.sample = replace(self.sample, noise=min(self.sample.noise, error))


def has_waves(candidates: Sequence[Candidate]) -> bool:
    """Return whether sines or cosines are among the candidates."""
    return any(each.name in ("sin", "cos") for each in candidates)
