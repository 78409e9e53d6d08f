"""The program in a shell: pipes, lists and several processes, as the README shows them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from restormer_cli.batch import manifest
from restormer_cli.imaging import io as image_io
from tests.support.program import PROGRAM, picture, pixels, python, shell, tree

pytestmark = [
    pytest.mark.usefixtures("folder", "weights"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell"),
]

NAMES = ("a.png", "-dash.png", "two words.png", "new\nline.png", "ü.png", "'quote\".png")


def outputs(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.png"))


def test_a_list_from_find() -> None:
    """Unusual file names can be listed with `find -print0` and `-0`."""
    for seed, name in enumerate(NAMES):
        picture(f"in/{name}", seed=seed)
    result = shell("find in -name '*.png' -print0 | restormer denoise --files-from - -0 -o out/")
    assert result.returncode == 0
    assert outputs("out") == sorted(NAMES)
    for name in NAMES:
        assert np.array_equal(pixels(f"out/{name}"), pixels(f"in/{name}"))


def test_a_filter_in_a_pipe() -> None:
    """Two commands in a pipe write only the image to stdout."""
    before = picture("in.png")
    result = shell(
        "cat in.png | restormer derain - -o - --format tiff | restormer deblur - > out.tif"
    )
    assert result.returncode == 0
    assert result.stdout == b""
    assert image_io.read_image(Path("out.tif")).format == "tiff"
    assert np.array_equal(pixels("out.tif"), before)


def test_an_image_from_a_command_needs_a_name_for_its_output() -> None:
    """<(command) of a shell is no file, beside which another could be written."""
    picture("in.png")
    for name in ("/dev/stdin", "/dev/fd/0"):
        result = shell(f"cat in.png | restormer derain {name}")
        assert result.returncode == 2
        assert b"is a pipe or device, beside which no file can be written" in result.stderr
        assert b"hint: Name the output with -o." in result.stderr
    assert shell("cat in.png | restormer derain /dev/stdin -o out.png").returncode == 0
    assert np.array_equal(pixels("out.png"), pixels("in.png"))


def test_a_process_for_every_image_into_one_folder() -> None:
    """Processes under `xargs -P` share a folder and write complete lines to its manifest."""
    for seed, name in enumerate(NAMES[:4]):
        picture(f"in/{name}", seed=seed)
    line = "find in -name '*.png' -print0 | xargs -0 -n 2 -P 2 restormer denoise -q -o out/"
    assert shell(line).returncode == 0
    assert outputs("out") == sorted(NAMES[:4])
    lines = Path("out", manifest.NAME).read_bytes().splitlines()
    assert len(lines) == 4
    assert shell(f"{line} --skip-existing").returncode == 0
    assert Path("out", manifest.NAME).read_bytes().splitlines() == lines


@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not installed")
def test_gnu_parallel() -> None:
    """GNU parallel can run the program."""
    for seed in range(4):
        picture(f"in/{seed}.png", seed=seed)
    assert shell("parallel -j 2 -m restormer denoise -q -o out/ ::: in/*.png").returncode == 0
    assert outputs("out") == ["0.png", "1.png", "2.png", "3.png"]


def test_a_failure_within_xargs_is_a_failure() -> None:
    """Xargs reports the failure of a command that restored the other images."""
    picture("in/a.png")
    Path("in/b.png").write_text("hello")
    assert (
        shell("printf 'in/a.png\\0in/b.png' | xargs -0 restormer denoise -o out/").returncode == 123
    )
    assert outputs("out") == ["a.png"]


@pytest.mark.parametrize("options", ["-o -", "--json"])
def test_a_reader_that_stops_early(options: str) -> None:
    """If the reader of stdout stops early, there is no traceback."""
    picture("in/a.png", (256, 256, 3))
    for seed in range(20 if options == "--json" else 0):
        picture(f"in/{seed}.png", seed=seed)
    inputs = "in/a.png" if options == "-o -" else "in"
    result = shell(f"restormer denoise {inputs} {options} -q | head -c 100")
    assert len(result.stdout) == 100
    assert b"Traceback" not in result.stderr
    assert b"BrokenPipe" not in result.stderr


def test_only_events_are_on_stdout() -> None:
    """Messages go to stderr, so that events can be filtered by name."""
    picture("in/a.png")
    Path("in/b.png").write_text("hello")
    result = shell("""restormer denoise in -o out --json 2> log | grep '"event": "failed"'""")
    assert result.stdout.count(b"\n") == 1
    assert b"in/b.png" in result.stdout
    assert Path("log").read_text().count("error: in/b.png") == 1


def test_a_named_pipe_is_an_input() -> None:
    """A named pipe is read as an image and is not removed."""
    before = picture("in.png")
    line = "mkfifo pipe.png; cat in.png > pipe.png & restormer denoise pipe.png -o out.png"
    assert shell(line).returncode == 0
    assert np.array_equal(pixels("out.png"), before)
    assert "pipe.png" not in tree()
    assert Path("pipe.png").is_fifo()


def test_waiting_for_stdin_can_be_interrupted() -> None:
    """An interruption ends the wait for stdin at once."""
    process = python(*PROGRAM, "derain", "-", "-o", "-", "-v", stdin=subprocess.PIPE)
    while b" on cpu" not in process.stderr.readline():  # the weights are loaded
        pass
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    process.communicate()


def test_the_program_in_a_pipe() -> None:
    """`python -m restormer_cli` writes image bytes to stdout."""
    before = picture("in.png")
    with Path("in.png").open("rb") as file:
        process = python(*PROGRAM, "deblur", "-", "-o", "-", stdin=file)
        stdout, _ = process.communicate()
    assert process.returncode == 0
    assert np.array_equal(image_io.read_image(stdout).pixels, before)


def test_an_empty_stdin_is_named() -> None:
    """An input without bytes is blamed on the command before the pipe, not on a file."""
    result = shell("restormer denoise - </dev/null")
    assert result.returncode == 1
    assert result.stderr.startswith(b"error: -: stdin is empty\nhint: Check the command before")
