"""MLPs of the same size as a KAN: by parameters, FLOPs or seconds, the width solved for each depth.

Hidden layers of a matched MLP have one width, but for the last, which takes what is left: so a few parameters more or
less can be met, where equal widths alone would jump by whole layers. Of the widths near enough the most even are
taken, else the nearest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kanrun.engine.networks.counting import mlp_flops, mlp_parameters
from kanrun.errors import UsageError

#: How near a match must be, as a share of what is matched.
TOLERANCE = {"parameters": 0.02, "flops": 0.02, "time": 0.10}
#: Widest layer that is tried, and how far from even widths a match is looked for.
WIDEST, REACH = 1 << 14, 16

Measure = Callable[[tuple[int, ...]], float]


@dataclass(frozen=True)
class Match:
    """The hidden widths found, what they measure, and whether that is near enough; else it is the nearest."""

    hidden: tuple[int, ...]
    value: float
    wanted: float
    close: bool

    @property
    def off(self) -> float:
        """(value - wanted) / wanted."""
        return self.value / self.wanted - 1


def by_parameters(inputs: int, outputs: int, depth: int, wanted: int | float) -> Match:
    """The MLP with `depth` hidden layers whose parameters come nearest to `wanted`."""
    return nearest(
        lambda hidden: float(mlp_parameters((inputs, *hidden, outputs))),
        depth,
        wanted,
        "parameters",
    )


def by_flops(inputs: int, outputs: int, depth: int, activation: str, wanted: int | float) -> Match:
    """The MLP with `depth` hidden layers whose FLOPs a sample, as executed, come nearest to `wanted`."""
    return nearest(
        lambda hidden: mlp_flops((inputs, *hidden, outputs), activation), depth, wanted, "flops"
    )


def by_time(seconds: Measure, depth: int, wanted: int | float, widest: int = WIDEST) -> Match:
    """The MLP of one width up to `widest` whose measured `seconds(hidden)` come nearest to `wanted`.

    By doubling, then bisection. Each width is measured once; a clock is no monotonic function of width, so the nearest
    of all that was seen counts.
    """
    _check(depth, wanted)
    seen: dict[int, float] = {}

    def at(width: int) -> float:
        if width not in seen:
            seen[width] = seconds((width,) * depth)
        return seen[width]

    low, high = 1, 1
    while at(high) < wanted and high < widest:
        low, high = high, min(2 * high, widest)
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < wanted else (low, middle)
    return _best(
        ((width,) * depth for width in seen),
        lambda hidden: seen[hidden[0]],
        wanted,
        TOLERANCE["time"],
    )


def nearest(measure: Measure, depth: int, wanted: int | float, what: str) -> Match:
    """The hidden widths (n, ..., n, m) whose `measure`, increasing in every width, matches `wanted` best."""
    _check(depth, wanted)
    even = _largest(lambda n: measure((n,) * depth) <= wanted)
    candidates: list[tuple[int, ...]] = []
    for n in range(
        max(1, even - min(even // 2, REACH)), min(even + min(even // 2, REACH) + 1, WIDEST) + 1
    ):
        equal = (n,) * (depth - 1)
        last = _largest(lambda m, equal=equal: measure((*equal, m)) <= wanted)  # type: ignore[misc]
        candidates += [(*equal, m) for m in (last, min(last + 1, WIDEST))]
    return _best(candidates, measure, wanted, TOLERANCE[what])


def _best(
    candidates: Iterable[tuple[int, ...]], measure: Measure, wanted: int | float, tolerance: float
) -> Match:
    def rank(match: Match) -> tuple[bool, float, float]:
        uneven = max(match.hidden) - min(match.hidden)
        return not match.close, float(uneven) if match.close else 0.0, abs(match.off)

    values = ((hidden, measure(hidden)) for hidden in candidates)
    return min(
        (Match(h, v, float(wanted), abs(v - wanted) <= tolerance * wanted) for h, v in values),
        key=rank,
    )


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest width in 1 .. WIDEST that fits, where all up to it do; 1 where none does."""
    return max(1, bisect_left(range(1, WIDEST + 1), True, key=lambda width: not fits(width)))


def _check(depth: int, wanted: int | float) -> None:
    if depth < 1:
        raise UsageError(
            f"An MLP of {depth} hidden layers has no width to match; use depths from 1 on."
        )
    if not wanted > 0:
        raise UsageError(f"Nothing can match {wanted}: it must be positive.")
