"""From data, or from a trained network, to a formula with its certificate: what `kanrun interpret` and the library
share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sympy
import threadpoolctl  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray

from kanrun.engine.symbolic import (
    Candidate,
    Certificate,
    Formula,
    Graph,
    NumericSettings,
    Samples,
    SearchSettings,
    Step,
    Trained,
    Tried,
    certify,
    choose,
    choose_formula,
    finished,
    fixed_shape,
    refine_to_formula,
    renamed,
    search,
)
from kanrun.errors import UsageError
from kanrun.formulas import variable

Array = NDArray[np.float64]

_FRESH = 1000
_LEAST_POINTS = 20


@dataclass(frozen=True)
class Options:
    """How a formula is sought: `hidden` fixes the network's hidden widths (None: the shape is searched), `slack` is
    how much worse than the network a formula may be, `budget` the seconds after which no new structure is begun."""

    candidates: tuple[Candidate, ...]
    hidden: tuple[int, ...] | None = None
    grids: tuple[int, ...] = (5, 10, 20)
    degree: int = 3
    starts: int = 6
    sparsity: float = 1e-3
    slack: float = 0.1
    budget: float = 40.0
    simplify: float = 5.0

    @property
    def search(self) -> SearchSettings:
        numeric = NumericSettings(starts=self.starts, grids=self.grids)
        return SearchSettings(seconds=self.budget, degree=self.degree, numeric=numeric)


@dataclass(frozen=True)
class Check:
    """What the result is held against: points (x, y) that nothing was chosen on, and the truth where it is known."""

    x: Array
    y: Array
    domain: Array
    truth: Callable[[Array], Array] | None = None
    expression: sympy.Expr | None = None


@dataclass(frozen=True)
class Interpretation:
    """The outcome. `formula` is None where none was found; `sentence` says what happened; `outcome` is `recovered`
    (the formula is the truth), `formula` (as good as the network), `approximated`, or `failed`."""

    outcome: str
    sentence: str
    formula: Formula | None
    network: Callable[[Array], Array] | None
    certificate: Certificate | None
    structure: str
    seconds: float
    tried: Tried | None = None
    steps: tuple[Step, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return str(self.formula.expression) if self.formula else self.sentence


def interpret(  # noqa: PLR0913 (keywords of a public function)
    x: ArrayLike,
    y: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    candidates: Sequence[str] | None = None,
    own: Mapping[str, str] | None = None,
    hidden: Sequence[int] | None = None,
    seed: int = 0,
    budget: float = 40.0,
) -> Interpretation:
    """The formula of y (N,) in x (N, inputs), with its certificate on a fifth of the points, which are held out.

    `names` are the variables (default x0, x1, ...); `candidates` names functions of the table, `own` adds formulas in
    x0;
    `hidden` fixes the KAN's hidden widths. Raises UsageError for data that are not finite, too few or constant inputs
    only.
    """
    points, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    points = points[:, None] if points.ndim == 1 else points
    _check_data(points, values)
    order = np.random.default_rng(seed).permutation(len(values))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    cut = len(rest) // 5
    samples = Samples(points[rest[cut:]], values[rest[cut:]], points[rest[:cut]], values[rest[:cut]])
    domain = np.stack([points.min(0), points.max(0)], axis=1)
    options = Options(choose(candidates, own), tuple(hidden) if hidden is not None else None, budget=budget)
    check = Check(points[held], values[held], domain)
    with one_thread():
        events = interpretation(samples, check, options, seed)
        result = next(event for event in events if isinstance(event, Interpretation))
    if names is not None and result.formula is not None:
        result = replace(result, formula=renamed(result.formula, names))
    return result


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for linear algebra: the systems here are small, and threads cost them more than they save."""
    with threadpoolctl.threadpool_limits(1):
        yield


