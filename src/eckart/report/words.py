"""Figures as people read them."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def short(number: float) -> str:
    """`6.74B`, `108k`, `512`: three digits and a unit."""
    return _scaled(number, UNITS, "")


def size(count: float) -> str:
    """`13.5 GB`."""
    return _scaled(count, SIZES, "\N{NO-BREAK SPACE}", "\N{NO-BREAK SPACE}bytes")


def percent(share: float) -> str:
    """Whole percents from 10 on, below two digits."""
    value = 100 * share
    if abs(value) >= 10 or value == 0:
        # What is nearly all is not all.
        return f"{_rounded(value, 1 if 99 <= value < 100 or 100 < value < 101 else 0)}%"
    places = 1 - math.floor(math.log10(abs(value)))
    return f"{float(_rounded(value, places)):,.10g}%"


def _rounded(value: float, places: int) -> str:
    """Halves away from 0, as the scripts of a page do it: one figure must not be said in two ways."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def digits(value: float, count: int = 5) -> float | None:
    """Rounded to so many digits; `None` for what is no number."""
    return float(f"{value:.{count}g}") if math.isfinite(value) else None


def figure(value: float | None) -> str:
    """Four digits, an exponent only where it is far from 1."""
    if value is None:
        return "–"
    return f"{value:,.4g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 matrix`, `3 matrices`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _scaled(number: float, units: tuple[tuple[float, str], ...], space: str, none: str = "") -> str:
    for unit, name in units:
        if abs(number) >= 0.9995 * unit:
            scaled = number / unit
            return f"{scaled:.{max(0, 2 - int(math.log10(abs(scaled) + 1e-9)))}f}{space}{name}"
    return f"{number:,.0f}{none}"
