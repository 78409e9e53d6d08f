"""A watched folder: what arrives in it is restored, once it is complete."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.files import watching
from tests.support.program import Outcome, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("watchfiles")
pytestmark = pytest.mark.usefixtures("folder", "weights")

PATIENCE = 40.0  # seconds to wait for anything, on a busy machine


def wait_for(is_true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_true() and time.monotonic() < end:
        time.sleep(0.02)


def restored(count: int) -> Callable[[], bool]:
    return lambda: len(list(Path("clean").glob("*.png"))) >= count


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Act in another thread, and then send SIGTERM to the program, which runs in this one."""
    ended, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            errors.append(error)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        ended.set()
        thread.join()
    assert not errors


def inputs(outcome: Outcome, event: str) -> list[str]:
    return [Path(e["input"]).name for e in outcome.events if e["event"] == event]


def watch(restormer: Callable[..., Outcome], act: Callable[[], None], *options: str) -> Outcome:
    """Watch the folder `in` until the act has ended."""
    Path("in").mkdir(exist_ok=True)
    with meanwhile(act):
        return restormer("denoise", "in", "-o", "clean/", "--watch", "--json", *options)


def test_what_is_there_is_restored_and_then_what_arrives(restormer):
    """The images in the folder are restored, then one that is renamed into it, in one run."""
    before = picture("in/first.png")
    later = picture("elsewhere/later.png", seed=1)

    def act() -> None:
        wait_for(restored(1))
        Path("elsewhere/later.png").rename("in/later.png")
        wait_for(restored(2))

    outcome = watch(restormer, act)
    assert outcome.status == 130
    assert inputs(outcome, "restored") == ["first.png", "later.png"]
    assert inputs(outcome, "failed") == []
    assert np.array_equal(pixels("clean/first.png"), before)
    assert np.array_equal(pixels("clean/later.png"), later)
    summary = outcome.events[-1]
    assert (summary["event"], summary["restored"]) == ("summary", 2)


