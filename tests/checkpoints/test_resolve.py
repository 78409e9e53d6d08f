"""What `--weights` says, made a verified file; and what stands behind `restormer weights`."""

from __future__ import annotations

import hashlib

import pytest
import torch
from huggingface_hub import constants

from restormer_cli.checkpoints import catalog, serialization
from restormer_cli.checkpoints import resolve as resolution
from restormer_cli.errors import CheckpointError
from tests.support.networks import tiny_network


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def official(publish, tiny):
    """A tiny network in the place of the official deraining checkpoint."""
    return publish("deraining", tiny("official.pth", seed=1).read_bytes())


@pytest.fixture
def lite(lite_folder):
    """A tiny network in the place of the bundled deraining weights."""
    network = tiny_network(seed=2)
    path = lite_folder / catalog.TASKS["derain"].lite
    serialization.save_network(network.state_dict(), network.architecture, path)
    return path


def resolve(weights, name="deraining"):
    """The file that is found, and what was said about it."""
    heard = []
    checkpoint = catalog.CHECKPOINTS[name]
    task = catalog.TASKS[checkpoint.task]
    return resolution.resolve_checkpoint(weights, checkpoint, task, notify=heard.append), heard


# --- --weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["auto", "official", "deraining"])
def test_the_official_checkpoint_is_the_first_choice(official, lite, weights):
    """While the Hub answers, the official checkpoint is used and nothing needs saying."""
    found, heard = resolve(weights)
    assert (found.name, found.source, found.licence) == ("deraining", "official", "MIT")
    assert found.sha256 == official.sha256 == sha256(found.path)
    assert heard == []


def test_auto_falls_back_to_the_bundled_weights(lite):
    """Without a network the bundled weights are used, and one is told why."""
    found, heard = resolve("auto")
    assert (found.name, found.source) == ("restormer-lite-derain", "lite")
    assert found.sha256 == sha256(lite)
    assert len(heard) == 1
    assert "Connection refused" in heard[0]
    assert "lite weights" in heard[0]


def test_auto_takes_what_is_cached(hub, official, lite):
    """A cached official checkpoint is used though the Hub is gone."""
    resolve("official")
    hub.stop()
    found, heard = resolve("auto")
    assert found.source == "official"
    assert heard == []


def test_official_never_falls_back(lite):
    """Who says official gets the official checkpoint or an error."""
    with pytest.raises(CheckpointError, match="Connection refused"):
        resolve("official")


def test_wrong_bytes_are_no_reason_to_fall_back(hub, official, lite):
    """Tampering is an error even where lite weights could stand in."""
    hub.tampered[official.sha256] = b"something else"
    with pytest.raises(CheckpointError, match="wrong content"):
        resolve("auto")


def test_a_cached_file_is_verified_at_each_use(hub, official, lite):
    """A bit that flipped in the cache is noticed, the file removed, and the next run is fine."""
    path = resolve("official")[0].path.resolve()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="wrong content") as raised:
        resolve("auto")
    assert raised.value.exit_status == 3
    assert resolve("auto")[0].source == "official"


@pytest.mark.parametrize("weights", ["lite", "restormer-lite-derain"])
def test_lite_asks_no_network(hub, official, lite, weights):
    """Who says lite, or the name in the listing, gets the bundled weights, and nobody is asked."""
    assert resolve(weights)[0].path == lite
    assert hub.requests == []


@pytest.mark.parametrize("weights", ["auto", "lite"])
def test_a_task_without_lite_weights_says_what_to_do(lite_folder, weights):
    """Where nothing is bundled, the error says so and how to go on."""
    with pytest.raises(CheckpointError, match="no lite weights are bundled") as raised:
        resolve(weights)
    assert "weights" in raised.value.hint
    assert raised.value.exit_status == 3


def test_lite_weights_do_not_take_two_views(lite_folder, lite):
    """The bundled defocus weights, which take one image, do not stand in for two views."""
    (lite_folder / catalog.TASKS["defocus"].lite).write_bytes(lite.read_bytes())
    with pytest.raises(CheckpointError, match="two views"):
        resolve("lite", "dual_pixel_defocus_deblurring")


def test_a_path_is_used_as_it_is(tiny):
    """A user's own file is named and hashed."""
    path = tiny("my-own.pth")
    found, heard = resolve(str(path))
    assert (found.name, found.source, found.path) == ("my-own.pth", "file", path)
    assert found.sha256 == sha256(path)
    assert found.licence is None
    assert heard == []


