"""Events of `--json`, their measurements, and the progress lines on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from restormer_cli.cli import console
from tests.support.program import Outcome, picture

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")


def test_an_event_measures_memory_and_time(restormer: Callable[..., Outcome]) -> None:
    """The peak memory is that of the process, which includes torch."""
    picture("a.png")
    outcome = restormer("derain", "a.png", "--json")
    restored = next(event for event in outcome.events if event["event"] == "restored")
    assert restored["peak_memory"] > 50e6
    assert restored["seconds"] > 0


def test_without_a_terminal_progress_is_printed_in_lines(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They state images, megapixels, speed and remaining time; none follows the last image."""
    monkeypatch.setattr(console, "EVERY", 0)
    for i in range(3):
        picture(f"f/{i}.png")
    outcome = restormer("derain", "f")
    lines = [line for line in outcome.stderr.splitlines() if line.endswith(" left")]
    assert [line.split(",")[0] for line in lines] == ["1 of 3 images", "2 of 3 images"]
    assert " MP, " in lines[0]
    assert " MP/s, " in lines[0]
    assert restormer("derain", "f", "-q").stderr.count(" left") == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (29, "29 s"), (90, "2 min"), (4000, "1 h 7 min")]
)
def test_durations_are_printed_in_units(seconds: int, text: str) -> None:
    """The unit fits the size: seconds, minutes or hours."""
    assert console.format_duration(seconds) == text


def test_the_remaining_time_follows_from_the_pace() -> None:
    """After half of the images in two minutes, two minutes remain."""
    pace = console.Pace(4, started=time.monotonic() - 120)
    for pixels in (6_000_000, 0):
        pace.add(pixels)
    assert pace.line() == "2 of 4 images, 6 MP, 0.05 MP/s, 2 min left"
