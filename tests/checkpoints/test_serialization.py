"""Strict loading of checkpoint files, and saving."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from restormer_cli.checkpoints import serialization
from restormer_cli.errors import CheckpointError
from restormer_cli.network.restormer import Architecture, Restormer
from tests.support.networks import DATA, OFFICIAL, TINY, tiny_network

IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def assert_refused(path: Path, complaint: str) -> CheckpointError:
    """Check that loading `path` raises an error with the file, the cause, a remedy and status 3."""
    with pytest.raises(CheckpointError, match=complaint) as raised:
        serialization.load_network(path)
    assert str(path) in raised.value.message
    assert raised.value.hint
    assert raised.value.exit_status == 3
    return raised.value


def assert_same_network(loaded: Restormer, expected: Restormer) -> None:
    assert loaded.architecture == expected.architecture
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGE), expected(IMAGE))


def test_a_network_loads_ready_to_run(tiny):
    """A file like the official ones loads in eval mode and fp32, on the CPU."""
    network = serialization.load_network(tiny())
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert_same_network(network, tiny_network())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"params": s},
        lambda s: {"params_ema": s},
        lambda s: {"state_dict": s, "epoch": 3, "loss": 0.1},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict": {"params": {f"module.module.{k}": v for k, v in s.items()}}},
    ],
    ids=["bare", "params", "params_ema", "state_dict", "module", "both", "nested"],
)
def test_wrappers_are_removed(tmp_path, wrap):
    """Keys and prefixes that training programs add to the weights are removed."""
    path = tmp_path / "wrapped.pth"
    torch.save(wrap(tiny_network().state_dict()), path)
    assert_same_network(serialization.load_network(path), tiny_network())


def test_the_average_is_preferred(tmp_path):
    """If a file has both, the moving average is loaded and not the last step."""
    path = tmp_path / "both.pth"
    average, last = tiny_network(seed=1), tiny_network(seed=2)
    torch.save({"params": last.state_dict(), "params_ema": average.state_dict()}, path)
    assert_same_network(serialization.load_network(path), average)


def test_the_old_torch_format_loads(tmp_path):
    """Files from torch before 1.6, which are not archives, load without a warning."""
    path = tmp_path / "old.pth"
    state = tiny_network().state_dict()
    torch.save({"params": state}, path, _use_new_zipfile_serialization=False)
    assert_same_network(serialization.load_network(path), tiny_network())


def test_safetensors_without_metadata_load(tmp_path):
    """A safetensors file is recognised by its content, and its architecture by its shapes."""
    path = tmp_path / "tiny.weights"
    safetensors.torch.save_file(tiny_network().state_dict(), path)
    assert_same_network(serialization.load_network(path), tiny_network())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_fp32(tmp_path, dtype):
    """Weights stored in two bytes are converted to four."""
    path = tmp_path / "half.pth"
    torch.save({k: v.to(dtype) for k, v in tiny_network().state_dict().items()}, path)
    network = serialization.load_network(path)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    expected = tiny_network().output.weight.to(dtype).float()
    assert torch.equal(network.output.weight, expected)


def test_a_loaded_network_does_not_depend_on_its_file(tiny):
    """Overwriting the file afterwards does not change the weights."""
    path = tiny()
    network = serialization.load_network(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same_network(network, tiny_network())


def test_a_loaded_network_can_be_trained(tiny):
    """The parameters of a loaded network take gradients."""
    network = serialization.load_network(tiny())
    network(IMAGE).mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    """A file that would run a command when unpickled is refused without running it."""
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    torch.save({"params": tiny_network().state_dict(), "extra": Evil()}, path)
    assert_refused(path, r"refused, because reading it would run code \(\w+\.system\)")
    assert not trace.exists()


def test_objects_in_a_pickle_are_refused(tmp_path):
    """The message names the object's class, so that its author can leave it out."""
    path = tmp_path / "options.pth"
    torch.save({"args": argparse.Namespace(lr=1), "params": tiny_network().state_dict()}, path)
    assert_refused(path, r"would run code \(argparse.Namespace\)")


