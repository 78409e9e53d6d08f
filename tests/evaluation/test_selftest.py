"""The self-test of a device: `restormer doctor --device`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from restormer_cli.checkpoints import list_checkpoints, serialization
from restormer_cli.evaluation import selftest, speeds, system
from restormer_cli.inference import strips
from tests.support.networks import random_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.program import Outcome


@pytest.fixture
def tiny_networks(lite_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundle two tiny networks instead of the lite ones, and use small images."""
    for task, norm in (("denoise", "BiasFree"), ("derain", "WithBias")):
        network = random_network(layer_norm=norm)
        torch.nn.init.normal_(network.output.weight, std=1e-3)  # as after training
        path = lite_folder / f"restormer-lite-{task}.safetensors"
        serialization.save_network(network.state_dict(), network.architecture, path)
    monkeypatch.setattr(selftest, "SMALL", (24, 32))
    monkeypatch.setattr(selftest, "LARGE", (32, 40))
    monkeypatch.setattr(speeds, "SPEED_SIDES", {"cpu": (48, 16)})


def failures(outcome: Outcome) -> set[tuple[str, str]]:
    """Return the names and precisions of the failed checks, after checking the JSON."""
    report = json.loads(outcome.stdout)
    failed = [check for check in report["checks"] if not check["ok"]]
    assert report["ok"] == (not failed)
    assert outcome.status == (1 if failed else 0)
    assert len(report["failures"]) == len(failed)
    for check, line in zip(failed, report["failures"], strict=True):
        assert line.startswith(f"{check['name']}, {check['precision']}: ")
    return {(check["name"], check["precision"]) for check in failed}


@pytest.mark.usefixtures("tiny_networks")
def test_a_sound_device_is_all_right(restormer: Callable[..., Outcome]) -> None:
    """Versions, all checks in every precision, speeds, and the verdict fit 80 columns."""
    outcome = restormer("doctor", "--device", "cpu")
    assert outcome.status == 0
    lines = outcome.stdout.decode().splitlines()
    assert lines[-1] == "all right"
    assert max(map(len, lines)) <= 80
    for words in ("torch ", "restormer-lite-derain ", "out of memory once ", "tiles of 16 "):
        assert any(line.lstrip().startswith(words) for line in lines)


@pytest.mark.usefixtures("tiny_networks")
def test_the_report_as_json(restormer: Callable[..., Outcome]) -> None:
    """One object has the system, the checks with their limits, and the speed of every way."""
    outcome = restormer("doctor", "--device", "cpu", "--json")
    assert failures(outcome) == set()
    report = json.loads(outcome.stdout)
    assert report["system"]["torch"] == torch.__version__
    assert report["known_issues"] == []
    for check in report["checks"]:
        assert check["precision"] in ("fp32", "bf16", "fp16")
        assert check["value"] is None or check["value"] >= 0
        assert check["limit"] >= 0
    measured = {(speed["way"], speed["precision"]) for speed in report["speeds"]}
    ways = ("strips", "tiles of 16", "plain")
    assert measured == {(way, p) for way in ways for p in ("fp32", "bf16", "fp16")}
    assert all(speed["ms_per_megapixel"] > 0 for speed in report["speeds"])


def run_strips(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any]) -> None:
    """Pass the result of the engine and the type of its features through `change`."""
    right = strips.forward

    def forward(network: Any, image: Any, dtype: Any = torch.float32, **options: Any) -> Any:
        return change(right(network, image, dtype, **options), dtype)

    monkeypatch.setattr(strips, "forward", forward)


@pytest.mark.usefixtures("tiny_networks")
def test_a_wrong_kernel_is_named(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that is wrong in one precision fails the checks of this precision only."""
    run_strips(monkeypatch, lambda y, dtype: y + 0.01 if dtype == torch.float16 else y)
    outcome = restormer("doctor", "--device", "cpu")
    assert outcome.status == 1
    _, _, failed = outcome.stdout.decode().partition("\nFAILED:\n")
    names = ("restormer-lite-denoise", "restormer-lite-derain", "a larger image")
    assert len(failed.splitlines()) == len(names)
    for name, line in zip(names, failed.splitlines(), strict=True):
        assert line.startswith(f"{name}, fp16: ")
        assert line.endswith(" dB, not at least 50 dB")


@pytest.mark.usefixtures("tiny_networks")
def test_a_result_that_varies_is_named(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results within the limits, but not the same twice, fail that check."""
    run_strips(monkeypatch, lambda y, _: y + 1e-6 * torch.rand_like(y))
    assert failures(restormer("doctor", "--device", "cpu", "--json")) == {
        ("twice the same bytes", precision) for precision in ("fp32", "bf16", "fp16")
    }


@pytest.mark.usefixtures("tiny_networks")
def test_a_missed_precision_and_an_error_are_named(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither fp32 in place of fp16 nor an error of the device passes or ends the test."""

    def change(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.bfloat16:
            raise RuntimeError("CUDA error: no kernel image is available\nmore lines")
        return y * torch.nan if dtype == torch.float16 else y

    run_strips(monkeypatch, change)
    outcome = restormer("doctor", "--device", "cpu", "--json")
    names = [
        *("restormer-lite-denoise", "restormer-lite-derain"),
        *("a larger image", "twice the same bytes"),
    ]
    assert failures(outcome) == {(name, p) for name in names for p in ("bf16", "fp16")}
    errors = {check["error"] for check in json.loads(outcome.stdout)["checks"]}
    overflow = "fp16 overflowed; restored again in fp32"
    assert errors == {None, overflow, "CUDA error: no kernel image is available"}


@pytest.mark.usefixtures("tiny_networks")
def test_an_unnoticed_lack_of_memory_is_named(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first plan gives a result although memory ran out, the check fails."""
    monkeypatch.setattr(selftest, "exhaust_memory", lambda _: None)
    outcome = restormer("doctor", "--device", "cpu", "--json")
    assert failures(outcome) == {("out of memory once", "fp32")}


def test_without_bundled_weights_there_is_no_test(
    lite_folder: Path, restormer: Callable[..., Outcome]
) -> None:
    """The exit status says that weights are missing."""
    assert not list(lite_folder.iterdir())
    outcome = restormer("doctor", "--device", "cpu")
    assert outcome.status == 3
    assert outcome.stderr.startswith("error: the bundled lite weights are missing")


@pytest.mark.usefixtures("tiny_networks")
def test_only_the_strips_are_measured_after_the_time_limit() -> None:
    """The self-test ends in time on a slow machine."""
    checkpoint = next(row for row in list_checkpoints() if row.state == "bundled")
    measured = speeds.measure_speeds(checkpoint, torch.device("cpu"), end=0.0)
    assert [speed.way for speed in measured] == ["strips"] * 3


@pytest.mark.parametrize(
    ("device", "version", "count"),
    [
        ("mps", "2.9.1", 1),
        ("mps", "2.13.0", 1),
        ("mps", "2.14.0a0+git1", 1),
        ("mps", "2.14.0", 0),
        ("mps", "3.0", 0),
        ("cuda", "2.6.0+cu126", 0),
    ],
)
def test_known_issues_of_a_release(device: str, version: str, count: int) -> None:
    """Releases of PyTorch with known issues, and pre-releases of the next, are reported."""
    assert len(system.known_issues(torch.device(device), version)) == count
