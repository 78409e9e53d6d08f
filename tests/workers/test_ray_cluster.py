"""A run on a Ray cluster: a real one, on this machine, one of whose actors is killed."""

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
from restormer_cli.errors import DeviceError
from restormer_cli.workers import ray_cluster
from tests.support.program import Outcome, gone, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

COMMAND = ("derain", "f", "-o", "out", "--precision", "fp32", "--json")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_actor_costs_nothing(
    start: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """All is restored, recorded and told as by one process; then nothing is left running.

    While it runs, nothing of it listens but on the loopback interface.
    """
    for seed in range(20):
        picture(f"f/{seed}.png", (240, 320, 3), seed=seed)
    Path("f/bad.png").write_text("hello")
    process = start(*COMMAND, "--ray", "local", "--device", "cpu,cpu")
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    actors = [one for one in family if one.cmdline()[:1][0].startswith("ray::RayWorker")]
    assert len(actors) == 2
    addresses = [
        connection.laddr.ip
        for one in family
        for connection in one.net_connections("tcp")
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
    assert gone(family)
    outputs = sorted(Path("out").glob("*.png"))
    for path in outputs:
        assert np.array_equal(pixels(str(path)), pixels(f"f/{path.name}"))
    lines = Path("out", manifest.NAME).read_bytes().splitlines()
    assert {json.loads(line)["output"]["name"] for line in lines} == {p.name for p in outputs}
    Path("f/bad.png").unlink()
    assert restormer(*COMMAND, "--skip-existing").events[-1]["skipped"] == 20


@pytest.mark.parametrize(
    ("devices", "processors", "gpus", "places", "share"),
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
def test_workers_are_as_many_as_the_cluster_has_place_for(
    devices: str,
    processors: list[int],
    gpus: int,
    places: list[str] | None,
    share: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One for each GPU, or else for a few processors, all of which are on one machine."""
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in processors]
    free = {"CPU": float(sum(processors)), "GPU": float(gpus)}
    ray = SimpleNamespace(
        init=lambda *_, **__: None,
        nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 99.0}}],
        available_resources=lambda: free,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    host = ray_cluster.Cluster("auto", devices.split(","), lambda *_: None)  # type: ignore[arg-type, return-value]
    if places is None:
        with pytest.raises(DeviceError, match="which is too little"):
            _ = host.places
    else:
        assert (host.places, host._share) == (places, share)


def test_without_ray_the_error_says_how_to_get_it(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong usage, and nothing is touched."""
    picture("f/a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = restormer(*COMMAND, "--ray", "local")
    assert outcome.status == 2
    assert "pip install 'restormer-cli[ray]'" in outcome.stderr
    assert not Path("out").exists()


def test_a_cluster_that_is_not_there_is_told_at_once(restormer: Callable[..., Outcome]) -> None:
    """By its address."""
    picture("f/a.png")
    outcome = restormer(*COMMAND, "--ray", "127.0.0.1:9")
    assert outcome.status == 3
    assert "there is no Ray cluster at 127.0.0.1:9" in outcome.stderr
