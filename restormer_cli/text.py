"""Format values for people: printable names, causes, numbers, durations, aligned columns."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def format_duration(seconds: float) -> str:
    """Return a duration such as "12 s", "5 min" or "2 h 10 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def printable(text: str, *, lines: bool = False) -> str:
    """Return `text` with control characters escaped; `lines` keeps its newlines.

    File names may contain anything: a newline would fake a line of output, and an escape sequence
    would control the terminal. A byte that is not text in the encoding of file names, which Python
    decodes to a surrogate (PEP 383), is shown as a byte.
    """
    return "".join(c if c.isprintable() or (lines and c == "\n") else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error or its message; if that is empty, the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason(error: BaseException) -> str:
    """Return the system's message of an error, or else the first line of its own.

    Errors of the system have one, but not those of file systems behind URLs.
    """
    return getattr(error, "strerror", None) or first_line(error)


def counted(count: int, one: str, several: str = "") -> str:
    """Return a count and its noun: "1 more picture", "3 more pictures"."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or all before the point: "1,440"."""
    large = abs(value) >= 10**digits
    return f"{Decimal(round(value) if large else f'{value:.{digits}g}'):,f}"


def format_megapixels(pixels: float) -> str:
    """Return a number of pixels in megapixels, such as "1,440 MP"."""
    return f"{format_number(pixels / 1e6)} MP"


def format_bytes(count: int) -> str:
    """Return a byte count in decimal units, such as "2.34 MB"."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def columns(*rows: Sequence[str], indent: int = 0) -> str:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(" " * indent + line.rstrip() for line in lines)
