"""Messages, progress and JSON events."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from restormer_cli.batch import Failed, ImageProgress, Summary
from restormer_cli.cli import console
from tests.support.program import PROGRAM, Outcome, picture, python

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.usefixtures("weights")
def test_json_reports_every_step(restormer: Callable[..., Outcome]) -> None:
    """--json writes one event per line, with documented names and fields."""
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
    """A failure to start is reported as an event on stdout and as text on stderr."""
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
    """--quiet hides results and summaries."""
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


@pytest.mark.usefixtures("weights")
def test_without_a_terminal_progress_is_printed_in_lines(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines show images, megapixels, speed and remaining time; none follows the last image."""
    monkeypatch.setattr(console, "PROGRESS_INTERVAL", 0)
    for i in range(3):
        picture(f"f/{i}.png")
    outcome = restormer("derain", "f")
    lines = [line for line in outcome.stderr.splitlines() if line.endswith(" left")]
    assert [line.split(",")[0] for line in lines] == ["1 of 3 images", "2 of 3 images"]
    assert " MP, " in lines[0]
    assert " MP/s, " in lines[0]
    assert restormer("derain", "f", "-q").stderr.count(" left") == 0


def test_the_remaining_time_follows_from_the_pace() -> None:
    """After half of the images in two minutes, two minutes remain."""
    pace = console.Pace(4, started=time.monotonic() - 120)
    for pixels in (6_000_000, 0):
        pace.add(pixels)
    assert pace.line() == "2 of 4 images, 6 MP, 0.05 MP/s, 2 min left"


def test_large_runs_are_reported_without_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress and summary of many images, restored at over 100 MP/s, have plain numbers."""
    pace = console.Pace(60, started=time.monotonic() - 1000)
    pace.add(144_000_000_000)
    assert pace.speed == "144,000 MP, 144 MP/s"
    console.Console().show(Summary("denoise", 60, 0, 0, 1440.0, 10.0, interrupted=False))
    assert capsys.readouterr().err == "60 restored; 1,440 MP in 10.0 s\n"


def test_progress_ends_with_its_batch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the batch, as in a watch, is not counted as one more of its images."""
    monkeypatch.setattr(console, "PROGRESS_INTERVAL", 0)
    output = console.Console()
    failure = Failed("a.png", None, "denoise", "no such file", "")
    with output.progress(1):
        output.show(failure)
    output.show(failure)
    assert capsys.readouterr().err == 2 * "error: a.png: no such file\n"


class Terminal(io.StringIO):
    """A terminal, with what was written to it."""

    def isatty(self) -> bool:
        return True


def test_the_progress_bar_leaves_the_standard_streams_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other threads may replace sys.stderr, so the bar neither replaces nor restores it."""
    stdout, stderr = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    output = console.Console()
    with output.progress(2):
        assert sys.stdout is stdout
        assert sys.stderr is stderr
        other = Terminal()
        sys.stderr = other  # another thread decodes an image
        output.draw("picture", "a.png")
        sys.stderr = stderr
    assert sys.stderr is stderr
    assert "0/2" in stderr.getvalue()


@pytest.mark.parametrize(
    ("width", "shown"), [(40, False), (60, False), (80, True), (100, True), (200, True)]
)
def test_a_narrow_terminal_shows_the_number_of_images(
    width: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number and remaining time come first, then the speed. Nothing is cut but the name."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    output = console.Console()
    with output.progress(345):
        output.show_progress(ImageProgress(12, "a/very/long/name/of/an/image.jpg", 6, 34, 2, 3))
        output.show(Failed("b.png", None, "denoise", "no such file", ""))
    *_, line = (line for line in stderr.getvalue().split("\r") if "12/345" in line)
    assert line.removesuffix("\n\x1b[?25h").endswith("-:--:--")
    assert ("0 MP, 0 MP/s" in line) == shown
    assert ("page 2/3, 6/34" in line) == (width >= 100)


def test_names_above_the_progress_bar_are_not_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither markup nor the name of an emoji in a file name is replaced."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    output = console.Console()
    with output.progress(2):
        output.say("[bold]a:cat:.png")
    assert "[bold]a:cat:.png" in stderr.getvalue()


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
    output = b""
    with (
        suppress(OSError),
        os.fdopen(terminal, "rb", buffering=0) as file,
    ):  # Linux ends with an error
        while chunk := file.read(4096):
            output += chunk
    assert process.wait() == status
    return output


def test_bytes_are_printed_unchanged(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A path for another program keeps its bytes, which may be no text."""
    console.Console().result(b"\xfc.png")
    assert capsysbinary.readouterr().out == b"\xfc.png\n"
