"""Standard streams that are closed, full or endless, other encodings, and inputs without an end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.files import lists
from tests.support.program import PROGRAM, Outcome, picture, pixels, shell, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.usefixtures("folder", "weights"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and a POSIX shell"),
]

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_an_image_is_restored_without_streams_for_messages(streams: str) -> None:
    """Messages that cannot be written are dropped; the image is restored and nothing else."""
    before = picture("in.png")
    assert shell(f"restormer derain in.png -o out.png {streams}").returncode == 0
    assert np.array_equal(pixels("out.png"), before)
    assert {name for name in tree() if not name.startswith("bin/")} == {"in.png", "out.png"}


@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
@pytest.mark.parametrize("command", ["denoise a.png --json", "weights list", "--help", "schema"])
def test_results_that_cannot_be_written_are_an_error(stream: str, command: str) -> None:
    """One line names the cause, without a traceback and without further lines of Python."""
    result = shell(f"restormer {command} {stream}")
    assert result.returncode == 1
    lines = result.stderr.decode().splitlines()
    assert [line.split(" (")[0] for line in lines[:1]] == ["error: stdout cannot be written"]
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")


def test_wrong_usage_is_reported_by_the_status_without_stderr() -> None:
    """A closed or full stderr does not change the exit status of wrong usage."""
    for stream in ("2>&-", "2>/dev/full"):
        assert shell(f"restormer frobnicate {stream}").returncode == 2
        assert shell(f"restormer denoise -q -v a.png {stream}").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ("denoise a.png -o - >&-", "stdout is a terminal, or closed"),
        ("denoise - -o a.png <&-", "there is no image on stdin"),
        ("denoise --files-from - -o a/ <&-", "stdin is closed"),
    ],
)
def test_a_closed_stream_of_data_is_wrong_usage(arguments: str, cause: str) -> None:
    """A closed stdin or stdout that the command needs is refused before anything is done."""
    result = shell(f"restormer {arguments}")
    assert result.returncode == 2
    assert result.stderr.decode().startswith(f"error: {cause}")


def test_a_reader_of_results_that_leaves() -> None:
    """If the reader of a result leaves, there is no message."""
    assert shell("restormer info --json | true; restormer schema | head -n 1").stderr == b""


def test_a_pipe_that_does_not_block() -> None:
    """A pipe in non-blocking mode gives and takes a whole image."""
    before = picture("in.png", (300, 400, 3))
    data = Path("in.png").read_bytes()
    (read_end, write_end), (out_read, out_write) = os.pipe(), os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(out_write, False)
    command = [sys.executable, *PROGRAM, "derain", "-", "-q"]
    process = subprocess.Popen(command, stdin=read_end, stdout=out_write)  # noqa: S603
    os.close(read_end)
    os.close(out_write)
    with os.fdopen(write_end, "wb") as source:
        source.write(data[:1000])
        source.flush()
        time.sleep(1)
        source.write(data[1000:])
    with os.fdopen(out_read, "rb") as sink:
        time.sleep(1)
        Path("out.png").write_bytes(sink.read())
    assert process.wait(60) == 0
    assert np.array_equal(pixels("out.png"), before)


def test_a_locale_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the C locale names keep their bytes, JSON is ASCII, and the text can be printed."""
    before = picture("f/ü.png")
    Path(os.fsdecode(b"f/\xfc.png")).write_bytes(Path("f/ü.png").read_bytes())
    for name, value in ASCII.items():
        monkeypatch.setenv(name, value)
    line = "restormer derain f -o out --json --report page.html --compare sheets/"
    result = shell(line)
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr
    assert sorted(os.listdir(b"out")) == [b".restormer.jsonl", b"\xc3\xbc.png", b"\xfc.png"]  # noqa: PTH208
    assert np.array_equal(pixels("out/ü.png"), before)
    assert rb"f/\xfc.png -> out/\xfc.png" in result.stderr
    events = [json.loads(line) for line in result.stdout.decode("ascii").splitlines()]
    assert events[-1]["restored"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the name")
def test_json_keeps_the_bytes_of_a_name(restormer: Callable[..., Outcome]) -> None:
    """Python gets the name of a file that is not UTF-8 back, as the documentation says."""
    picture("f/a.png")
    Path("f/a.png").rename(os.fsdecode(b"f/\xfc.png"))
    outcome = restormer("derain", "f", "-o", "out", "--json")
    assert outcome.stdout.isascii()
    (restored,) = (event for event in outcome.events if event["event"] == "restored")
    assert os.fsencode(restored["output"]) == b"out/\xfc.png"


def test_a_locale_of_ascii_has_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help text has only characters of the encoding."""
    for name, value in ASCII.items():
        monkeypatch.setenv(name, value)
    result = shell("restormer denoise --help")
    assert result.returncode == 0
    assert result.stdout.isascii()


def test_control_characters_never_reach_the_terminal(restormer: Callable[..., Outcome]) -> None:
    """Escape sequences and newlines in names are shown as text, in results and in errors."""
    name = "a\x1b]0;owned\x07\n.png"
    picture(f"f/{name}")
    Path("f/\x1b[31m.png").write_text("no image")
    outcome = restormer("derain", "f", "\x1b7gone.png", "-o", "out/", "-v")
    assert outcome.status == 1
    assert "\x1b" not in outcome.stderr
    assert r"f/a\x1b]0;owned\x07\n.png -> " in outcome.stderr
    assert r"error: \x1b7gone.png: no such file" in outcome.stderr
    outcome = restormer("denoise", "--files-from", "\x1b[5mgone")
    assert outcome.status == 2
    assert "\x1b" not in outcome.stderr


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_as_windows_writes_it(encoding: str, restormer: Callable[..., Outcome]) -> None:
    """A byte order mark, UTF-16 and CRLF are understood."""
    for name in ("a.png", "ü.png"):
        picture(name)
    Path("list").write_bytes("a.png\r\nü.png\r\n\r\n".encode(encoding))
    assert restormer("derain", "--files-from", "list", "-o", "out/").status == 0
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a.png", "ü.png"]


def test_a_list_of_names_that_are_not_text(restormer: Callable[..., Outcome]) -> None:
    """Bytes that are not UTF-8 stay bytes."""
    name = os.fsdecode(b"\xfc.png")
    picture(name)
    assert restormer("derain", "--files-from", "-", "-o", "out/", stdin=b"\xfc.png\n").status == 0
    assert Path("out", name).exists()


def test_a_list_with_nul_bytes_is_wrong_usage(restormer: Callable[..., Outcome]) -> None:
    """The hint names -0. Binary files, however large, are no lists either."""
    outcome = restormer("derain", "--files-from", "-", "-o", "out/", stdin=b"./a.png\0./b.png\0")
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: -: the list has NUL bytes\n")
    assert "-0" in outcome.stderr.splitlines()[1]


def test_a_list_that_never_ends(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless list is refused."""
    monkeypatch.setattr(lists, "MAX_LIST_BYTES", 2**22)
    outcome = restormer("derain", "--files-from", "/dev/zero", "-o", "out/")
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: /dev/zero: the list is over 4.19 MB\n")


def test_a_deleted_working_folder() -> None:
    """Relative names mean nothing there, which is wrong usage; --help works."""
    result = shell("mkdir gone; cd gone; rmdir ../gone; restormer --help; restormer denoise a.png")
    assert result.returncode == 2
    assert b"error: the working folder is gone" in result.stderr
    assert b"Traceback" not in result.stderr


def test_inputs_that_never_end_or_are_no_files(restormer: Callable[..., Outcome]) -> None:
    """Each fails with its cause, at once and within little memory; the others are restored."""
    picture("good.png")
    for name, start in (("zeros.png", b""), ("begins-well.png", Path("good.png").read_bytes())):
        Path(name).write_bytes(start)
        os.truncate(name, 100 * 10**9)
    Path("zeros3.png").touch()
    os.truncate("zeros3.png", 3 * 10**8)
    endpoint = socket.socket(socket.AF_UNIX)
    endpoint.bind("socket.png")
    names = ("zeros.png", "begins-well.png", "zeros3.png", "socket.png", "/dev/zero")
    outcome = restormer("derain", *names, "/proc/version", "good.png", "-o", "out/", "--json")
    endpoint.close()
    assert outcome.status == 1
    errors = {e["input"]: e["error"] for e in outcome.events if e["event"] == "failed"}
    assert errors["begins-well.png"].startswith("over 9.7 GB, too large")
    for name in ("zeros.png", "zeros3.png", "/dev/zero", "/proc/version"):
        assert errors[name] == "not an image, or in an unsupported format"
    assert errors["socket.png"].startswith("cannot read (No such device")
    assert Path("out/good.png").exists()


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--sigma", "auto"]])
def test_a_stream_that_begins_like_an_image(
    options: list[str], restormer: Callable[..., Outcome]
) -> None:
    """A stream is limited by --max-pixels, too: 32 bytes for each, and 67 MB for the rest."""
    picture("in.png")
    os.mkfifo("pipe.png")
    with subprocess.Popen(["sh", "-c", "cat in.png /dev/zero > pipe.png"]):  # noqa: S607
        outcome = restormer("denoise", "pipe.png", "-o", "out.png", "--max-pixels", 999, *options)
    assert outcome.status == 1
    assert "error: pipe.png: over 67.1 MB, too large for images of up to 999" in outcome.stderr


@pytest.mark.parametrize("names", [["pipe.png"], ["in.png", "--right", "pipe.png"]])
def test_a_pipe_without_a_writer_can_be_interrupted(
    names: list[str], tiny: Callable[..., Path]
) -> None:
    """Waiting for a named pipe ends with Ctrl-C, also for the right view."""
    picture("in.png")
    os.mkfifo("pipe.png")
    weights = ["--weights", str(tiny(in_channels=6))] if "--right" in names else []
    command = [sys.executable, *PROGRAM, "defocus", *names, "-o", "out.png", *weights, "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:  # noqa: S603
        assert process.stderr is not None
        while b" on cpu" not in process.stderr.readline():  # the weights are loaded
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("option", [["--sigma", "50"], ["--gray"], ["--noise", "real"]])
def test_choices_among_official_weights(
    option: list[str], restormer: Callable[..., Outcome]
) -> None:
    """A note says that these options have no effect with other weights."""
    picture("in.png")
    outcome = restormer("denoise", "in.png", "-o", "out.png", *option)
    assert outcome.status == 0
    assert f"note: {option[0]}: no effect with " in outcome.stderr


IDLE = {
    "the quality of lossless formats": ["in.png", "-o", "out.tiff", "--quality", "50"],
    "the overlap without tiles": ["in.png", "--overlap", "5"],
    "a manifest's entry without a name": ["-", "--skip-existing", "-o", "out.png"],
    "a page of nothing": ["in.png", "--dry-run", "--report", "page.html"],
    "a sheet of nothing": ["in.png", "--dry-run", "--compare", "sheet.png"],
    "a preview of nothing": ["in.png", "--dry-run", "--preview"],
}
USED = {
    "the quality of a lossy format": ["in.png", "-o", "out.webp", "--quality", "50"],
    "the overlap of tiles": ["in.png", "--tile", "64", "--overlap", "5"],
    "a file": ["in.png", "--skip-existing", "-o", "out.png"],
}


@pytest.mark.parametrize("case", [*IDLE, *USED])
def test_options_without_an_effect(case: str, restormer: Callable[..., Outcome]) -> None:
    """A note names the option that has no effect in a run, and no other."""
    picture("in.png")
    words = [*IDLE.get(case, ()), *USED.get(case, ())]
    outcome = restormer("denoise", *words, stdin=Path("in.png").read_bytes())
    assert outcome.status == 0
    notes = [line for line in outcome.stderr.splitlines() if line.startswith("note: --")]
    given = [f"note: {word}" for word in words if word.startswith("--") and word != "--dry-run"]
    assert [note.rpartition(":")[0] for note in notes] == (given if case in IDLE else [])
