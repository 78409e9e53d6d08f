"""Measurements in the events of `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
