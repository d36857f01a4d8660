"""Interpretation of single values of tables as numbers, dates, levels or missing values.

The source code of `text_of`, `number_from`, `days_from`, `is_number` and `canonical` is copied into
exported Python files, so these functions may use only what such a file imports.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kanrun.points import Array

#: Values of a column: texts from a text file, or values of any type from other sources.
Values: TypeAlias = "Sequence[Any] | NDArray[Any]"
#: Indices of a column's faulty values, by kind of fault (such as "missing").
Faults = dict[str, list[int]]

#: Texts that count as missing values in every table, in lower case.
MISSING_WORDS = frozenset(
    ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none", "nat")
)
_BOOLEANS = {"true": 1.0, "false": 0.0}
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d|(\d{1,2})([./-])(\d{1,2})\3\d{4})([ T]\d\d:\d\d.*)?$", re.ASCII
)


def text_of(value: Any) -> str:
    """Return a value as text without blanks around it; "(missing)" for None, NaN and blanks."""
    text = "" if value is None else str(value).strip()
    return "(missing)" if text == "" or (isinstance(value, float) and math.isnan(value)) else text


def number_from(value: Any) -> float:
    """Return a value as a number, or NaN if it is none, such as 12_1."""
    try:
        return math.nan if "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def days_from(texts: list[str], day_first: bool) -> Array:
    """Convert dates to days since 1970-01-01, and "" to NaN.

    Dates are written as 2024-12-31, as 31.12.2024 if `day_first`, or otherwise as 12/31/2024. Times
    with a time zone are converted to UTC. Raises ValueError if a text is not a date.
    """
    import numpy as np

    instants = []
    minutes = []
    for text in texts:
        year = text
        rest = ""
        date = re.fullmatch(r"(\d{1,2})[./-](\d{1,2})[./-](\d{4})(.*)", text)
        if date:
            first, second, year, rest = date.groups()
            day, month = (first, second) if day_first else (second, first)
            rest = f"-{month:0>2}-{day:0>2}{rest}"
        plain = year + rest or "NaT"
        zone = re.fullmatch(r"(.*:[\d.]+) ?(?:[Zz]|([+-])(\d\d):?(\d\d)?)", plain)
        if zone:
            plain, sign, hours, rest = zone.groups()
            minutes.append(float(f"{sign or ''}1") * (60 * int(hours or 0) + int(rest or 0)))
        else:
            minutes.append(0.0)
        instants.append(plain)
    dates = np.array(instants, dtype="M8[us]")
    days = dates.astype(np.int64) / 86_400e6 - np.array(minutes) / 1440
    return np.where(np.isnat(dates), np.nan, days)


def is_number(text: str) -> bool:
    """Return whether Python's float() can convert a text, such as "1e3", "inf" or "nan".

    Texts with underscores, such as 12_1, do not count as numbers.
    """
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def canonical(value: Any) -> str:
    """Return a text in standard form: a number with 17 digits, or anything else in lower case."""
    text = str(value).strip()
    return f"{float(text):.17g}" if is_number(text) else text.casefold()


def is_missing(value: Any, words: Collection[str] = ()) -> bool:
    """Return whether a value is missing: None, NaN, empty, a word such as NA, or one of `words`.

    `words` are in the form that `canonical` returns.
    """
    if str(value).strip().casefold() in MISSING_WORDS:
        return True
    return bool(words) and canonical(value) in words


def other_notation(texts: Sequence[str]) -> tuple[str, dict[str, str], list[str]] | None:
    """Return how to read texts that look like numbers in another notation, such as "1.234,50 EUR".

    Returns:
        The first such text; the options `thousands` and `decimal` with which `texts` would be
        numbers; and the currencies and percent signs that have to be removed before. None if at
        most half of the texts look like such numbers.
    """
    sign = r"([$\u20ac\xa3\xa5%]|[A-Z]{3})?"
    digits = r"(\d{1,3}(?:([.,'\u2019\s])\d{3})(?:\3\d{3})*(?:[.,]\d+)?|\d+(?:[.,]\d*)?)"
    pattern = re.compile(rf"[+-]?{sign}\s*[+-]?{digits}(?:[eE][+-]?\d+)?\s*{sign}")
    matches = [match for text in texts if (match := pattern.fullmatch(text.strip()))]
    if 2 * len(matches) <= len(texts):
        return None
    options: dict[str, str] = {}
    grouped = ""  # a mark that is followed by three digits wherever it occurs
    for match in matches:
        *groups, last = re.findall(r"\D", match[2]) or [""]
        if groups:
            options["thousands"] = groups[0]
        if groups and last == groups[0]:
            continue
        if groups or not match[3]:
            options |= {"decimal": last} if last == "," else {}
        else:
            grouped = last
    if grouped and grouped not in options.values() and (grouped != "." or "decimal" in options):
        options["thousands"] = grouped
    signs = {match[part] for match in matches for part in (1, 4)} - {None}
    order = dict(sorted(options.items(), reverse=True))
    return matches[0].string, order, sorted(signs)


def read_numbers(values: Values, words: Collection[str] = ()) -> tuple[Array, Faults]:
    """Convert values to finite numbers; true and false become 1 and 0.

    Values in `words` count as missing, in addition to MISSING_WORDS.

    Returns:
        The numbers, shape (values,), with NaN for values that are not finite numbers; and the
        indices of faulty values, by kind of fault: `missing`, `text` or `infinite`.
    """
    import numpy as np  # imported late, so that names of columns are checked without it

    faults: Faults = defaultdict(list)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        numbers = np.fromiter(map(float, values), np.float64, len(values))
        names = any("_" in value for value in values if isinstance(value, str))
        # Checked without underscores, because Python reads 12_1 as 121.
        if np.isfinite(numbers).all() and not names and not words:
            return numbers, faults
    numbers = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        text = str(value).strip().casefold()
        number = _BOOLEANS[text] if text in _BOOLEANS else number_from(value)
        if is_missing(value, words):
            faults["missing"].append(i)
        elif math.isnan(number):
            faults["text"].append(i)
        elif math.isinf(number):
            faults["infinite"].append(i)
        else:
            numbers[i] = number
    return numbers, faults


def read_days(
    values: Values, words: Collection[str] = (), day_first: bool | None = None
) -> tuple[Array, Faults, bool | None]:
    """Convert dates to days since 1970-01-01.

    Args:
        values: Values of a column.
        words: Additional texts that count as missing; see `read_numbers`.
        day_first: Whether a date such as 04/05/2024 begins with the day. If it is None, a number
            above 12, or dots as in 4.5.2024, in any value decides; without such a value, the month
            comes first.

    Returns:
        The days, shape (values,), with NaN for values that are missing or not dates; the indices of
        faulty values, as from `read_numbers`; and whether the day comes first, or None if the
        values did not decide it.
    """
    import numpy as np

    texts = ["" if is_missing(value, words) else text_of(value) for value in values]
    faults: Faults = defaultdict(list, missing=[i for i, text in enumerate(texts) if not text])
    matches = [_DATE.match(text) for text in texts]
    if day_first is None:
        fields = [m.group(2, 3, 4) for m in matches if m and m[3]]
        first, second = (max((int(p[k]) for p in fields), default=0) for k in (0, 2))
        if first > 12 or second > 12 or any(p[1] == "." for p in fields):
            day_first = second <= 12
    days = np.full(len(texts), np.nan)
    dated = [i for i, m in enumerate(matches) if m]
    wrong = [i for i, m in enumerate(matches) if texts[i] and not m]
    try:
        days[dated] = days_from([texts[i] for i in dated], bool(day_first))
    except ValueError:  # an impossible date such as 2023-02-30
        for i in dated:
            try:
                days[i] = days_from([texts[i]], bool(day_first))[0]
            except ValueError:
                wrong.append(i)
    faults["text"] = sorted(wrong)
    return days, faults, day_first
