"""Runs on a real Ray cluster on this machine, and the allocation of its resources."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from restormer_cli.batch import manifest
from restormer_cli.batch.jobs import BatchConfig
from restormer_cli.errors import DeviceError
from restormer_cli.inference.config import RestorerConfig
from restormer_cli.workers import ray_cluster
from restormer_cli.workers.worker import WorkerConfig
from tests.support.program import Outcome, have_ended, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

COMMAND = ("derain", "f", "-o", "out", "--precision", "fp32", "--json")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_images_of_a_killed_actor_are_restored_by_others(
    start: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """Outputs, manifest and events equal those of one process, and nothing is left running.

    During the run, the cluster listens on the loopback interface only.
    """
    for seed in range(20):
        picture(f"f/{seed}.png", (240, 320, 3), seed=seed)
    Path("f/bad.png").write_text("hello")
    process = start(*COMMAND, "--ray", "local", "--device", "cpu,cpu")
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    actors = [each for each in family if each.cmdline()[:1][0].startswith("ray::RayWorker")]
    assert len(actors) == 2
    addresses = [
        connection.laddr.ip
        for each in family
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}

    actors[0].kill()
    stdout, stderr = process.communicate()
    assert process.returncode == 1  # for the bad one
    assert b"the worker on cpu died (its actor died); to be tried again: f/" in stderr
    assert b"Traceback" not in stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert (summary["restored"], summary["failed"]) == (20, 1)
    assert have_ended(family)
    outputs = sorted(Path("out").glob("*.png"))
    for path in outputs:
        assert np.array_equal(pixels(str(path)), pixels(f"f/{path.name}"))
    lines = Path("out", manifest.NAME).read_bytes().splitlines()
    assert {json.loads(line)["output"]["name"] for line in lines} == {p.name for p in outputs}
    Path("f/bad.png").unlink()
    assert restormer(*COMMAND, "--skip-existing").events[-1]["skipped"] == 20


@pytest.mark.parametrize(
    ("names", "processors", "gpus", "devices", "share"),
    [
        ("auto", [2], 0, ["cpu"], 2),
        ("auto", [6, 6], 0, ["cpu", "cpu"], 6),
        ("auto", [4, 16], 0, ["cpu"] * 5, 4),
        ("auto", [16], 2, ["cuda", "cuda"], 16),
        ("cpu,cpu,cpu", [4, 8], 0, ["cpu"] * 3, 4),
        ("cuda:1", [16], 2, ["cuda"], 16),
        ("cuda,cuda", [16], 1, None, 0),
        ("auto", [], 0, None, 0),
    ],
)
def test_the_cluster_determines_the_number_of_workers(
    names: str,
    processors: list[int],
    gpus: int,
    devices: list[str] | None,
    share: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is one worker for each GPU, or else for a few processors of one machine."""
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in processors]
    free = {"CPU": float(sum(processors)), "GPU": float(gpus)}
    ray = SimpleNamespace(
        init=lambda *_, **__: None,
        nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 99.0}}],
        available_resources=lambda: free,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    config = WorkerConfig(RestorerConfig("derain"), BatchConfig(), None)
    launcher = ray_cluster.RayLauncher("auto", names.split(","), config)
    if devices is None:
        with pytest.raises(DeviceError, match="has only"):
            _ = launcher.devices
    else:
        assert (launcher.devices, launcher.processors_per_worker) == (devices, share)


def test_without_ray_the_error_says_how_to_install_it(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a usage error, and nothing is touched."""
    picture("f/a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = restormer(*COMMAND, "--ray", "local")
    assert outcome.status == 2
    assert "pip install 'restormer-cli[ray]'" in outcome.stderr
    assert not Path("out").exists()


def test_a_missing_cluster_is_an_error_at_once(restormer: Callable[..., Outcome]) -> None:
    """The error names its address."""
    picture("f/a.png")
    outcome = restormer(*COMMAND, "--ray", "127.0.0.1:9")
    assert outcome.status == 3
    assert "there is no Ray cluster at 127.0.0.1:9" in outcome.stderr
