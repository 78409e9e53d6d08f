"""Killed runs, damaged inputs, full disks and folders without write permission."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

from restormer_cli.batch import pages
from restormer_cli.files import atomic
from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from restormer_cli.reports import page as report_page
from tests.support.camera import dng, mosaic
from tests.support.program import PROGRAM, Outcome, picture, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("folder", "weights")

KILLS = int(os.environ.get("RESTORMER_TEST_KILLS", "2"))
"""Number of times that the run is killed. Each takes the seconds to import torch."""

WITH_HEIF, WITH_RAW = (importlib.util.find_spec(name) for name in ("pillow_heif", "rawpy"))

DAMAGED = 300
GOOD = 30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_repeatedly_killed_runs_give_the_same_outputs(
    restormer: Callable[..., Outcome],
) -> None:
    """Outputs are complete at any moment, and no temporary files remain."""
    rng = random.Random(0)  # noqa: S311 - no secret
    count = 8 + 3 * KILLS
    for i in range(count):
        picture(f"f/{i}.png", (96, 96, 3), seed=i)
    common = ("derain", "f", "--precision", "fp32", "-q")
    assert restormer(*common, "-o", "whole").status == 0
    whole = {path.name: path.read_bytes() for path in Path("whole").glob("*.png")}
    out = Path("out")
    for _ in range(KILLS):
        before = len(list(out.glob("*.png")))
        process = python(*PROGRAM, *common, "-o", "out", "--skip-existing")
        while len(list(out.glob("*.png"))) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.random() / 4)
        process.kill()
        _, stderr = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        assert b"Traceback" not in stderr
        for path in out.glob("*.png"):
            assert path.read_bytes() == whole[path.name]
    # A leftover, in case that no run has left one.
    (out / f".9.png.0123abcd{atomic.TEMPORARY}").write_bytes(b"half")
    assert restormer(*common, "-o", "out", "--skip-existing").status == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == whole
    assert not [path for path in out.iterdir() if path.name.endswith(atomic.TEMPORARY)]


def damaged(rng: np.random.Generator) -> Iterator[tuple[str, bytes, bool]]:
    """Yield names, contents, and whether the file may still be readable."""
    whole = {}
    for kind in ("png", "jpg", "tif", "webp", "bmp", "avif", *(["heic"] if WITH_HEIF else [])):
        picture(f"whole.{kind}", (40, 56, 3))
        whole[kind] = Path(f"whole.{kind}").read_bytes()
        Path(f"whole.{kind}").unlink()
    pages = [Image(rng.integers(0, 256, (40, 56, 3), "uint8")) for _ in range(3)]
    for name, kind in {"pages.tif": "tiff", "frames.png": "png", "frames.webp": "webp"}.items():
        whole[name], _ = image_io.encode(pages, kind, count=3)
    first, *others = (PIL.Image.fromarray(page.pixels) for page in pages)
    first.save(frames := io.BytesIO(), "GIF", save_all=True, append_images=others)
    whole["gif"] = frames.getvalue()
    if WITH_RAW:
        whole["dng"] = dng(mosaic(rng.random((40, 56, 3))))
    kinds = list(whole)
    huge = bytearray(whole["bmp"])
    huge[18:26] = (2**30).to_bytes(4, "little") * 2
    profile = Image(np.zeros((9, 9, 3), "uint8"), icc=b"\0" * 200, exif=b"II*\0\xff\xff")
    image_io.write_image(profile, Path("profile.png"))
    bad_profile = Path("profile.png").read_bytes()
    Path("profile.png").unlink()
    for i in range(DAMAGED):
        kind = kinds[i // 7 % len(kinds)]
        data = whole[kind]
        # A cut that takes more than padding.
        cut = data[: int(rng.integers(1, len(data) * 3 // 4))]
        flipped = bytearray(data)
        flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        yield (
            (f"{i}.cut.{kind}", cut, False),
            (f"{i}.flipped.{kind}", bytes(flipped), True),  # some formats have no checksum
            (f"{i}.misnamed.{kinds[i % len(kinds)]}", data, True),
            (f"{i}.empty.{kind}", b"", False),
            (f"{i}.text.{kind}", b"This is not a picture.\n" * 9, False),
            (f"{i}.huge.{kind}", bytes(huge), False),
            (f"{i}.profile.png", bad_profile, True),
        )[i % 7]


@pytest.mark.slow
def test_damaged_files_fail_alone(restormer: Callable[..., Outcome]) -> None:
    """Each of hundreds is reported or restored, without a traceback."""
    for i in range(GOOD):
        picture(f"f/{i * 10}.good.png", (24, 32, 3), seed=i)
    possible = {}
    for name, data, readable in damaged(np.random.default_rng(0)):
        Path("f", name).write_bytes(data)
        possible[f"f/{name}"] = readable
    outcome = restormer("derain", "f", "-o", "out", "--json", "--precision", "fp32")
    assert outcome.status == 1
    assert "Traceback" not in outcome.stderr
    ends = [event for event in outcome.events if event["event"] in ("restored", "failed")]
    assert len({event["input"] for event in ends}) == len(ends) == GOOD + DAMAGED
    for event in ends:
        restored = event["event"] == "restored"
        assert Path(event["output"]).exists() == restored
        assert possible.get(event["input"], True) or not restored
        assert restored or possible.get(event["input"]) is not None
        assert restored or (event["error"] and "\n" not in event["error"])
        if ".good." in event["input"]:
            before, after = (
                image_io.read_image(Path(event[end])).pixels for end in ("input", "output")
            )
            assert np.array_equal(before, after)
    summary = outcome.events[-1]
    assert summary["restored"] + summary["failed"] == GOOD + DAMAGED


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_defect_fails_one_image(
    options: tuple[str, ...], restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error names the file and shows its traceback; the other images are restored."""
    decode = pages.decode

    def defective(*arguments: Any, **settings: Any) -> Any:
        if settings["name"] == str(Path("f/b.png")):
            raise ZeroDivisionError("by a test")
        return decode(*arguments, **settings)

    monkeypatch.setattr(pages, "decode", defective)
    for name in "abc":
        picture(f"f/{name}.png")
    outcome = restormer("derain", "f", "-o", "out", "--json", *options)
    assert outcome.status == 1
    ends = [event for event in outcome.events if event["event"] not in ("started", "summary")]
    outcomes = {Path(event["input"]).stem: event["event"] for event in ends}
    assert outcomes["b"] == "failed"
    assert {outcomes["a"], outcomes["c"]} == {"planned" if options else "restored"}
    assert "f/b.png: this is a defect of restormer (ZeroDivisionError: by a test)" in outcome.stderr
    assert "Traceback" in outcome.stderr


