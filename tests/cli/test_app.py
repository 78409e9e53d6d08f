"""The program: exit statuses and help."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli import __version__
from restormer_cli.batch import ImageStages
from restormer_cli.cli import app
from restormer_cli.errors import DeviceError
from restormer_cli.imaging import io as image_io
from tests.support.program import PROGRAM, Outcome, picture, python, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")

TASKS = ("denoise", "derain", "deblur", "defocus")


@pytest.mark.usefixtures("weights")
def test_bad_files_do_not_stop_good_ones(restormer: Callable[..., Outcome]) -> None:
    """Each unreadable file causes one error, and the exit status is 1."""
    picture("good.png")
    Path("text.png").write_text("hello")
    Path("cut.png").write_bytes(Path("good.png").read_bytes()[:200])
    outcome = restormer("derain", "text.png", "cut.png", "missing.png", "no*.png", "good.png")
    assert outcome.status == 1
    assert Path("good.restored.png").exists()
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    hints = [line for line in outcome.stderr.splitlines() if line.startswith("hint: ")]
    assert len(errors) == 4
    assert len(hints) >= 3
    assert "1 restored, 4 failed" in outcome.stderr.splitlines()[-1]
    assert tree() == ["cut.png", "good.png", "good.restored.png", "text.png"]


def test_missing_files_exit_with_1(restormer: Callable[..., Outcome]) -> None:
    """Missing files are reported before any weights are loaded."""
    outcome = restormer("derain", "missing.png", "x" * 300, "", "--weights", "gone.pth")
    assert outcome.status == 1
    assert "error: missing.png: no such file" in outcome.stderr


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("denoize", "Write restormer denoise."),
        ("weight", "Write restormer weights."),
        ("version", "Write restormer --version."),
        ("help", "Write restormer --help."),
        ("restore", None),
    ],
)
def test_an_unknown_command_gets_the_similar_one(
    command: str, hint: str | None, restormer: Callable[..., Outcome]
) -> None:
    """Words that only share some letters with a command are not taken for it."""
    outcome = restormer(command, "a.png")
    assert outcome.status == 2
    assert f"No such command '{command}'" in outcome.stderr
    hints = [line for line in outcome.stderr.splitlines() if line.startswith("hint: ")]
    assert hints == ([f"hint: {hint}"] if hint else [])
    assert "Did you mean" not in outcome.stderr


def test_a_file_that_looks_like_options_gets_a_hint(restormer: Callable[..., Outcome]) -> None:
    """A pattern of the shell may match it. There is no hint without such a file, or after `--`."""
    hint = "hint: If -dash.png is a file, write ./-dash.png, or put -- before the files."
    assert hint not in restormer("derain", "-dash.png").stderr
    picture("-dash.png")
    outcome = restormer("derain", "a.png", "-dash.png")
    assert outcome.status == 2
    assert outcome.stderr.splitlines()[-1] == hint
    assert hint not in restormer("derain", "--bogus", "--", "-dash.png").stderr


def test_the_cause_of_a_file_that_cannot_be_found_is_named(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken links, links in a circle and folders without permission are no missing files."""
    stat = os.stat

    def refuse(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path) == "locked/c.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *arguments, **options)

    Path("f").mkdir()
    Path("f/a.png").symlink_to("gone.png")
    Path("f/b.png").symlink_to("b.png")
    monkeypatch.setattr(os, "stat", refuse)
    outcome = restormer("derain", "f", "locked/c.png")
    assert outcome.status == 1
    gone = Path("f/gone.png").absolute()
    assert f"error: f/a.png: a link to {gone}, which is missing" in outcome.stderr
    assert "error: f/b.png: links that lead in a circle" in outcome.stderr
    assert "error: locked/c.png: cannot be reached (Permission denied)" in outcome.stderr
    assert "no such file" not in outcome.stderr
    assert "Check the path and its permissions." in outcome.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--weights", "gone.pth"],
        ["--weights", "a.png"],
        ["--weights", "official"],
        ["--device", "cuda:7"],
        ["--device", "cpu:7"],
        ["--device", "toaster"],
    ],
)
def test_a_failed_start_exits_with_3(options: list[str], restormer: Callable[..., Outcome]) -> None:
    """Unavailable weights or devices cause one error with a hint."""
    picture("a.png")
    outcome = restormer("derain", "a.png", *options)
    assert outcome.status == 3
    assert outcome.stderr.startswith("error: ")
    assert "\nhint: " in outcome.stderr
    assert tree() == ["a.png"]


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(("working", "status"), [(0, 3), (1, 1)])
def test_a_failure_of_the_device_exits_with_1_after_an_image(
    working: int, status: int, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 3 means that no image was restored."""
    infer, results = ImageStages.infer, []

    def fail_after(stages: ImageStages, current: Any) -> Any:
        if len(results) == working:
            raise DeviceError("cuda:0 failed", "Update its driver.")
        results.append(infer(stages, current))
        return results[-1]

    monkeypatch.setattr(ImageStages, "infer", fail_after)
    for name in ("a.png", "b.png", "c.png"):
        picture(name)
    outcome = restormer("derain", "a.png", "b.png", "c.png", "-o", "out/")
    assert outcome.status == status
    assert "error: cuda:0 failed" in outcome.stderr
    assert [name for name in tree() if name.startswith("out")] == ["out/a.png"][:working]


def test_an_unexpected_exception_keeps_its_traceback(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is not turned into an error message."""
    monkeypatch.setattr("restormer_cli.cli.restore.commands.run", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        app.main(["derain", "a.png"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_exits_with_130_and_leaves_complete_files(number: int) -> None:
    """When a long run is interrupted, the exit status is 130 and all outputs are complete."""
    for i in range(80):
        picture(f"f/{i}.png", (64, 64, 3))
    process = python(*PROGRAM, "derain", "f", "-o", "out")
    while not Path("out/1.png").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert b"--skip-existing" in stderr
    assert b"Traceback" not in stderr
    assert b"images remain" in stderr
    written = [Path(name) for name in tree() if name.startswith("out")]
    assert 0 < len(written) < 80
    for path in written:
        assert path.suffix == ".png"
        assert image_io.read_image(path).pixels.shape == (64, 64, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["threads", "libraries"])
def test_a_second_signal_while_the_process_ends_keeps_the_status(first: str, moment: str) -> None:
    """It is 130 as after the first one, without a traceback."""
    code = f"""
import atexit, os, signal, threading, time
from restormer_cli.cli import app

def end(after, duration):
    time.sleep(after)
    print("ending", flush=True)
    time.sleep(duration)

def interrupt(*_, **__):
    if {moment!r} == "threads":
        threading.Thread(target=end, args=(0.5, 2)).start()
    else:
        atexit.register(end, 0, 1)
    os.kill(os.getpid(), signal.{first})
    time.sleep(60)

app.app = interrupt
app.main([])
"""
    process = python("-c", code)
    assert process.stdout.readline() == b"ending\n"
    for number in (signal.SIGTERM, signal.Signals[first]):
        process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, b"")


def test_an_interruption_before_the_command_exits_with_130(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while Typer sets up the commands, outside its own handling, shows no traceback."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupt)
    outcome = restormer("derain", "a.png")
    assert (outcome.status, outcome.stderr) == (130, "")


@pytest.mark.usefixtures("weights")
def test_a_closed_stdout_shows_no_traceback() -> None:
    """When stdout is closed, the exit status is not 0 and stderr is empty."""
    picture("in.png", (256, 256, 3))
    process = python(*PROGRAM, "deblur", "in.png", "-o", "-", "-q")
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate()
    assert process.returncode not in (0, None)
    assert stderr == b""


@pytest.mark.parametrize(
    "command", [*TASKS, "weights", "info", "doctor", "schema", "train", "weights list"]
)
def test_help_of_every_command(command: str, restormer: Callable[..., Outcome]) -> None:
    """--help shows usage and, for restoring commands, panels and examples."""
    outcome = restormer(*command.split(), "--help")
    assert outcome.status == 0
    assert f"Usage: restormer {command}".encode() in outcome.stdout
    if command in TASKS:
        for title in ("Restoration", "Weights and device", "Batch", "Messages", "Examples"):
            assert title.encode() in outcome.stdout


@pytest.mark.parametrize(
    "command", [name for commands in app.COMMANDS.values() for name in commands]
)
def test_help_fits_80_columns(
    command: str, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of help have at most 80 characters, and no example is wrapped."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = restormer(command, "--help").stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80
    start = next((i for i, line in enumerate(lines) if "Examples" in line), len(lines))
    examples = lines[start + 1 :]
    for line in filter(str.strip, examples):
        assert line.startswith((" restormer ", " torchrun ", " Environment", " --skip-existing"))


@pytest.mark.parametrize(
    "command", [name for commands in app.COMMANDS.values() for name in commands]
)
def test_help_says_what_an_option_takes(
    command: str, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words such as FILE and N stand for values, not types of Python."""
    monkeypatch.setenv("COLUMNS", "120")
    lines = restormer(command, "--help").stdout.decode().splitlines()
    typed = re.compile(r"│[* ]+--(?!help)\S+ .*<(int|float|str|bool|path|list)")
    assert [line for line in lines if typed.match(line)] == []


def test_the_version_is_printed(restormer: Callable[..., Outcome]) -> None:
    """--version prints the version to stdout."""
    assert restormer("--version").stdout.decode() == f"restormer {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["denoise", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help and version are shown without importing slow libraries."""
    heavy = ["torch", "cv2", "numpy", "PIL", "huggingface_hub", "safetensors", "einops"]
    code = (
        "import sys\nfrom restormer_cli.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    )
    _, stderr = python("-c", code).communicate()
    assert stderr.strip() == b"[]"
