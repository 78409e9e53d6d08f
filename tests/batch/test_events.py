"""Every event of `--json` is what the schema says, and what is said while a run goes on."""

from __future__ import annotations

import json
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from restormer_cli.batch import events
from restormer_cli.cli import console
from tests.support.program import Outcome, picture

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

SCHEMA = json.loads(Path(events.__file__).with_name("events.schema.json").read_text("utf-8"))
KINDS = {kind.name: kind for kind in events.Event.__subclasses__()}


def valid(outcome: Outcome) -> list[str]:
    """The names of its events, each of which fits the schema."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for event in outcome.events:
        validator.validate(event)
    return [event["event"] for event in outcome.events]


def test_the_schema_is_one_and_is_printed(restormer: Callable[..., Outcome]) -> None:
    """`restormer schema` gives the file that is in the package."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(restormer("schema").stdout) == SCHEMA


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_has_the_fields_of_every_event(name: str) -> None:
    """All of them are required, and each but references says what it is."""
    described: dict[str, Any] = SCHEMA["$defs"][name]
    named = ["event", *(field.name for field in fields(KINDS[name]))]
    assert list(described["properties"]) == described["required"] == named
    for field, content in described["properties"].items():
        assert field == "event" or "description" in content or "$ref" in content


def test_every_event_of_a_run_is_valid(restormer: Callable[..., Outcome]) -> None:
    """Planned, started, restored, failed and skipped; a dry run; a run that could not start."""
    picture("f/a.png")
    Path("f/b.png").write_text("hello")
    command = ("derain", "f", "gone.png", "-o", "out", "--json")
    names = valid(restormer(*command))
    assert names == [
        "failed",
        "planned",
        "planned",
        "started",
        "restored",
        "started",
        "failed",
        "summary",
    ]
    assert "skipped" in valid(restormer(*command, "--skip-existing"))
    assert valid(restormer(*command, "--dry-run")) == ["failed", "planned", "failed", "summary"]
    assert valid(restormer(*command, "--weights", "gone.pth"))[-1] == "failed"
    assert valid(restormer("derain", "f", "-o", "f/b.png", "--json")) == ["failed"]


def test_an_event_measures_memory_and_time(restormer: Callable[..., Outcome]) -> None:
    """The peak is that of the process, which has torch in it."""
    picture("a.png")
    outcome = restormer("derain", "a.png", "--json")
    restored = next(event for event in outcome.events if event["event"] == "restored")
    assert restored["peak_memory"] > 50e6
    assert restored["seconds"] > 0


def test_lines_stand_for_the_bar_where_there_is_no_terminal(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images, megapixels, speed and the time that is left; none after the last image."""
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
    ("seconds", "said"), [(0, "0 s"), (29, "29 s"), (90, "2 min"), (4000, "1 h 7 min")]
)
def test_times_are_told_in_words(seconds: int, said: str) -> None:
    """Seconds, minutes, hours."""
    assert console.format_duration(seconds) == said


def test_the_time_left_is_what_the_rest_takes_at_this_pace() -> None:
    """Half of the images in two minutes: two minutes more."""
    pace = console.Pace(4, started=time.monotonic() - 120)
    for pixels in (6_000_000, 0):
        pace.add(pixels)
    assert pace.line() == "2 of 4 images, 6 MP, 0.05 MP/s, 2 min left"
