"""Values formatted for people."""

from __future__ import annotations

import pytest

from restormer_cli.text import format_duration, printable


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (29, "29 s"), (90, "2 min"), (4000, "1 h 7 min")]
)
def test_durations_are_printed_in_units(seconds: int, text: str) -> None:
    """The unit fits the size: seconds, minutes or hours."""
    assert format_duration(seconds) == text


def test_names_are_printed_without_control_characters() -> None:
    """Control characters are escaped, and bytes that are not text are shown as bytes."""
    assert printable("ü\x1b[31m\n\udcff\ud800") == r"ü\x1b[31m\n\xff\ud800"
    assert printable("a\nb\tc", lines=True) == "a\nb\\tc"
