"""Messages and JSON events."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.program import PROGRAM, Outcome, picture, python

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.usefixtures("weights")
def test_json_reports_every_step(restormer: Callable[..., Outcome]) -> None:
    """--json writes one event per line, with stable names and fields."""
    picture("a.png")
    picture("c.png")
    Path("b.png").write_text("hello")
    Path("out").mkdir()
    picture("out/c.png")
    outcome = restormer(
        "derain", "a.png", "b.png", "c.png", "-o", "out", "--json", "--skip-existing"
    )
    assert outcome.status == 1
    names = [event["event"] for event in outcome.events]
    assert names == [
        "skipped",
        "planned",
        "planned",
        "started",
        "restored",
        "started",
        "failed",
        "summary",
    ]
    restored, failed, summary = (outcome.events[i] for i in (4, 6, 7))
    assert {"input": "a.png", "output": "out/a.png", "task": "derain"}.items() <= restored.items()
    assert restored["weights"]["name"] == "identity.pth"
    assert restored["weights"]["source"] == "file"
    assert len(restored["weights"]["sha256"]) == 64
    assert (restored["width"], restored["height"]) == (34, 21)
    assert {"device", "precision", "strategy", "seconds"} <= restored.keys()
    assert failed["error"]
    assert failed["hint"]
    assert (summary["restored"], summary["skipped"], summary["failed"]) == (1, 1, 1)


def test_json_reports_why_nothing_started(restormer: Callable[..., Outcome]) -> None:
    """A failure to start is an event on stdout and text on stderr."""
    picture("a.png")
    outcome = restormer("derain", "a.png", "--weights", "gone.pth", "--json")
    assert outcome.status == 3
    event = outcome.events[-1]
    assert (event["event"], event["input"]) == ("failed", None)
    assert "gone.pth" in event["error"]
    assert "gone.pth" in outcome.stderr


def test_quiet_shows_only_warnings_and_errors(
    weights: Path, tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--quiet shows nothing but warnings and errors."""
    picture("a.png")
    assert restormer("derain", "a.png", "-q", "--weights", tiny(), "--strength", 0.5).stderr == ""
    assert restormer("derain", "a.png", "-q", "--weights", weights).stderr.startswith("warning: ")
    assert restormer("derain", "gone.png", "-q").stderr.startswith("error: ")


@pytest.mark.usefixtures("weights")
def test_verbose_shows_starts(restormer: Callable[..., Outcome]) -> None:
    """--verbose shows when each image is started."""
    picture("a.png")
    assert "a.png: started" in restormer("derain", "a.png", "-v").stderr


@pytest.mark.usefixtures("weights")
def test_control_characters_in_names_are_escaped(
    restormer: Callable[..., Outcome],
) -> None:
    """File names can neither add lines nor send escape sequences to the terminal."""
    picture("a\n\x1b[31m.png")
    stderr = restormer("derain", "a\n\x1b[31m.png").stderr
    assert "a\\n\\x1b[31m.png -> " in stderr
    assert "\x1b" not in stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.usefixtures("weights")
def test_a_terminal_shows_progress_and_gets_no_image() -> None:
    """A terminal shows a progress bar, and image bytes for it are refused."""
    picture("a.png")
    assert b"0/1" in run_on_terminal(["derain", "a.png"], 0)
    assert b"a terminal" in run_on_terminal(["derain", "a.png", "-o", "-"], 2)


def run_on_terminal(arguments: list[str], status: int) -> bytes:
    """Run the program on a pseudo-terminal and return what it prints."""
    terminal, program = os.openpty()
    process = python(*PROGRAM, *arguments, stdout=program)
    os.close(program)
    output = b""  # on Linux, reading ends with an OSError
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as file:
        while piece := file.read(4096):
            output += piece
    assert process.wait() == status
    return output