def test_a_whole_module_is_refused(tmp_path):
    """A pickled network, rather than its state dict, is refused."""
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert_refused(path, "would run code")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_truncated_files_are_named(tmp_path, kind, share):
    """A truncated file is reported as such, for every format and length."""
    path = tmp_path / "cut.ckpt"
    state = tiny_network().state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(path, "damaged or cut short")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git-lfs pointer"),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "web page"),
        (b"\n  <html lang='en'>", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint"),
        (b"\x80\x02nonsense" * 20, "damaged"),
        (b"PK\x03\x04" + bytes(200), "damaged"),
        (b"\x10\0\0\0\0\0\0\0{not json at all}", "damaged"),
    ],
    ids=["empty", "lfs", "html", "html2", "png", "pickle", "zip", "safetensors"],
)
def test_other_files_are_recognised(tmp_path, content, complaint):
    """Files that are often mistaken for checkpoints are reported by their kind."""
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert_refused(path, complaint)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    """A folder and a missing file have different messages."""
    assert_refused(tmp_path, "is a folder")
    assert_refused(tmp_path / "none.pth", "no such file")


@pytest.mark.parametrize("content", [{}, [1, 2], {"params": {}}, {"loss": 0.5}, torch.ones(3)])
def test_files_without_weights_are_refused(tmp_path, content):
    """A readable file without weights is refused."""
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert_refused(path, "contains no state dict|are not weights")


def test_another_network_is_refused(tmp_path):
    """The message names a tensor that a Restormer network has."""
    path = tmp_path / "linear.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    assert_refused(path, "not a Restormer network .*patch_embed.proj.weight")


def save_changed(path: Path, change) -> Path:
    state = tiny_network().state_dict()
    change(state)
    torch.save({"params": state}, path)
    return path


def test_missing_weights_are_named(tmp_path):
    """A missing tensor is named."""
    path = save_changed(tmp_path / "m.pth", lambda s: s.pop("refinement.0.attn.temperature"))
    assert_refused(path, "refinement.0.attn.temperature missing")


def test_unexpected_weights_are_named_and_counted(tmp_path):
    """The first of many unexpected tensors are named, and the others are counted."""
    extra = {f"head.{i}.weight": torch.ones(1) for i in range(5)}
    path = save_changed(tmp_path / "u.pth", lambda s: s.update(extra))
    assert_refused(path, "head.0.weight, head.1.weight, head.2.weight and 2 more unexpected")


def test_wrong_shapes_are_named(tmp_path):
    """A tensor of the wrong shape is named with both shapes."""
    path = save_changed(
        tmp_path / "s.pth", lambda s: s.update({"down1_2.body.0.weight": torch.ones(4, 8, 1, 1)})
    )
    assert_refused(path, r"down1_2.body.0.weight \(4, 8, 1, 1\) instead of \(4, 8, 3, 3\)")


def test_inconsistent_widths_are_refused(tmp_path):
    """Feed-forward widths that no single expansion gives are refused."""
    name = "latent.0.ffn.project_in.weight"
    path = save_changed(tmp_path / "w.pth", lambda s: s.update({name: torch.ones(64, 64, 1, 1)}))
    assert_refused(path, "have no common expansion")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    """A tensor with NaN or infinity, which would give black images, is named."""
    path = save_changed(tmp_path / "n.pth", lambda s: s["output.weight"][0, 0, 0].fill_(value))
    assert_refused(path, "`output.weight` contains NaN or infinity")


def test_metadata_must_agree_with_the_weights(tmp_path):
    """An architecture in the metadata that differs from the tensors is refused."""
    path = tmp_path / "wrong.safetensors"
    serialization.save_network(tiny_network().state_dict(), replace(TINY, refinement=2), path)
    assert_refused(path, "refinement.1.*missing")


@pytest.mark.parametrize("text", ["{", "[]", '{"depth": 3}', '{"blocks": [1]}', '{"dim": "x"}'])
def test_invalid_metadata_are_refused(tmp_path, text):
    """Metadata that do not describe an architecture are an error."""
    path = tmp_path / "invalid.safetensors"
    state = tiny_network().state_dict()
    safetensors.torch.save_file(state, path, metadata={"architecture": text})
    assert_refused(path, "not a Restormer")


