"""What the tests share: no way out to the real Hub, a Hub of their own, and tiny checkpoints."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch
from huggingface_hub import constants, file_download

import restormer_cli
from restormer_cli.checkpoints import catalog, resolve
from restormer_cli.cli import app
from tests.support.hub import Hub
from tests.support.networks import tiny_network
from tests.support.program import PROGRAM, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Tiny networks gain nothing from threads, which on a busy machine wait for each other at length.
torch.set_num_threads(1)

# Nor does a busy machine's clock say anything about an example.
hypothesis.settings.register_profile("restormer", deadline=None)
hypothesis.settings.load_profile("restormer")

NOWHERE = "http://127.0.0.1:9"
"""Where nothing listens: connections are refused at once."""


def point_to(endpoint: str, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send all downloads to these addresses, those of subprocesses too."""
    # huggingface_hub read its environment when it was imported: hence both.
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("RESTORMER_RELEASE_URL", release)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Before 1.0 the module that uses the template kept its own reference.
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture(autouse=True)
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no token, no settings of the developer's, and no way to the real Hub."""
    for name in [n for n in os.environ if n.startswith(("HF_", "RESTORMER_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "hf-home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_to(NOWHERE, NOWHERE, monkeypatch)
    return home


@pytest.fixture
def hub(hf_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running Hub and release, which all downloads go to."""
    hub = Hub()
    hub.start()
    point_to(hub.endpoint, hub.release_url, monkeypatch)
    yield hub
    hub.stop()


@pytest.fixture
def publish(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., catalog.Checkpoint]:
    """Put content in an official checkpoint's place: on the Hub, in the release, in the table."""

    def publish(name: str, content: bytes, *, known: bool = True) -> catalog.Checkpoint:
        digest = hashlib.sha256(content).hexdigest() if known else None
        checkpoint = replace(catalog.CHECKPOINTS[name], sha256=digest, bytes=len(content))
        monkeypatch.setitem(catalog.CHECKPOINTS, name, checkpoint)
        hub.release[checkpoint.file] = content
        if checkpoint.on_hub:
            hub.files[f"{catalog.HUB_REPOSITORY}/{checkpoint.file}"] = content
        return checkpoint

    return publish


@pytest.fixture
def lite_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that takes the place of the bundled lite weights'."""
    folder = tmp_path / "lite"
    folder.mkdir()
    monkeypatch.setattr(resolve, "LITE_FOLDERS", (folder,))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny network's checkpoint as the official ones are; `changes` to its architecture."""

    def tiny(name: str = "tiny.pth", *, seed: int = 0, **changes: Any) -> Path:
        path = tmp_path / name
        torch.save({"params": tiny_network(seed, **changes).state_dict()}, path)
        return path

    return tiny


@pytest.fixture
def identity(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny checkpoint that restores every image to itself: only the residual is left."""

    def identity(name: str = "identity.pth", **changes: Any) -> Path:
        network = tiny_network(**changes)
        torch.nn.init.zeros_(network.output.weight)
        path = tmp_path / name
        torch.save({"params": network.state_dict()}, path)
        return path

    return identity


@pytest.fixture
def restormer(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Outcome]:
    """Run the command line within this process, which has torch imported already."""

    def restormer(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            app.main([str(argument) for argument in arguments])
        stdout, stderr = capsysbinary.readouterr()
        assert isinstance(left.value.code, int)
        return Outcome(left.value.code, stdout, stderr.decode())

    return restormer


@pytest.fixture
def weights(identity: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make every command use a network that restores images to themselves."""
    path = identity()
    monkeypatch.setenv("RESTORMER_WEIGHTS", str(path))
    monkeypatch.setenv("RESTORMER_DEVICE", "cpu")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, from which other processes find the package as well."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(restormer_cli.__file__).parents[1]))
    return folder


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the program, in a group of processes as a shell does; wait until it has restored."""
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, *PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout
        while b'"restored"' not in process.stdout.readline():
            assert process.poll() is None
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
