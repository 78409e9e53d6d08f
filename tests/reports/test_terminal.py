"""`--preview`: before and after in the terminal, as graphics or as block characters."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from restormer_cli.batch.events import Restored, Weights
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from restormer_cli.reports import terminal
from tests.support.program import PROGRAM, Outcome, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

needs_library = pytest.mark.skipif(
    find_spec("textual_image") is None, reason="textual-image (the extra `preview`) is missing"
)


def restored(width: int, height: int) -> Restored:
    """Return the event of a restored image of this size."""
    return Restored(
        "a.png",
        "b.png",
        "denoise",
        Weights("w", "file", "0" * 64),
        "cpu",
        "fp32",
        "whole",
        1,
        width,
        height,
        1,
        width * height,
        1.0,
        None,
        0.0,
        0.0,
        0,
        [],
        [],
    )


def test_the_most_changed_region_is_shown(tmp_path: Path) -> None:
    """It is shown pixel by pixel, before at the left and after at the right, as RGB."""
    before = np.zeros((200, 300, 1), np.uint16)
    after = before.copy()
    after[120:150, 200:240] = 65535
    writer = terminal.PreviewWriter(tmp_path, width=100, height=40)
    writer(restored(300, 200), Image(before), Image(after))
    picture = image_io.read_image(writer.path(restored(300, 200))).pixels
    assert picture.shape == (40, 49 * 2 + writer.gap, 3)
    left, right = picture[:, :49], picture[:, -49:]
    assert not left.any()
    assert (right == 255).all(axis=2).sum() == 30 * 40  # the region contains all changes


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 1), (300, 5, 3), (33, 47, 3)])
@pytest.mark.parametrize("scale", [1, 2])
def test_images_of_any_size_have_a_preview(
    tmp_path: Path, shape: tuple[int, int, int], scale: int
) -> None:
    """The preview stays within its bounds, however small or narrow the image is."""
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(2))
    writer = terminal.PreviewWriter(tmp_path, width=60, height=20, scale=scale)
    event = restored(shape[1], shape[0])
    writer(event, Image(before), Image(after))
    height, width = image_io.read_image(writer.path(event)).pixels.shape[:2]
    assert height == min(20, -(-shape[0] // scale))
    assert width == 2 * min((60 - writer.gap) // 2, -(-shape[1] // scale)) + writer.gap


def test_transparent_pixels_show_a_checkerboard(tmp_path: Path) -> None:
    """The preview shows a transparent image as sheets and pages do."""
    image = Image(np.zeros((16, 16, 3), np.uint8), alpha=np.zeros((16, 16), np.uint8))
    writer = terminal.PreviewWriter(tmp_path, width=100, height=40)
    writer(restored(16, 16), image, image)
    picture = image_io.read_image(writer.path(restored(16, 16))).pixels
    assert picture[0, 0, 0] == 204
    assert picture[0, 8, 0] == 242


def test_without_a_terminal_there_is_only_a_note(restormer: Callable[..., Outcome]) -> None:
    """The image is restored, and stdout is the same as without --preview."""
    before = picture("a.png")
    outcome = restormer("derain", "a.png", "-o", "-", "--preview")
    assert outcome.status == 0
    assert "note: --preview has no effect: stderr is not a terminal" in outcome.stderr
    assert np.array_equal(image_io.read_image(outcome.stdout).pixels, before)


def test_a_missing_library_is_an_error(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how to install it, and nothing is written."""
    picture("a.png")
    monkeypatch.setitem(sys.modules, "textual_image", None)
    monkeypatch.setattr(terminal, "stderr_is_terminal", lambda: True)
    outcome = restormer("derain", "a.png", "--preview")
    assert outcome.status == 2
    assert "--preview needs textual_image" in outcome.stderr
    assert "pip install 'restormer-cli[preview]'" in outcome.stderr
    assert not Path("a.restored.png").exists()


