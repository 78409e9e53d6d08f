"""The commands `doctor` and `info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from restormer_cli.checkpoints import serialization
from tests.support.program import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


def test_doctor_shows_the_weights_of_each_task(
    identity: Callable[..., Path], lite_folder: Path, restormer: Callable[..., Outcome]
) -> None:
    """`doctor` shows versions, devices and the weights with and without a network connection."""
    network = serialization.load_network(identity())
    lite = lite_folder / "restormer-lite-denoise.safetensors"
    serialization.save_network(network.state_dict(), network.architecture, lite)
    outcome = restormer("doctor", "--json")
    assert outcome.status == 0
    facts = json.loads(outcome.stdout)
    assert facts["versions"]["torch"]
    assert facts["devices"][-1]["device"] == "cpu"
    uses = {use["task"]: use for use in facts["tasks"]}
    assert uses["denoise"]["offline"] == "restormer-lite-denoise"
    assert uses["derain"]["offline"] == "nothing"
    assert uses["derain"]["online"].startswith("deraining")
    assert b"restormer-lite-denoise" in restormer("doctor").stdout


def test_info_describes_the_network_in_a_file(
    identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """`info` shows stages and feature map shapes, as tables and as JSON."""
    weights = identity()
    outcome = restormer("info", weights)
    assert outcome.status == 0
    assert b"latent" in outcome.stdout
    assert b"1 x 3 x 64 x 64" in outcome.stdout
    facts = json.loads(restormer("info", weights, "--json").stdout)
    assert facts["proof"]["output"] == [1, 3, 64, 64]


def test_info_describes_official_networks_without_their_files(
    restormer: Callable[..., Outcome],
) -> None:
    """The published deraining network has 26 million parameters."""
    assert b"26126644" in restormer("info", "derain", "--json").stdout


def test_info_of_an_unknown_name_exits_with_3(restormer: Callable[..., Outcome]) -> None:
    """A name that is neither a task, a checkpoint nor a file is an error."""
    outcome = restormer("info", "nothing.pth")
    assert outcome.status == 3
    assert outcome.stderr.startswith("error: ")
