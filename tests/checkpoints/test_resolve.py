"""Resolving `--weights` to a verified file, and listing and verifying checkpoints."""

from __future__ import annotations

import hashlib
from dataclasses import replace

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
    """A tiny network in place of the official deraining checkpoint."""
    return publish("deraining", tiny("official.pth", seed=1).read_bytes())


@pytest.fixture
def lite(lite_folder):
    """A tiny network in place of the bundled deraining weights."""
    network = tiny_network(seed=2)
    path = lite_folder / catalog.TASKS["derain"].lite
    serialization.save_network(network.state_dict(), network.architecture, path)
    return path


def resolve(weights, name="deraining"):
    """Return the resolved checkpoint and the notes about it."""
    notes = []
    checkpoint = catalog.CHECKPOINTS[name]
    task = catalog.TASKS[checkpoint.task]
    return resolution.resolve_checkpoint(weights, checkpoint, task, notify=notes.append), notes


def test_the_task_of_a_file_is_known_from_its_hash_or_its_record(hub, official, tiny, tmp_path):
    """A copy of a published file, a trained file and files of the Hub name their task."""
    network = tiny_network(seed=3)
    for name, record in {"mine": {"task": "deblur"}, "odd": {"task": "dehaze"}, "bare": {}}.items():
        path = tmp_path / f"{name}.safetensors"
        serialization.save_network(network.state_dict(), network.architecture, path, record=record)
        hub.files[f"org/repo/{path.name}"] = path.read_bytes()
    copy = tmp_path / "renamed.pth"
    copy.write_bytes(hub.release["deraining.pth"])
    tasks = {
        "deraining": "derain",
        str(copy): "derain",
        "hf:deepinv/Restormer/deraining.pth": "derain",
        str(tmp_path / "mine.safetensors"): "deblur",
        "hf:org/repo/mine.safetensors": "deblur",
        str(tmp_path / "odd.safetensors"): None,
        str(tmp_path / "bare.safetensors"): None,
        str(tiny("plain.pth")): None,
    }
    assert {weights: resolve(weights)[0].task for weights in tasks} == tasks


def test_the_warning_of_another_task_names_both_and_the_command():
    """Weights of the same or an unknown task give no warning."""
    warning = resolution.task_warning("mine.pth", "derain", "denoise")
    assert warning == (
        "mine.pth is for derain, not for denoise: use `restormer derain`, or other weights"
    )
    assert resolution.task_warning("mine.pth", "derain", "derain") is None
    assert resolution.task_warning("mine.pth", None, "derain") is None


@pytest.mark.parametrize("weights", ["auto", "official", "deraining"])
def test_the_official_checkpoint_is_the_first_choice(official, lite, weights):
    """If the Hub answers, the official checkpoint is used without a note."""
    resolved, notes = resolve(weights)
    assert (resolved.name, resolved.source, resolved.licence) == ("deraining", "official", "MIT")
    assert resolved.sha256 == official.sha256 == sha256(resolved.path)
    assert notes == []


def test_auto_falls_back_to_the_bundled_weights(lite):
    """Without a network connection, the bundled weights are used, and a note gives the cause."""
    resolved, notes = resolve("auto")
    assert (resolved.name, resolved.source) == ("restormer-lite-derain", "lite")
    assert resolved.sha256 == sha256(lite)
    assert len(notes) == 1
    assert "Connection refused" in notes[0]
    assert "lite weights" in notes[0]


def test_auto_uses_the_cache(hub, official, lite):
    """A cached official checkpoint is used if the Hub cannot be reached."""
    resolve("official")
    hub.stop()
    resolved, notes = resolve("auto")
    assert resolved.source == "official"
    assert notes == []


def test_official_never_falls_back(lite):
    """`--weights official` gives the official checkpoint or an error."""
    with pytest.raises(CheckpointError, match="Connection refused"):
        resolve("official")


def test_wrong_content_does_not_fall_back(hub, official, lite):
    """Wrong content is an error, although lite weights are available."""
    hub.tampered[official.sha256] = b"something else"
    with pytest.raises(CheckpointError, match="wrong content"):
        resolve("auto")


def test_a_cached_file_is_verified_at_each_use(hub, official, lite):
    """A damaged file is removed from the cache, and the next run downloads it again."""
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
def test_lite_makes_no_request(hub, official, lite, weights):
    """`lite` and the name in the list give the bundled weights without a request."""
    assert resolve(weights)[0].path == lite
    assert hub.requests == []


@pytest.mark.parametrize("weights", ["auto", "lite"])
def test_missing_lite_weights_are_an_error(lite_folder, weights):
    """The hint names other values of `--weights`."""
    with pytest.raises(CheckpointError, match="no lite weights are bundled") as raised:
        resolve(weights)
    assert "weights" in raised.value.hint
    assert raised.value.exit_status == 3


def test_lite_weights_do_not_take_two_views(lite_folder, lite):
    """The bundled defocus weights take one image and are refused for two views."""
    (lite_folder / catalog.TASKS["defocus"].lite).write_bytes(lite.read_bytes())
    with pytest.raises(CheckpointError, match="two views"):
        resolve("lite", "dual_pixel_defocus_deblurring")