def run_in_terminal(
    arguments: tuple[str, ...],
    attributes: bytes,
    stdin: bytes,
    size: tuple[int, int, int, int] = (24, 80, 800, 480),
    controlling: bool = True,
) -> tuple[int, bytes, str]:
    """Run the program in a terminal; stdin and stdout are pipes.

    Args:
        arguments: of the program.
        attributes: the terminal's answer when asked for its capabilities.
        stdin: content of the pipe.
        size: lines, columns, width and height in pixels.
        controlling: make it the controlling terminal.

    Returns:
        The exit status, stdout, and the text on the terminal.
    """
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size))
    environment = {**os.environ, "COLORTERM": "truecolor", "TERM": "xterm-256color"}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment,
        start_new_session=True,
        preexec_fn=(lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0)) if controlling else None,
    )
    os.close(slave)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stdin)
    process.stdin.close()
    shown, sent, deadline = b"", b"", time.monotonic() + 100
    streams = {master, process.stdout.fileno()}
    while streams and time.monotonic() < deadline:
        for stream in select.select(list(streams), [], [], 1)[0]:
            try:
                data = os.read(stream, 65536)
            except OSError:  # on Linux, once all writers have closed the terminal
                data = b""
            if not data:
                streams.discard(stream)
            elif stream == master:
                shown += data
                if b"\x1b[c" in data:  # the query for its capabilities
                    os.write(master, attributes)
            else:
                sent += data
    os.close(master)
    process.stdout.close()
    return process.wait(10), sent, shown.decode(errors="replace")


@needs_library
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal of Linux")
@pytest.mark.parametrize(
    ("attributes", "marker"),
    [(b"\x1b[?62;4c", "\x1bP"), (b"\x1b[?62;22c", "\u2580")],
    ids=["sixel", "blocks"],
)
def test_the_terminal_gets_pictures_and_stdout_the_image(attributes: bytes, marker: str) -> None:
    """The preview uses sixels if the terminal supports them, otherwise half blocks."""
    before = picture("a.png", (60, 90, 3))
    arguments = ("derain", "-", "-o", "-", "--preview")
    status, sent, shown = run_in_terminal(arguments, attributes, Path("a.png").read_bytes())
    assert status == 0
    assert np.array_equal(image_io.read_image(sent).pixels, before)
    assert "before | after" in shown
    assert marker in shown
    assert not list(Path("/tmp").glob("restormer-preview-*/*.png"))  # noqa: S108


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal of Linux")
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"size": (0, 0, 0, 0)}, "the size of the terminal is unknown"),
        ({"controlling": False}, "there is no terminal to query"),
    ],
    ids=["no size", "not controlling"],
)
def test_a_terminal_that_cannot_show_pictures(options: dict[str, Any], cause: str) -> None:
    """A note says why there is no preview; the image is restored."""
    before = picture("a.png")
    arguments = ("derain", "-", "-o", "-", "--preview")
    status, sent, shown = run_in_terminal(arguments, b"", Path("a.png").read_bytes(), **options)
    assert status == 0
    assert np.array_equal(image_io.read_image(sent).pixels, before)
    assert f"note: --preview has no effect: {cause}" in shown


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal of Linux")
def test_a_terminal_without_a_size_in_pixels_shows_no_traceback() -> None:
    """The library's log of the query that the terminal does not answer is not shown."""
    picture("a.png")
    arguments = ("derain", "-", "-o", "-", "--preview", "-q")
    size = (24, 80, 0, 0)
    status, _, shown = run_in_terminal(
        arguments, b"\x1b[?62;22c", Path("a.png").read_bytes(), size=size
    )
    assert status == 0
    assert "Traceback" not in shown
    assert "TerminalError" not in shown


def test_a_preview_does_not_change_the_manifest(restormer: Callable[..., Outcome]) -> None:
    """--skip-existing recognises outputs of a run without --preview."""
    picture("f/a.png")
    restormer("derain", "f", "-o", "out")
    outcome = restormer("derain", "f", "-o", "out", "--skip-existing", "--preview", "--json")
    assert outcome.events[-1]["skipped"] == 1
    assert np.array_equal(pixels("out/a.png"), pixels("f/a.png"))
