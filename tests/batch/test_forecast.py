"""What a run says at its start: images, megapixels, time, and what would be faster."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from restormer_cli.batch import forecast
from restormer_cli.inference import Restorer, devices
from tests.support.program import picture

pytestmark = pytest.mark.usefixtures("folder", "weights")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run be long enough to predict its time, at 1000 pixels per second."""
    monkeypatch.setattr(forecast, "WORTH_TRYING", 0)
    monkeypatch.setattr(Restorer, "pixels_per_second", 1000)


def first_line(outcome) -> str:
    assert outcome.status == 0
    return outcome.stderr.splitlines()[0]


def test_a_folder_run_says_how_much_it_is(restormer):
    """The first line has the number of images and their megapixels, for short runs nothing else."""
    for number in range(3):
        picture(f"in/{number}.png", (20, 50, 3), seed=number)
    assert first_line(restormer("denoise", "in")) == "3 images, 0.003 MP"


@pytest.mark.usefixtures("slow")
def test_a_long_run_says_how_long_it_takes(restormer):
    """The time is that of all pages at the speed of this device."""
    for number in range(4):
        picture(f"in/{number}.png", (400, 300, 3), seed=number)
    line = first_line(restormer("denoise", "in"))
    assert line.startswith("4 images, 0.48 MP: about 8 min on cpu")


@pytest.mark.usefixtures("slow")
def test_the_time_is_that_of_the_dry_run(restormer):
    """Tiles that overlap cost the same in the estimate and in the dry run."""
    for number in range(2):
        picture(f"in/{number}.png", (64, 64, 3), seed=number)
    options = ("denoise", "in", "--tile", "32", "--overlap", "16")
    planned = restormer(*options, "--dry-run", "--json")
    seconds = sum(e["seconds"] for e in planned.events if e["event"] == "planned")
    assert seconds > 2 * 64 * 64 / 1000
    assert f"about {seconds:.0f} s on cpu" in first_line(restormer(*options))


@pytest.mark.usefixtures("slow")
def test_what_would_be_faster_is_named(restormer, monkeypatch):
    """A GPU that is not used, a fused block that is off, and the ensemble are named."""
    for number in range(2):
        picture(f"in/{number}.png", seed=number)
    monkeypatch.setattr(devices, "available", lambda: ["cuda", "cpu"])
    line = first_line(restormer("denoise", "in", "--ensemble"))
    faster = line.partition("Faster: ")[2].split("; ")
    assert faster == [
        "--device cuda",
        "the fused block (not used: RESTORMER_NATIVE is off)",
        "no --ensemble",
    ]


def test_of_many_files_a_sample_is_read(restormer, monkeypatch):
    """A sample spread over the run stands for all, and the line says so."""
    picture("in/0.png", (10, 10, 3))
    for number in range(1, 40):
        shutil.copy("in/0.png", f"in/{number}.png")
    read: list[str] = []
    monkeypatch.setattr(forecast, "MAX_HEADERS", 8)
    real = forecast.read_size
    monkeypatch.setattr(forecast, "read_size", lambda path: read.append(path.stem) or real(path))
    assert first_line(restormer("denoise", "in")) == "40 images, about 0.004 MP"
    assert sorted(map(int, read)) == list(range(0, 40, 5))


def test_slow_headers_do_not_delay_the_start(restormer, monkeypatch):
    """When the time is over, the headers read so far stand for all."""
    for number in range(5):
        picture(f"in/{number}.png", (10, 20, 3))
    monkeypatch.setattr(forecast, "MAX_SECONDS", 0)
    assert first_line(restormer("denoise", "in")) == "5 images, about 0.001 MP"


def test_files_without_a_header_do_not_count(restormer):
    """A file that is no image fails as before, and the others stand for it."""
    for number in range(2):
        picture(f"in/{number}.png", (50, 20, 3), seed=number)
    Path("in/bad.png").write_bytes(b"no image")
    outcome = restormer("denoise", "in")
    assert outcome.status == 1
    assert outcome.stderr.splitlines()[0] == "3 images, about 0.003 MP"


@pytest.mark.parametrize("options", [("--in-place",), ("-o", "out")])
def test_outputs_that_replace_files_need_no_space_for_all(
    options: tuple[str, ...], restormer, monkeypatch
):
    """Only one such output exists beside the file that it replaces; new ones need more space."""
    command = ("derain", "in", *options)
    for number in range(9):
        picture(f"in/{number}.png", (40, 50, 3), seed=number)  # 6 kB of random pixels
    assert restormer("derain", "in", "-o", "out").status == 0

    def leave(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    leave(7000)
    assert "free" not in restormer(*command).stderr
    assert "warning: new: needs about 5" in restormer("derain", "in", "-o", "new").stderr
    leave(500)
    outcome = restormer(*command)
    assert outcome.status == 2
    assert re.search(r"error: \w+: needs about 6\S* kB, 500 bytes free", outcome.stderr)


def test_quiet_runs_and_single_images_say_nothing(restormer):
    """With -q nothing is said, and neither for one image."""
    picture("in/0.png")
    picture("in/1.png")
    assert "2 images" not in restormer("denoise", "in", "-q").stderr
    assert " MP\n" not in restormer("denoise", "in/0.png").stderr