def in_a_small_file_system(*arguments: str, options: str) -> tuple[int, str, list[str]]:
    """Run the program with `out` on its own file system; return status, stderr and its files.

    The mount ends with its own namespace.
    """
    script = (
        f"mount -t tmpfs -o {options} tmpfs out || exit 77\n"
        '"$@"; status=$?; ls -A out; exit $status'
    )
    unshare = shutil.which("unshare") or "unshare"
    command = [unshare, "-rm", "sh", "-c", script, "sh", sys.executable, *PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip("no file system may be mounted here")  # pragma: no cover
    return done.returncode, done.stderr, done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces")
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_a_full_disk_ends_the_run(device: str) -> None:
    """Outputs that fit are complete, one image fails, and the others are counted, not tried."""
    for i in range(9):
        picture(f"f/{i}.png", (64, 96, 3), seed=i)  # 18 kB each, of random pixels
    Path("out").mkdir()
    command = ("derain", "f", "-o", "out", "--device", device)
    status, stderr, files = in_a_small_file_system(*command, options="size=48k")
    assert status == 1
    written = [name for name in files if not name.startswith(".")]
    assert len(written) == 2
    assert not [name for name in files if name.endswith(atomic.TEMPORARY)]
    assert re.search(r"warning: out: needs about 16\d kB, 49.2 kB free", stderr)
    failed = stderr.count("cannot write (No space left on device)")
    assert 1 <= failed <= len(device.split(","))
    *_, cause, hint = stderr.splitlines()
    assert cause.startswith(f"error: the disk is full: {9 - 2 - failed} of 9 images remain")
    assert "--skip-existing" in hint


@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces")
def test_an_image_for_which_the_disk_is_full_may_be_the_last() -> None:
    """Then there is nothing to resume, and its error is the only one."""
    picture("f/a.png", (64, 96, 3))
    Path("out").mkdir()
    command = ("derain", "f/a.png", "-o", "out/b.tif")
    status, stderr, _ = in_a_small_file_system(*command, options="size=8k")
    assert status == 1
    assert stderr.count("error: ") == 1
    assert "cannot write (No space left on device)" in stderr


def test_a_full_disk_ends_a_watch(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image that arrives later could be written either."""
    pytest.importorskip("watchfiles")

    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    picture("in/a.png")
    monkeypatch.setattr(image_io, "write_atomic", full)
    outcome = restormer("derain", "in", "--watch", "--json")
    assert outcome.status == 1
    first, last = (event for event in outcome.events if event["event"] == "failed")
    assert (first["input"], first["disk_full"]) == ("in/a.png", True)
    assert last["error"].startswith("the disk is full: 0 of 1 images remain")


def test_a_report_that_cannot_be_written_does_not_hide_the_full_disk(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are errors, and the last one says how to go on."""
    for name in "abc":
        picture(f"f/{name}.png")
    write = atomic.write_atomic

    def fill(target: Path, *arguments: Any) -> None:
        if target.name in ("b.png", "c.png", "page.html"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, *arguments)

    monkeypatch.setattr(image_io, "write_atomic", fill)
    monkeypatch.setattr(report_page, "write_atomic", fill)
    outcome = restormer("derain", "f", "-o", "out", "--report", "page.html")
    assert outcome.status == 1
    assert "error: page.html: cannot write the report (No space left" in outcome.stderr
    assert outcome.stderr.splitlines()[-2].startswith("error: the disk is full: 1 of 3")


def test_a_disk_that_is_full_from_the_start_has_a_summary_and_a_page(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there although nothing was restored, and the last error names the full disk."""
    for name in "abcdefgh":
        picture(f"f/{name}.png")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_io, "write_atomic", full)
    outcome = restormer("derain", "f", "-o", "out", "--report", "page.html", "--json")
    assert outcome.status == 1
    (summary,) = (event for event in outcome.events if event["event"] == "summary")
    assert (summary["restored"], summary["interrupted"]) == (0, True)
    assert outcome.events[-1]["disk_full"]
    assert Path("page.html").exists()


def test_a_disk_without_space_for_a_sheet_ends_the_run(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is written, but no later sheet could be."""
    for name in "abcdefgh":
        picture(f"f/{name}.png")
    write = atomic.write_atomic

    def fill(target: Path, *arguments: Any) -> None:
        if target.parent.name == "sheets":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, *arguments)

    monkeypatch.setattr(image_io, "write_atomic", fill)
    outcome = restormer("derain", "f", "-o", "out", "--compare", "sheets", "--json")
    assert outcome.status == 1
    first, *_, last = (event for event in outcome.events if event["event"] == "failed")
    cause = "restored, but sheets/a.png.png: cannot write (No space left on device)"
    assert first["error"] == cause
    assert first["disk_full"]
    assert last["error"].startswith("the disk is full: ")
    assert Path("out/a.png").exists()


def test_a_report_that_cannot_be_written_does_not_hide_an_interrupt(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is that of Ctrl-C, and both are reported."""
    for name in "abc":
        picture(f"f/{name}.png")
    write = atomic.write_atomic

    def interrupt(target: Path, *arguments: Any) -> None:
        if target.name == "b.png":
            signal.raise_signal(signal.SIGINT)  # handled by the main thread
        write(target, *arguments)

    def refuse(target: Path, *arguments: Any) -> None:
        if target.name == "page.html":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, *arguments)

    monkeypatch.setattr(image_io, "write_atomic", interrupt)
    monkeypatch.setattr(report_page, "write_atomic", refuse)
    outcome = restormer("derain", "f", "-o", "out", "--report", "page.html")
    assert outcome.status == 130
    assert "warning: interrupted: " in outcome.stderr
    assert "error: page.html: cannot write the report (No space left" in outcome.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces")
def test_a_read_only_folder_or_tiny_disk_is_an_error_at_the_start() -> None:
    """It is a usage error with the cause."""
    picture("f/a.png", (256, 256, 3))
    Path("out").mkdir()
    status, stderr, files = in_a_small_file_system("derain", "f", "-o", "out", options="ro")
    assert (status, files) == (2, [])
    assert "out is not writable" in stderr
    status, stderr, files = in_a_small_file_system("derain", "f", "-o", "out", options="size=4k")
    assert (status, files) == (2, [])
    assert re.search(r"out: needs about 197 kB, 4.1 kB free", stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces")
def test_outputs_behind_links_need_permission_and_space_in_the_folders_of_their_files() -> None:
    """Those of the folder with the links do not matter."""
    picture("f/a.png", (256, 256, 3))
    for name in ("out", "links"):
        Path(name).mkdir()
    Path("links/a.png").symlink_to("../out/a.png")
    status, stderr, _ = in_a_small_file_system("derain", "f", "-o", "links", options="ro")
    assert status == 2
    assert "out is not writable" in stderr
    status, stderr, _ = in_a_small_file_system("derain", "f", "-o", "links", options="size=4k")
    assert status == 2
    assert "out: needs about 197 kB, 4.1 kB free" in stderr