def _check_data(x: Array, y: Array) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise UsageError(f"x must be (N, inputs) and y (N,), not {x.shape} and {y.shape}.")
    if len(y) < _LEAST_POINTS:
        raise UsageError(f"{len(y)} points are too few to find a formula; give at least {_LEAST_POINTS}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UsageError("x and y must be finite numbers.")


def interpretation(
    samples: Samples, check: Check, options: Options, seed: int, given: Graph | None = None
) -> Iterator[Step | Interpretation]:
    """Every `Step` as it happens, then the `Interpretation`; from the network `given`, or else trained here."""
    began, steps, tried = time.monotonic(), [], []
    if float(np.std(samples.y)) <= 1e-14 * max(float(np.abs(samples.y).max()), 1e-300):
        yield _constant(samples, check, began)
        return
    for event in _events(samples, options, seed, given):
        if isinstance(event, Tried):
            tried.append(event)
        else:
            steps.append(event)
            yield event
    yield _concluded(samples, check, options, steps, tried, began)


def _events(samples: Samples, options: Options, seed: int, given: Graph | None) -> Iterator[Step | Tried]:
    generator = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    if given is not None:
        trained = Trained(given, samples.error(given))
        yield Step("train", "given network", given, trained.error, 0.0)
        if trained.error < samples.nothing:
            yield from refine_to_formula("given network", trained, samples, options.candidates, options.search)
    elif options.hidden is not None:
        shape = (samples.x.shape[1], *options.hidden, 1)
        yield from fixed_shape(shape, samples, options.candidates, options.search, generator, options.sparsity)
    else:
        yield from search(samples, options.candidates, options.search, generator)


def _concluded(
    samples: Samples, check: Check, options: Options, steps: list[Step], tried: list[Tried], began: float
) -> Interpretation:
    best = min((step.error for step in steps), default=float("inf"))
    if best >= samples.nothing or not tried:
        sentence = (
            "no structure found: no network predicts held-out points better than their mean does"
            if best >= samples.nothing
            else f"the network did not train: its relative error on held-out points is {best:.2g}"
        )
        return Interpretation("failed", sentence, None, None, None, "", time.monotonic() - began, None, tuple(steps))
    choice = choose_formula(tried, options.search)
    assert choice is not None
    formula = None
    if choice.formula is not None:
        names = [f"x{i}" for i in range(samples.x.shape[1])]
        formula = finished(choice.formula, samples, names, options.simplify)
    seconds = time.monotonic() - began
    certificate = certify(
        formula, choice.network, (check.x, check.y), _fresh(check.domain), check.truth, check.expression
    )
    outcome, sentence = _judged(choice, certificate, min(best, choice.network_error), options.slack)
    return Interpretation(
        outcome, sentence, formula, choice.network, certificate, choice.name, seconds, choice, tuple(steps)
    )


def _judged(choice: Tried, certificate: Certificate, network_error: float, slack: float) -> tuple[str, str]:
    if certificate.recovered == "yes":
        return "recovered", f"the formula is the truth to {certificate.formula_rmse:.1e}"
    if choice.formula is None:
        return "failed", "no candidates fit the network's edges together; they stay numeric"
    ratio = choice.formula_error / max(network_error, 1e-300)
    if choice.formula_error <= max((1 + slack) * network_error, 1e-9):
        return "formula", f"the formula is as good as the network ({ratio:.2g} times its error on held-out points)"
    return "approximated", (
        f"the formula is {ratio:.3g} times as wrong as the network on held-out points: the network stays the better "
        "model, and edges whose best candidate falls short stay numeric"
    )


def _constant(samples: Samples, check: Check, began: float) -> Interpretation:
    value = float(samples.y.mean())
    names = tuple(f"x{i}" for i in range(samples.x.shape[1]))
    graph = Graph(samples.x.shape[1], ("sum",), ())
    formula = Formula(sympy.Float(value, 17), names, graph)
    certificate = certify(formula, formula, (check.x, check.y), _fresh(check.domain), None, None)
    sentence = "no structure found: the output is constant"
    return Interpretation("formula", sentence, formula, formula, certificate, "", time.monotonic() - began)


def _fresh(domain: Array) -> Array:
    """Points of the domain that no part of the search has seen."""
    low, high = domain[:, 0], domain[:, 1]
    return low + np.random.default_rng(20240430).random((_FRESH, len(domain))) * (high - low)


def in_units(formula: Formula, shift: Array, scale: Array, out_shift: float, out_scale: float) -> Formula:
    """A formula that was found on standardised data, in the user's units."""
    swap = {
        variable(name): (variable(name) - sympy.Float(s, 17)) / sympy.Float(c, 17)
        for name, s, c in zip(formula.names, shift, scale, strict=True)
    }
    expression = formula.expression.xreplace(swap) * sympy.Float(out_scale, 17) + sympy.Float(out_shift, 17)
    return replace(formula, expression=expression)
