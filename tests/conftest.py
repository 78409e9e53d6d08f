"""Fixtures for all tests: the program, a local Hub instead of the real one, tiny checkpoints."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tests run in parallel, so more threads would only compete for the cores. PyTorch reads the
# variable on import, and subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

# Kernels of Triton run in its interpreter. Triton decides it on import, and PyTorch may import it
# in any test.
os.environ["TRITON_INTERPRET"] = "1"

# A shell lets its background jobs ignore Ctrl-C, and subprocesses inherit this, too: tests that
# interrupt one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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

# Examples take arbitrarily long on a busy machine.
hypothesis.settings.register_profile("restormer", deadline=None)
hypothesis.settings.load_profile("restormer")

CLOSED_PORT = "http://127.0.0.1:9"
"""Address that refuses connections at once."""


def redirect_downloads(endpoint: str, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send all downloads, also those of subprocesses, to these addresses."""
    # huggingface_hub read the environment when it was imported, so its constants change too.
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("RESTORMER_RELEASE_URL", release)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Before 1.0 the module that uses the template kept its own reference.
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture(autouse=True)
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty cache, without the developer's settings and token or the real Hub."""
    for name in [n for n in os.environ if n.startswith(("HF_", "RESTORMER_"))]:
        monkeypatch.delenv(name)
    # Its tests turn it on; the results of all others are to be the same on every CPU.
    monkeypatch.setenv("RESTORMER_NATIVE", "off")
    home = tmp_path / "hf-home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    redirect_downloads(CLOSED_PORT, CLOSED_PORT, monkeypatch)
    return home


@pytest.fixture(autouse=True)
def no_last_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the handlers of signals: the program changes them for the end of its process."""
    monkeypatch.setattr(app, "keep_status", lambda _: None)


@pytest.fixture
def hub(hf_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a server for the Hub and the release, and send all downloads to it."""
    hub = Hub()
    hub.start()
    redirect_downloads(hub.endpoint, hub.release_url, monkeypatch)
    yield hub
    hub.stop()


@pytest.fixture
def publish(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., catalog.Checkpoint]:
    """Replace an official checkpoint's content: on the Hub, in the release and in the catalog."""

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
    """Replace the folder of the bundled lite weights with an empty one."""
    folder = tmp_path / "lite"
    folder.mkdir()
    monkeypatch.setattr(resolve, "LITE_FOLDERS", (folder,))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write the checkpoint of a tiny network in the official format."""

    def tiny(name: str = "tiny.pth", *, seed: int = 0, **changes: Any) -> Path:
        path = tmp_path / name
        torch.save({"params": tiny_network(seed, **changes).state_dict()}, path)
        return path

    return tiny


@pytest.fixture
def identity(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny checkpoint whose network returns its input unchanged."""

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
    """Run the program in this process, to avoid importing PyTorch again."""

    def restormer(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_info:
            app.main([str(argument) for argument in arguments])
        stdout, stderr = capsysbinary.readouterr()
        assert isinstance(exit_info.value.code, int)
        return Outcome(exit_info.value.code, stdout, stderr.decode())

    return restormer


@pytest.fixture
def weights(identity: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make every command use a network that returns its input unchanged."""
    path = identity()
    monkeypatch.setenv("RESTORMER_WEIGHTS", str(path))
    monkeypatch.setenv("RESTORMER_DEVICE", "cpu")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, from which subprocesses can import the package."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(restormer_cli.__file__).parents[1]))
    return folder


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the program in a process group and wait until it has restored an image."""
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603
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