def test_a_path_names_a_file(tiny):
    """A user's file is hashed and named after itself."""
    path = tiny("my-own.pth")
    resolved, notes = resolve(str(path))
    assert (resolved.name, resolved.source, resolved.path) == ("my-own.pth", "file", path)
    assert resolved.sha256 == sha256(path)
    assert resolved.licence is None
    assert notes == []


def test_a_missing_path_lists_the_choices(tmp_path):
    """The hint for a misspelt name or path lists the values of `--weights`."""
    with pytest.raises(CheckpointError, match="no such file") as raised:
        resolve("deranining")
    assert "official" in raised.value.hint
    with pytest.raises(CheckpointError, match="is a folder"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("weights", "file"),
    [("hf:org/repo/model.pth", "model.pth"), ("hf:org/repo/a/b.pth@v1", "a/b.pth")],
)
def test_a_hub_file_is_downloaded(hub, tiny, weights, file):
    """A file may be in any repository, folder and revision of the Hub."""
    content = tiny().read_bytes()
    hub.files[f"org/repo/{file}"] = content
    hub.commits["v1"] = "e" * 40
    resolved, _ = resolve(weights)
    assert (resolved.name, resolved.source) == (f"org/repo/{file}", "hub")
    assert resolved.sha256 == hashlib.sha256(content).hexdigest()
    assert any(
        r.path.endswith(f"/resolve/{'v1' if '@' in weights else 'main'}/{file}")
        for r in hub.requests
    )


@pytest.mark.parametrize("weights", ["hf:", "hf:org", "hf:org/repo", "hf:org/repo/", "hf:/r/f"])
def test_an_incomplete_hub_name_is_refused(weights):
    """The hint for a name without organisation, repository or file shows the form."""
    with pytest.raises(CheckpointError, match="not a file of the Hub") as raised:
        resolve(weights)
    assert "hf:ORG/REPO/FILE" in raised.value.hint


def test_load_network_takes_a_task(official, lite):
    """A task's name loads its official checkpoint."""
    network = serialization.load_network("derain")
    assert torch.equal(network.output.weight, tiny_network(seed=1).output.weight)


def test_load_network_warns_of_lite_weights(lite):
    """A Python warning is issued if lite weights replace the official checkpoint."""
    with pytest.warns(UserWarning, match="lite weights"):
        network = serialization.load_network("derain")
    assert torch.equal(network.output.weight, tiny_network(seed=2).output.weight)


def test_load_network_takes_names_paths_and_hub_files(hub, official, tiny):
    """An official name, a path, a Hub file and a resolved checkpoint give the network."""
    path = tiny(seed=3)
    hub.files["org/repo/model.pth"] = path.read_bytes()
    for name, seed in [("deraining", 1), (path, 3), (str(path), 3), ("hf:org/repo/model.pth", 3)]:
        weight = serialization.load_network(name).output.weight
        assert torch.equal(weight, tiny_network(seed=seed).output.weight)
    assert serialization.load_network(resolve("official")[0]).architecture.dim == 8


@pytest.mark.parametrize("name", ["auto", "official", "lite"])
def test_load_network_needs_a_task(name):
    """Names that depend on a task are refused."""
    with pytest.raises(CheckpointError, match="does not name a task"):
        serialization.load_network(name)


def test_the_list_contains_every_checkpoint(hub, official, lite):
    """Official checkpoints and lite weights are listed with their state, without a request."""
    before = {row.name: row for row in resolution.list_checkpoints()}
    assert hub.requests == []
    assert len(before) == 13 + 4
    assert before["deraining"].state == "downloadable"
    assert before["restormer-lite-derain"].state == "bundled"
    assert before["restormer-lite-deblur"].state == "absent"
    assert before["motion_deblurring"].bytes == 104700429
    assert {row.licence for row in before.values()} == {"MIT"}
    resolved = resolution.pull_checkpoint(official)
    after = {row.name: row for row in resolution.list_checkpoints()}["deraining"]
    assert (after.state, after.path, after.sha256) == ("cached", resolved.path, official.sha256)


def test_verify_hashes_every_file_on_this_machine(hub, official, lite, monkeypatch):
    """Cached and bundled files are hashed; a damaged one is reported and not removed."""
    derain = replace(catalog.TASKS["derain"], lite_sha256=sha256(lite))
    monkeypatch.setitem(catalog.TASKS, "derain", derain)
    path = resolution.pull_checkpoint(official).path
    assert {v.name: v.ok for v in resolution.verify_checkpoints()} == {
        "deraining": True,
        "restormer-lite-derain": True,
    }
    lite.write_bytes(b"damaged")
    verdict = next(v for v in resolution.verify_checkpoints() if v.name == "restormer-lite-derain")
    assert verdict.ok is False
    path.resolve().chmod(0o600)
    path.resolve().write_bytes(b"damaged")
    verdict = next(v for v in resolution.verify_checkpoints() if v.name == "deraining")
    assert verdict.ok is False
    assert verdict.sha256 == sha256(path)
    assert path.exists()


def test_offline_uses_the_lite_weights(hub, official, lite, monkeypatch):
    """With HF_HUB_OFFLINE no request is made, and a note gives the cause."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    resolved, notes = resolve("auto")
    assert resolved.source == "lite"
    assert "HF_HUB_OFFLINE" in notes[0]
    assert hub.requests == []
