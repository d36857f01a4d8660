"""Ticks of logarithmic axes, and labels as plain text: 10⁻³ in letters takes a hundredth of the time of mathematics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator, NullLocator, ScalarFormatter

_RAISED = str.maketrans("-\N{MINUS SIGN}0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MATHS = re.compile(r"\$\\mathdefault\{(.*)\}\$")
_EXPONENT = re.compile(r"\^\{(-?\d+)\}")
_POWER = re.compile(r"(\d[\d.]*)e([-\N{MINUS SIGN}]?\d+)")


class PlainPowers(LogFormatterSciNotation):
    """Labels of a logarithmic axis, such as 10⁻³ and 2×10⁻³; 0.2 and 53 where it spans little around 1."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos)
        found = _MATHS.fullmatch(text)
        if not found:
            return text
        if self._near_one():
            return self.fix_minus(f"{x:.4g}")
        plain = _EXPONENT.sub(lambda power: power[1].translate(_RAISED), found[1].replace(r"\times", "×"))
        return self.fix_minus(plain)

    def _near_one(self) -> bool:
        low, high = sorted(self.axis.get_view_interval()) if self.axis is not None else (0.0, 0.0)
        return bool(low >= 1e-2 and high <= 1e3 and high < 20 * low)


class PlainNumbers(ScalarFormatter):
    """Labels of a linear axis; what all of them have in common stands beside it, such as ×10⁻⁶."""

    def get_offset(self) -> str:
        return _POWER.sub(_as_power, super().get_offset())


def name_values(axis: Axis, values: Iterable[float]) -> None:
    """Ticks of a logarithmic axis at those of `values` that there is room to name, as plain numbers."""
    every = sorted({float(value) for value in values})
    kept: list[float] = []
    room = max(np.log(every[-1] / every[0]) / 9, 0.3) if every else 0.0
    for value in every:
        if not kept or np.log(value / kept[-1]) > room:
            kept.append(value)
    _name(axis, kept)


def name_round(axis: Axis) -> None:
    """Ticks of a logarithmic axis at round numbers, also where it spans less than a decade; call it after drawing."""
    low, high = sorted(axis.get_view_interval())
    if not 0 < low < high:
        return
    span = np.log10(high / low)
    if span > 0.6:
        steps = (1.0,) if span > 2.5 else (1.0, 3.0) if span > 1.2 else (1.0, 2.0, 5.0)
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
    else:
        ticks = [float(tick) for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)]
    _name(axis, [tick for tick in ticks if low <= tick <= high])


def _name(axis: Axis, ticks: list[float]) -> None:
    powers = any("e" in f"{tick:.4g}" for tick in ticks)  # of all or of none: 0.01 beside 10⁻⁵ reads badly
    axis.set_ticks(ticks, [_power(tick) if powers else f"{tick:.4g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _power(value: float) -> str:
    """10⁵ and 3×10⁷."""
    mantissa, _, power = f"{value:.3e}".partition("e")
    factor = "" if float(mantissa) == 1 else f"{float(mantissa):g}×"
    return f"{factor}10{str(int(power)).translate(_RAISED)}"


def _as_power(found: re.Match[str]) -> str:
    factor = "" if found[1] == "1" and not found.start() else found[1]
    return f"{factor}×10{found[2].translate(_RAISED)}"


def plain_ticks(figure: Figure) -> None:
    """Let the axes of `figure` write their ticks' labels as plain text, where it has matplotlib's own formatters."""
    for axes in figure.axes:
        for each in (axes, *axes.child_axes):
            if isinstance(each, Axes) or hasattr(each, "xaxis"):
                for axis in (each.xaxis, each.yaxis):
                    _replace(axis.get_major_formatter(), axis.set_major_formatter)
                    _replace(axis.get_minor_formatter(), axis.set_minor_formatter)


def _replace(formatter: Any, put: Any) -> None:
    kinds: dict[type, type] = {LogFormatterSciNotation: PlainPowers, ScalarFormatter: PlainNumbers}
    kind = kinds.get(type(formatter))
    if kind is None:
        return
    plain = kind()
    vars(plain).update(vars(formatter))  # limits, offsets and the base, as they were chosen
    put(plain)
