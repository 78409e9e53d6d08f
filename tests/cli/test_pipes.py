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
from tests.support.program import PROGRAM, picture, pixels, python, tree

pytestmark = [
    pytest.mark.usefixtures("folder", "weights"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell"),
]

NAMES = ("a.png", "-dash.png", "two words.png", "new\nline.png", "ü.png", "'quote\".png")


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell, in which `restormer` is the program."""
    program = f'restormer() {{ "{sys.executable}" -m restormer_cli "$@"; }}\n'
    wrapper = Path("bin/restormer")
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m restormer_cli "$@"\n')
    wrapper.chmod(0o755)  # xargs and parallel cannot call shell functions
    line = f'PATH="$PWD/bin:$PATH"\n{program}{line}'
    return subprocess.run(["sh", "-c", line], capture_output=True, check=False)  # noqa: S603, S607


def outputs(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.png"))


def test_a_list_from_find() -> None:
    """All file names pass through `find -print0` and `-0`."""
    for seed, name in enumerate(NAMES):
        picture(f"in/{name}", seed=seed)
    result = shell("find in -name '*.png' -print0 | restormer denoise --files-from - -0 -o out/")
    assert result.returncode == 0
    assert outputs("out") == sorted(NAMES)
    for name in NAMES:
        assert np.array_equal(pixels(f"out/{name}"), pixels(f"in/{name}"))


def test_a_filter_in_a_pipe() -> None:
    """Images are converted in a pipe, and nothing else is on stdout."""
    before = picture("in.png")
    result = shell(
        "cat in.png | restormer derain - -o - --format tiff | restormer deblur - > out.tif"
    )
    assert result.returncode == 0
    assert result.stdout == b""
    assert image_io.read_image(Path("out.tif")).format == "tiff"
    assert np.array_equal(pixels("out.tif"), before)


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
    """Other images are restored, and xargs reports that a command failed."""
    picture("in/a.png")
    Path("in/b.png").write_text("hello")
    assert (
        shell("printf 'in/a.png\\0in/b.png' | xargs -0 restormer denoise -o out/").returncode == 123
    )
    assert outputs("out") == ["a.png"]


@pytest.mark.parametrize("options", ["-o -", "--json"])
def test_a_reader_that_stops_early(options: str) -> None:
    """`head -c 100` gets its bytes, and the program ends without a traceback."""
    picture("in/a.png", (256, 256, 3))
    for seed in range(20 if options == "--json" else 0):
        picture(f"in/{seed}.png", seed=seed)
    inputs = "in/a.png" if options == "-o -" else "in"
    result = shell(f"restormer denoise {inputs} {options} -q | head -c 100")
    assert len(result.stdout) == 100
    assert b"Traceback" not in result.stderr
    assert b"BrokenPipe" not in result.stderr


def test_only_events_are_on_stdout() -> None:
    """Events can be filtered by name, as with `jq`."""
    picture("in/a.png")
    Path("in/b.png").write_text("hello")
    result = shell("""restormer denoise in -o out --json 2> log | grep '"event": "failed"'""")
    assert result.stdout.count(b"\n") == 1
    assert b"in/b.png" in result.stdout
    assert Path("log").read_text().count("error: in/b.png") == 1


def test_a_named_pipe_is_an_input() -> None:
    """A named pipe is read as an image and not removed."""
    before = picture("in.png")
    line = "mkfifo pipe.png; cat in.png > pipe.png & restormer denoise pipe.png -o out.png"
    assert shell(line).returncode == 0
    assert np.array_equal(pixels("out.png"), before)
    assert "pipe.png" not in tree()
    assert Path("pipe.png").is_fifo()


def test_waiting_for_stdin_can_be_interrupted() -> None:
    """Waiting for stdin ends at once when interrupted."""
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