def test_a_path_that_leads_nowhere_says_what_can_be_given(tmp_path):
    """A misspelt name or path is an error that lists what --weights takes."""
    with pytest.raises(CheckpointError, match="no such file") as raised:
        resolve("deranining")
    assert "official" in raised.value.hint
    with pytest.raises(CheckpointError, match="is a folder"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("weights", "file"),
    [("hf:org/repo/model.pth", "model.pth"), ("hf:org/repo/a/b.pth@v1", "a/b.pth")],
)
def test_any_file_of_the_hub(hub, tiny, weights, file):
    """A Hub file in any repository, folder and revision is downloaded and verified."""
    content = tiny().read_bytes()
    hub.files[f"org/repo/{file}"] = content
    hub.commits["v1"] = "e" * 40
    found, _ = resolve(weights)
    assert (found.name, found.source) == (f"org/repo/{file}", "hub")
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert any(
        r.path.endswith(f"/resolve/{'v1' if '@' in weights else 'main'}/{file}")
        for r in hub.requests
    )


@pytest.mark.parametrize("weights", ["hf:", "hf:org", "hf:org/repo", "hf:org/repo/", "hf:/r/f"])
def test_an_incomplete_hub_name_is_refused(weights):
    """A Hub name that lacks organisation, repository or file is refused with the right form."""
    with pytest.raises(CheckpointError, match="names no file") as raised:
        resolve(weights)
    assert "hf:ORG/REPO/FILE" in raised.value.hint


# --- load_network, the Python API ---------------------------------------------------------------


def test_load_network_takes_a_task(official, lite):
    """A task's name loads its official checkpoint."""
    network = serialization.load_network("derain")
    assert torch.equal(network.output.weight, tiny_network(seed=1).output.weight)


def test_load_network_warns_of_lite_weights(lite):
    """A Python program is warned when lite weights stand in."""
    with pytest.warns(UserWarning, match="lite weights"):
        network = serialization.load_network("derain")
    assert torch.equal(network.output.weight, tiny_network(seed=2).output.weight)


def test_load_network_takes_names_paths_and_hub_files(hub, official, tiny):
    """An official name, a path, a Hub file and a found file all give the network."""
    path = tiny(seed=3)
    hub.files["org/repo/model.pth"] = path.read_bytes()
    for name, seed in [("deraining", 1), (path, 3), (str(path), 3), ("hf:org/repo/model.pth", 3)]:
        weight = serialization.load_network(name).output.weight
        assert torch.equal(weight, tiny_network(seed=seed).output.weight)
    assert serialization.load_network(resolve("official")[0]).architecture.dim == 8


@pytest.mark.parametrize("name", ["auto", "official", "lite"])
def test_load_network_needs_to_know_the_task(name):
    """A choice of weights without a task is refused."""
    with pytest.raises(CheckpointError, match="for which task"):
        serialization.load_network(name)


# --- restormer weights --------------------------------------------------------------------------


def test_the_listing_shows_every_file_and_asks_nobody(hub, official, lite):
    """All official checkpoints and lite weights are listed with their state, from tables alone."""
    before = {row.name: row for row in resolution.list_checkpoints()}
    assert hub.requests == []
    assert len(before) == 13 + 4
    assert before["deraining"].state == "downloadable"
    assert before["restormer-lite-derain"].state == "bundled"
    assert before["restormer-lite-deblur"].state == "absent"
    assert before["motion_deblurring"].bytes == 104700429
    assert {row.licence for row in before.values()} == {"MIT"}
    found = resolution.pull_checkpoint(official)
    after = {row.name: row for row in resolution.list_checkpoints()}["deraining"]
    assert (after.state, after.path, after.sha256) == ("cached", found.path, official.sha256)


def test_verify_hashes_everything_that_is_here(hub, official, lite):
    """Cached and bundled files are hashed; a damaged one is reported and left in place."""
    path = resolution.pull_checkpoint(official).path
    assert {v.name: v.ok for v in resolution.verify_checkpoints()} == {
        "deraining": True,
        "restormer-lite-derain": None,
    }
    path.resolve().chmod(0o600)
    path.resolve().write_bytes(b"damaged")
    verdict = next(v for v in resolution.verify_checkpoints() if v.name == "deraining")
    assert verdict.ok is False
    assert verdict.sha256 == sha256(path)
    assert path.exists()


def test_offline_goes_straight_to_the_lite_weights(hub, official, lite, monkeypatch):
    """With HF_HUB_OFFLINE nobody is asked, and the reason is given."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found, heard = resolve("auto")
    assert found.source == "lite"
    assert "HF_HUB_OFFLINE" in heard[0]
    assert hub.requests == []
