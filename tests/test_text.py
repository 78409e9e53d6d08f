"""Values formatted for people."""

from __future__ import annotations

import pytest

from restormer_cli.text import (
    counted,
    first_line,
    format_bytes,
    format_duration,
    format_megapixels,
    format_number,
    printable,
    reason,
)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (29, "29 s"), (90, "2 min"), (4000, "1 h 7 min")]
)
def test_durations_are_printed_in_units(seconds: int, text: str) -> None:
    """The unit fits the size: seconds, minutes or hours."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999 bytes"),
        (2_340_000, "2.34 MB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (999_600_000, "1.0 GB"),
    ],
)
def test_byte_counts_are_printed_in_the_unit_that_they_round_to(count: int, text: str) -> None:
    """No unit has more than three digits before the point, also after rounding."""
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 3, "0"),
        (0.00000612, 2, "0.0000061"),
        (9.456, 3, "9.46"),
        (99.6, 2, "100"),
        (999.6, 3, "1,000"),
        (1_440.2, 3, "1,440"),
        (1_234_567, 3, "1,234,567"),
    ],
)
def test_numbers_are_printed_without_exponents(value: float, digits: int, text: str) -> None:
    """Numbers with more digits before the point than asked for have all of those."""
    assert format_number(value, digits) == text


def test_pixels_are_printed_in_megapixels() -> None:
    """The number has three digits or more, in groups of three."""
    assert format_megapixels(714) == "0.000714 MP"
    assert format_megapixels(60 * 24_000_000) == "1,440 MP"


@pytest.mark.parametrize(
    ("count", "nouns", "text"),
    [
        (1, ("page",), "1 page"),
        (2, ("page",), "2 pages"),
        (1, ("mask or map", "masks or maps"), "1 mask or map"),
        (3, ("mask or map", "masks or maps"), "3 masks or maps"),
    ],
)
def test_nouns_agree_with_their_count(count: int, nouns: tuple[str, ...], text: str) -> None:
    """The plural adds an s unless another one is given."""
    assert counted(count, *nouns) == text


def test_names_are_printed_without_control_characters() -> None:
    """Control characters are escaped, and bytes that are not text are shown as bytes."""
    assert printable("ü\x1b[31m\n\udcff\ud800") == r"ü\x1b[31m\n\xff\ud800"
    assert printable("a\nb\tc", lines=True) == "a\nb\\tc"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError(" no memory\nat allocator.cpp:12"), "no memory"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_cause_is_one_line(error: Exception, text: str) -> None:
    """Only the first line of a message is printed, or the name of an error without one."""
    assert first_line(error) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "a.png"), "No space left on device"),
        (OSError("the line is down\nat socket.py:12"), "the line is down"),
        (PermissionError(), "PermissionError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_the_reason_of_an_error_is_that_of_the_system(error: Exception, text: str) -> None:
    """The message of the system is printed without the path; errors without one have their own."""
    assert reason(error) == text
