"""Forms of a candidate: kernels of its components over rows, or its functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy import ndarray

from kanrun.engine.tables.design import KINDS, RADIAL, Design, Terms
from kanrun.engine.tables.gaussian_process import inverse_of
from kanrun.engine.tables.reduced_basis import Columns, Rows
from kanrun.engine.tables.variance_components import FunctionProblem, KernelProblem

NEIGHBOURHOODS = "neighbourhoods"
#: The candidates by name, and the components of each.
COMPONENTS = {
    "linear": (0,),
    "additive": (0, 1),
    "steps": (0, 1, 2),
    "pairs": tuple(range(RADIAL)),
    NEIGHBOURHOODS: (0, RADIAL),
}
#: Covariance of the main effects of each input, shape (functions, functions), and their effective
#: degrees of freedom.
Uncertainty = tuple[tuple[ndarray, ...], float]


@dataclass(frozen=True, eq=False)
class CandidateSolution:
    """A candidate's solution for one output.

    Attributes:
        terms: The most probable terms.
        weights: Residuals over the variance of each row's noise, shape (rows,).
        left_out: Prediction of each row by all others, for the same variances, shape (rows,).
        uncertainty: Function that computes the uncertainty, which only reports need.
    """

    terms: Terms
    weights: ndarray
    left_out: ndarray
    uncertainty: Callable[[], Uncertainty]


@dataclass(frozen=True, eq=False)
class Kernels:
    """A candidate over rows: a kernel for each of its components."""

    name: str
    h: ndarray
    design: Design

    @cached_property
    def kernels(self) -> list[ndarray]:
        """Kernels of the components, each of shape (rows, rows)."""
        return self.design.kernels(self.h, COMPONENTS[self.name])

    def problem(self, noise: ndarray, y: ndarray) -> KernelProblem:
        """Return the problem of rows y with these variances of their noise."""
        return KernelProblem(self.kernels, noise, y)

    def active(self, _variances: ndarray) -> Kernels:
        """Return the candidate itself: components of variance 0 cost nothing."""
        return self

    def fitted(self, problem: KernelProblem, variances: ndarray) -> ndarray:
        """Return the fitted values."""
        return np.asarray(problem.y - problem.noise * problem.posterior(variances).weights)

    def solution(
        self, problem: KernelProblem, variances: ndarray, scale: float = 1.0
    ) -> CandidateSolution:
        """Return the terms for given variances of the components and of the noise."""
        found, h, design = problem.posterior(variances, scale), self.h, self.design
        projection = found.projection()
        whole = np.zeros(KINDS)
        whole[list(COMPONENTS[self.name])] = variances
        prior = whole[design.main]

        def uncertainty() -> Uncertainty:
            scaled, known = h * prior, prior > 0
            product = projection @ scaled
            effective = np.einsum("ij,ij->j", scaled, product)[known] / prior[known]
            return tuple(
                np.diag(prior[p]) - scaled[:, p].T @ product[:, p] for p in design.basis.places
            ), float(effective.sum())

        terms = design.terms(h, found.offset, found.weights, whole)
        left_out = problem.y - found.weights / np.diag(projection)
        return CandidateSolution(terms, found.weights, left_out, uncertainty)


@dataclass(frozen=True, eq=False)
class Functions:
    """A candidate over functions: `kept` ones of single inputs, then products h_a h_b.

    `columns` are those of the functions, with components `kinds`, and `scale` is that of all.
    """

    columns: Columns
    kinds: ndarray
    kept: ndarray
    components: int
    a: ndarray
    b: ndarray
    scale: ndarray
    design: Design
    constraints: ndarray | None

    @staticmethod
    def of(
        name: str, h: ndarray | Columns, design: Design, pairs: Iterable[tuple[int, int]]
    ) -> Functions:
        """Return the functions of the candidate's components."""
        a, b = design.products(pairs)
        kinds, scale = design.kinds(a, b)
        kept = np.flatnonzero(np.isin(kinds, COMPONENTS[name]))
        conditions = design.constraints
        if conditions is not None:
            conditions = np.pad(conditions, ((0, 0), (0, len(a))))[:, kept] * scale[kept]

        def functions(rows: Rows) -> ndarray:
            values = h[rows]
            if len(a):
                # Taking columns is ten times faster than indexing them.
                products = np.take(values, a, 1) * np.take(values, b, 1)
                values = np.concatenate([values, products * scale[values.shape[1] :]], 1)
            return np.take(values, kept, 1)

        columns = Columns(functions, len(h), len(kept))
        kinds = np.searchsorted(COMPONENTS[name], kinds[kept])
        count = len(COMPONENTS[name])
        return Functions(columns, kinds, kept, count, a, b, scale, design, conditions)

    def problem(self, noise: ndarray, y: ndarray) -> FunctionProblem:
        """Return the problem of rows y with these variances of their noise."""
        return FunctionProblem.of(self.columns, self.kinds, self.components, 1 / noise, y)

    def active(self, variances: ndarray) -> Functions:
        """Return the functions whose component has a variance."""
        kept = np.flatnonzero(variances[self.kinds] > 0)
        if len(kept) == len(self.kinds):
            return self
        columns = Columns(
            lambda rows: np.take(self.columns[rows], kept, 1), len(self.columns), len(kept)
        )
        bound = None if self.constraints is None else self.constraints[:, kept]
        kinds, places = self.kinds[kept], self.kept[kept]
        return replace(self, columns=columns, kinds=kinds, kept=places, constraints=bound)

    def fitted(self, problem: FunctionProblem, variances: ndarray) -> ndarray:
        """Return the fitted values."""
        return problem.fitted(problem.posterior(variances, constraints=self.constraints))

    def solution(
        self, problem: FunctionProblem, variances: ndarray, scale: float = 1.0
    ) -> CandidateSolution:
        """Return the terms for given variances of the components and of the noise."""
        found, design = problem.posterior(variances, scale, self.constraints), self.design
        fitted, count = problem.fitted(found), len(self.scale) - len(self.a)
        every = np.zeros(len(self.scale))
        every[self.kept] = found.coefficients * self.scale[self.kept]
        terms = Terms(found.offset, every[:count])
        if len(self.a):
            a, b = (np.searchsorted(design.places, one) for one in (self.a, self.b))
            pairs = np.zeros((len(design.places),) * 2)
            pairs[a, b] = pairs[b, a] = every[count:]
            terms = replace(terms, pairs=pairs, places=design.places)

        def uncertainty() -> Uncertainty:
            whole = np.zeros((len(self.scale),) * 2)
            kept = self.kept[found.kept]
            whole[np.ix_(kept, kept)] = inverse_of(found.factor)
            main = kept < count
            prior = variances[self.kinds[found.kept]][main]
            effective = 1 - np.diag(whole)[kept[main]] / prior
            return tuple(whole[np.ix_(p, p)] for p in design.basis.places), float(effective.sum())

        weights = problem.weights * (problem.y - fitted) / scale
        left_out = problem.left_out(found, fitted, scale)
        return CandidateSolution(terms, weights, left_out, uncertainty)


Form = Kernels | Functions
