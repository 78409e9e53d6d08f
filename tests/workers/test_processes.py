"""Runs on several devices: real processes that are killed, interrupted or orphaned."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from restormer_cli.batch import BatchConfig, manifest
from restormer_cli.files import atomic
from restormer_cli.inference.config import RestorerConfig
from restormer_cli.workers import processes
from restormer_cli.workers.processes import ProcessLauncher
from restormer_cli.workers.worker import WorkerConfig, WorkerExited
from tests.support.program import Outcome, have_ended, picture, pixels

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

pytestmark = [
    pytest.mark.usefixtures("folder", "weights"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]

COMMAND = ("derain", "f", "-o", "out", "--device", "cpu,cpu", "--precision", "fp32", "--json")


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the worker processes."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def outputs() -> list[Path]:
    assert not list(Path("out").glob(f"*{atomic.TEMPORARY}"))
    return sorted(Path("out").glob("*.png"))


def test_names_of_one_gpu_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of "cuda" and "cuda:0" divide its memory."""
    configs: list[RestorerConfig] = []
    monkeypatch.setattr(processes, "_Process", lambda config, _: configs.append(config.restorer))
    config = WorkerConfig(RestorerConfig("derain"), BatchConfig(), None)
    launcher = ProcessLauncher(["cuda", "cuda:0", "cuda:1", "cuda:10"], config, print)
    for index in range(4):
        launcher.start_worker(index, print)
    assert [config.sharing for config in configs] == [2, 2, 1, 1]


def test_images_of_a_killed_worker_are_restored_by_others(
    start: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """Outputs equal those of one process, and the manifest has all of them."""
    for seed in range(16):
        picture(f"f/{seed}.png", (240, 320, 3), seed=seed)
    Path("f/bad.png").write_text("hello")
    process = start(*COMMAND)
    running = workers(process)
    assert len(running) == 2
    running[0].kill()
    stdout, stderr = process.communicate()
    assert process.returncode == 1  # for the bad one
    assert b"the worker on cpu died (killed by SIGKILL); to be tried again: f/" in stderr
    assert b"Traceback" not in stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert (summary["restored"], summary["failed"]) == (16, 1)
    assert have_ended(running)
    for path in outputs():
        assert np.array_equal(pixels(str(path)), pixels(f"f/{path.name}"))
    lines = Path("out", manifest.NAME).read_bytes().splitlines()
    assert {json.loads(line)["output"]["name"] for line in lines} == {p.name for p in outputs()}
    Path("f/bad.png").unlink()
    again = restormer(*COMMAND, "--device", "cpu", "--skip-existing")
    assert again.events[-1]["skipped"] == 16


def test_ctrl_c_ends_all_processes(start: Callable[..., Any]) -> None:
    """A terminal sends SIGINT to all processes; the parent handles it and stops the workers."""
    for seed in range(60):
        picture(f"f/{seed}.png", (240, 320, 3), seed=seed)
    process = start(*COMMAND)
    running = workers(process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert b"images remain. All files written are complete" in stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["interrupted"]
    assert summary["restored"] == len(outputs())
    for path in outputs():
        assert np.array_equal(pixels(str(path)), pixels(f"f/{path.name}"))
    assert len(running) == 2
    assert have_ended(running)


def test_no_worker_outlives_the_run(start: Callable[..., Any]) -> None:
    """Workers end even if the parent is killed."""
    for seed in range(60):
        picture(f"f/{seed}.png", (240, 320, 3), seed=seed)
    process = start(*COMMAND)
    running = workers(process)
    process.kill()
    assert have_ended(running)
    time.sleep(0.1)
    assert len(outputs()) < 60


@pytest.mark.parametrize(
    ("devices", "images", "options"),
    [
        ("cpu,cuda:99", 2, ()),
        ("cpu,cuda:99", 1, ()),
        ("cpu,cuda:99", 1, ("--dry-run",)),
        ("cuda:99", 1, ("--dry-run", "--weights", "official")),
    ],
)
def test_a_missing_device_is_an_error_before_anything_is_touched(
    devices: str, images: int, options: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """The error is that for a single device, also if the device gets no image or no weights."""
    for seed in range(images):
        picture(f"f/{seed}.png", seed=seed)
    outcome = restormer(*COMMAND, "--device", devices, *options)
    assert outcome.status == 3
    assert "error: device cuda:99 is not available" in outcome.stderr
    assert not Path("out").exists()


class BrokenName:
    """Name of weights that raises an error when it is used."""

    def __str__(self) -> str:
        raise OSError("by a test")


def test_an_unexpected_error_of_a_worker_is_its_exit_status() -> None:
    """An OSError that does not come from the pipe ends the process with status 1."""
    config = RestorerConfig("derain", weights=BrokenName())  # type: ignore[arg-type]
    launcher = ProcessLauncher(["cpu"], WorkerConfig(config, BatchConfig(), None), print)
    messages = SimpleQueue[object]()
    launcher.start_worker(0, messages.put)
    assert messages.get(timeout=60) == WorkerExited("exit status 1")


def test_a_dry_run_starts_no_processes(restormer: Callable[..., Outcome]) -> None:
    """It plans for the first device."""
    picture("f/a.png")
    outcome = restormer(*COMMAND, "--dry-run")
    assert outcome.events[0]["strategy"] == "whole"


def test_a_report_shows_the_images_of_all_workers(restormer: Callable[..., Outcome]) -> None:
    """Workers write the previews and comparison sheets of their images."""
    for seed in range(4):
        picture(f"f/{seed}.png", (40, 60, 3), seed=seed)
    outcome = restormer(*COMMAND, "--report", "page.html", "--compare", "sheets")
    assert outcome.status == 0
    page = Path("page.html").read_text("utf-8")
    assert all(f"{seed}.png" in page for seed in range(4))
    assert page.count("data:image/") >= 4 or len(list(Path("page_files").iterdir())) >= 4
    assert len(list(Path("sheets").glob("*.png"))) == 4


@pytest.mark.parametrize("option", [("--preview",), ("--report", "a.html"), ("--compare", "b")])
def test_ray_does_not_go_with_previews(
    option: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """Machines of a cluster may write to their own disks."""
    picture("f/a.png")
    outcome = restormer("derain", "f", "-o", "out", "--ray", "local", *option)
    assert outcome.status == 2
    assert "do not work with --ray" in outcome.stderr