@pytest.mark.parametrize("variant", OFFICIAL)
def test_the_official_shapes_determine_the_architecture(variant):
    """The names and shapes of the published tensors give the published architecture."""
    published = json.loads((DATA / "official_keys.json").read_text())[variant]
    state = {name: torch.empty(shape, device="meta") for name, shape in published.items()}
    assert serialization.architecture_of(state) == OFFICIAL[variant]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_norm": "BiasFree"},
        {"in_channels": 1, "out_channels": 1},
        {"in_channels": 6, "dual_pixel": True},
        {"bias": True},
        {"blocks": (2, 1, 3, 2), "refinement": 4, "heads": (2, 4, 1, 8)},
        {"dim": 16, "expansion": 2.0},
        {"dim": 24, "expansion": 2.66},
        {"dim": 24, "expansion": 4.0},
        {"dim": 8, "expansion": 1.5},
    ],
)
def test_shapes_determine_the_architecture(changes):
    """The names and shapes of the tensors give the architecture."""
    architecture = replace(TINY, **changes)
    with torch.device("meta"):
        state = Restormer(architecture).state_dict()
    assert serialization.architecture_of(state) == architecture


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_norm": "BiasFree"},
        {"in_channels": 1, "out_channels": 1},
        {"in_channels": 6, "dual_pixel": True},
    ],
)
def test_a_saved_network_loads_again(tmp_path, changes):
    """Weights and architecture are equal after saving and loading, for every variant."""
    network, path = tiny_network(**changes), tmp_path / "new" / "saved.safetensors"
    serialization.save_network(network.state_dict(), network.architecture, path)
    again = serialization.load_network(path)
    assert again.architecture == network.architecture
    state = again.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in network.state_dict().items())


def test_metadata_keep_the_exact_expansion(tmp_path):
    """Shapes determine the expansion only up to rounding."""
    network, path = tiny_network(expansion=2.6601), tmp_path / "saved.safetensors"
    serialization.save_network(network.state_dict(), network.architecture, path)
    assert serialization.load_network(path).architecture.expansion == 2.6601


def test_saving_in_fp16_halves_the_file(tmp_path):
    """fp16 takes half the bytes and loads as the same values in fp32."""
    network = tiny_network()
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    serialization.save_network(network.state_dict(), TINY, full)
    serialization.save_network(network.state_dict(), TINY, half, dtype=torch.float16)
    assert half.stat().st_size < 0.65 * full.stat().st_size
    again = serialization.load_network(half)
    assert torch.equal(again.output.weight, network.output.weight.half().float())


def test_the_record_is_in_the_metadata(tmp_path):
    """The provenance of the weights is stored with them."""
    path = tmp_path / "saved.safetensors"
    serialization.save_network(tiny_network().state_dict(), TINY, path, record={"steps": 7})
    _, metadata = serialization.read(path)
    assert json.loads(metadata["record"]) == {"steps": 7}
    assert Architecture.from_dict(json.loads(metadata["architecture"])) == TINY
    assert metadata["format"] == "pt"


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    """If writing fails, the old file is unchanged and no temporary file is left."""
    path = tmp_path / "saved.safetensors"
    serialization.save_network(tiny_network().state_dict(), TINY, path)
    before = path.read_bytes()

    def fail(descriptor):
        os.truncate(descriptor, len(before) // 2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space left"):
        serialization.save_network(tiny_network(seed=1).state_dict(), TINY, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_saved_weights_can_be_read_by_others(tmp_path):
    """The file has the permissions of any other new file."""
    path, other = tmp_path / "weights.safetensors", tmp_path / "other"
    other.touch()
    network = tiny_network()
    serialization.save_network(network.state_dict(), network.architecture, path)
    assert path.stat().st_mode == other.stat().st_mode


def test_too_little_memory_is_not_damage(tiny, monkeypatch):
    """A checkpoint that does not fit into memory is not reported as damaged."""

    def load(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    path = tiny()
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(CheckpointError, match=f"not enough memory to load {path}"):
        serialization.load_network(str(path))