def test_a_slow_writer_is_waited_for(restormer):
    """A file that grows in pieces, with pauses, is restored once, whole, and never fails."""
    before = picture("elsewhere/slow.png", (60, 80, 3))
    data = Path("elsewhere/slow.png").read_bytes()

    def act() -> None:
        with Path("in/slow.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 6 + 1):
                time.sleep(watching.SETTLING / 2)
                file.write(data[start : start + len(data) // 6 + 1])
                file.flush()
        wait_for(restored(1))

    outcome = watch(restormer, act)
    assert inputs(outcome, "restored") == ["slow.png"]
    assert inputs(outcome, "failed") == []
    assert np.array_equal(pixels("clean/slow.png"), before)


def test_an_image_that_was_cut_fails_and_is_restored_once_it_is_complete(restormer):
    """A writer that stops for long is reported; when it goes on, the image is restored."""
    picture("elsewhere/late.png", (60, 80, 3))
    data = Path("elsewhere/late.png").read_bytes()

    def act() -> None:
        with Path("in/late.png").open("wb") as file:
            file.write(data[:2000])
            file.flush()
            time.sleep(3 * watching.SETTLING)
            file.write(data[2000:])
        wait_for(restored(1))

    outcome = watch(restormer, act)
    assert inputs(outcome, "failed") == ["late.png"]
    assert inputs(outcome, "restored") == ["late.png"]


def test_a_burst_is_restored_completely(restormer):
    """Of 200 images that arrive at once, each is restored exactly once."""
    picture("elsewhere/tiny.png", (8, 8, 3))

    def act() -> None:
        for number in range(200):
            shutil.copy("elsewhere/tiny.png", f"in/{number}.png")
        wait_for(restored(200))

    outcome = watch(restormer, act)
    assert sorted(inputs(outcome, "restored")) == sorted(f"{n}.png" for n in range(200))
    assert inputs(outcome, "failed") == []


def test_a_killed_watch_goes_on_where_it_was(restormer, start):
    """After SIGKILL, the same command skips what is done, and restores the rest."""
    picture("in/done.png")
    process = start("denoise", "in", "-o", "clean/", "--watch", "--json")
    process.kill()
    process.wait()
    picture("in/new.png", seed=1)
    outcome = watch(restormer, lambda: wait_for(restored(2)))
    assert inputs(outcome, "skipped") == ["done.png"]
    assert inputs(outcome, "restored") == ["new.png"]


def test_subfolders_that_arrive_are_searched(restormer):
    """With -r, a folder that is moved in is restored, and then what arrives in it."""
    picture("elsewhere/sub/first.png")
    picture("elsewhere/later.png", seed=1)
    clean = Path("clean/sub")

    def act() -> None:
        Path("elsewhere/sub").rename("in/sub")
        wait_for((clean / "first.png").exists)
        Path("elsewhere/later.png").rename("in/sub/later.png")
        wait_for((clean / "later.png").exists)

    outcome = watch(restormer, act, "-r")
    assert inputs(outcome, "restored") == ["first.png", "later.png"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watch(number, start):
    """Ctrl-C and SIGTERM end a watch that waits, with a summary and status 130."""
    picture("in/one.png")
    process = start("denoise", "in", "-o", "clean/", "--watch", "--json")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b'"summary"' in stdout
    assert b"Traceback" not in stderr


def test_two_inputs_of_one_name_keep_both_outputs(restormer):
    """An image that arrives later and has the same output name replaces no other's output."""
    first = picture("in/x.bmp")
    second = picture("elsewhere/x.png", seed=1)

    def act() -> None:
        wait_for(restored(1))
        Path("elsewhere/x.png").rename("in/x.png")
        wait_for(lambda: Path("clean/x.bmp.png").exists())
        wait_for(lambda: np.array_equal(pixels("clean/x.png"), second))

    watch(restormer, act, "--format", "png")
    assert np.array_equal(pixels("clean/x.bmp.png"), first)
    assert np.array_equal(pixels("clean/x.png"), second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing: not a folder of this machine"),
        (["in/one.png"], "in/one.png: not a folder of this machine"),
        (["in", "-o", "in/"], "the outputs would arrive in the watched folder"),
        (["in", "--in-place"], "--watch does not go with"),
        (["in", "--report", "page.html"], "--watch does not go with"),
        (["in", "--device", "cpu,cpu"], "--watch uses one device"),
    ],
)
def test_what_cannot_be_watched_is_refused(arguments, message, restormer):
    """Wrong combinations end at once, with status 2."""
    picture("in/one.png")
    outcome = restormer("denoise", *arguments, "--watch")
    assert outcome.status == 2
    assert message in outcome.stderr


def test_a_folder_that_goes_away_ends_the_watch(restormer):
    """The end of the watched folder is reported, and not waited for."""
    Path("in").mkdir()
    timer = threading.Timer(2 * watching.SETTLING, lambda: Path("in").rmdir())
    timer.start()
    outcome = restormer("denoise", "in", "-o", "clean/", "--watch")
    assert outcome.status == 2
    assert "in: the watched folder is gone" in outcome.stderr


def test_a_folder_that_goes_away_after_an_image_ends_the_watch_with_its_summary(restormer):
    """The status is not that of wrong usage, which means that nothing was restored."""
    picture("in/one.png")

    def remove() -> None:
        wait_for(restored(1))
        shutil.rmtree("in")

    thread = threading.Thread(target=remove)
    thread.start()
    outcome = restormer("denoise", "in", "-o", "clean/", "--watch", "--json")
    thread.join()
    assert outcome.status == 1
    assert "in: the watched folder is gone" in outcome.stderr
    summary = outcome.events[-2]
    assert (summary["event"], summary["restored"]) == ("summary", 1)


def test_help_says_how_to_install_it(restormer, monkeypatch):
    """Without the extra, the command names it."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    Path("in").mkdir()
    outcome = restormer("denoise", "in", "--watch")
    assert outcome.status == 2
    assert "restormer-cli[watch]" in outcome.stderr
