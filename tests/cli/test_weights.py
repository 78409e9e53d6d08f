"""What is on this machine: `weights`, `doctor` and `info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli.checkpoints import catalog, serialization
from restormer_cli.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def restormer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line: its exit status, stdout and stderr."""

    def restormer(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            app.main([str(argument) for argument in arguments])
        assert isinstance(left.value.code, int)
        return left.value.code, *capsys.readouterr()

    return restormer


def test_weights_list_names_every_checkpoint_and_the_licence(
    restormer: Callable[..., tuple[int, str, str]],
) -> None:
    """One line each, without a network."""
    status, stdout, _ = restormer("weights", "list")
    assert status == 0
    lines = stdout.splitlines()
    assert {line.split()[0] for line in lines[1:14]} == set(catalog.CHECKPOINTS)
    assert all("MIT" in line for line in lines[1:])


def test_weights_are_pulled_found_and_verified(
    publish: Callable[..., Any], restormer: Callable[..., tuple[int, str, str]]
) -> None:
    """Absent at first; after a pull, `path` prints where it lies and `verify` finds it whole."""
    publish("deraining", b"weights")
    status, stdout, stderr = restormer("weights", "path", "derain")
    assert (status, stdout) == (3, "")
    assert "weights pull deraining" in stderr

    assert restormer("weights", "pull", "derain")[0] == 0
    _, path, _ = restormer("weights", "path", "deraining")
    status, stdout, _ = restormer("weights", "verify", "--json")
    (verdict,) = (v for v in json.loads(stdout) if v["name"] == "deraining")
    assert status == 0
    assert verdict["path"] == path.strip()
    assert verdict["ok"] is True
    _, stdout, _ = restormer("weights", "list", "--json")
    rows = {row["name"]: row for row in json.loads(stdout)}
    assert rows["deraining"]["state"] == "cached"


def test_verify_fails_on_damaged_weights(
    publish: Callable[..., Any], restormer: Callable[..., tuple[int, str, str]]
) -> None:
    """One that is not what it should be is told, and the exit status is 1."""
    publish("deraining", b"weights")
    restormer("weights", "pull", "deraining")
    _, path, _ = restormer("weights", "path", "deraining")
    with open(path.strip(), "wb") as file:  # noqa: PTH123 - through the cache's link
        file.write(b"weightz")
    status, stdout, _ = restormer("weights", "verify")
    assert status == 1
    assert "DAMAGED" in stdout


@pytest.mark.parametrize(
    "arguments", [["pull"], ["pull", "derain", "--all"], ["pull", "rain"], ["path", "rain"]]
)
def test_unclear_requests_for_weights_are_wrong_usage(
    arguments: list[str], restormer: Callable[..., tuple[int, str, str]]
) -> None:
    """No name, or one that means nothing."""
    status, _, stderr = restormer("weights", *arguments)
    assert status == 2
    assert stderr.startswith("error: ")


def test_doctor_tells_what_a_run_would_use(
    identity: Callable[..., Path],
    lite_folder: Path,
    restormer: Callable[..., tuple[int, str, str]],
) -> None:
    """Versions, devices and, for each task, the weights with and without a network."""
    network = serialization.load_network(identity())
    lite = lite_folder / "restormer-lite-denoise.safetensors"
    serialization.save_network(network.state_dict(), network.architecture, lite)
    status, stdout, _ = restormer("doctor", "--json")
    assert status == 0
    facts = json.loads(stdout)
    assert facts["versions"]["torch"]
    assert facts["devices"][-1]["device"] == "cpu"
    uses = {use["task"]: use for use in facts["tasks"]}
    assert uses["denoise"]["offline"] == "restormer-lite-denoise"
    assert uses["derain"]["offline"] == "nothing"
    assert uses["derain"]["online"].startswith("deraining")
    _, text, _ = restormer("doctor")
    assert "restormer-lite-denoise" in text


def test_info_shows_a_network_and_sends_an_image_through(
    identity: Callable[..., Path], restormer: Callable[..., tuple[int, str, str]]
) -> None:
    """Of a file here; as a table and as JSON."""
    weights = identity()
    status, stdout, _ = restormer("info", weights)
    assert status == 0
    assert "latent" in stdout
    assert "1 x 3 x 64 x 64" in stdout
    _, stdout, _ = restormer("info", weights, "--json")
    assert json.loads(stdout)["proof"]["output"] == [1, 3, 64, 64]


def test_info_knows_the_published_networks(
    restormer: Callable[..., tuple[int, str, str]],
) -> None:
    """Without their files: 26 million parameters."""
    _, stdout, _ = restormer("info", "derain", "--json")
    assert "26126644" in stdout


def test_info_of_nothing_is_told(restormer: Callable[..., tuple[int, str, str]]) -> None:
    """A name that is no task, checkpoint or file cannot be shown."""
    status, _, stderr = restormer("info", "nothing.pth")
    assert status == 3
    assert stderr.startswith("error: ")
