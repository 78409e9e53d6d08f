"""Downloads from a Hub and a release on loopback: what comes, what is kept, what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

from restormer_cli.checkpoints import catalog, download
from restormer_cli.errors import CheckpointError

CONTENT = bytes(range(256)) * 512  # 128 KiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RAIN = "deraining"
BLUR = "motion_deblurring"
RAIN_ON_HUB = f"/{catalog.HUB_REPOSITORY}/resolve/{catalog.HUB_REVISION}/deraining.pth"


def fetch(checkpoint, heard=None):
    """Download quietly; what `notify` is told goes to the list `heard`."""
    return download.fetch(checkpoint, notify=[].append if heard is None else heard.append)


def unavailable(checkpoint) -> download.UnavailableError:
    """Fetching fails because no source has the file, with a remedy and status 3."""
    with pytest.raises(download.UnavailableError) as raised:
        fetch(checkpoint)
    assert raised.value.hint
    assert raised.value.exit_status == 3
    return raised.value


def hub_unavailable(name="org/repo", file="model.pth", revision="main"):
    """The same for any file of the Hub, which no release stands in for."""
    with pytest.raises(download.UnavailableError) as raised:
        download.from_hub(name, file, revision)
    assert raised.value.hint
    return raised.value


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def kept_files(home):
    """The files of a cache that hold content."""
    return [p for p in home.rglob("*") if p.is_file() and p.stat().st_size > 1000]


# --- the Hub ------------------------------------------------------------------------------------


def test_a_checkpoint_comes_from_the_pinned_revision(hub, publish):
    """The file is asked for at the pinned commit, and lands in huggingface_hub's cache."""
    checkpoint = publish(RAIN, CONTENT)
    path = fetch(checkpoint)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    assert {r.path for r in hub.file_requests()} == {RAIN_ON_HUB, f"/cdn/{SHA256}"}


def test_a_cached_checkpoint_needs_no_network(hub, publish):
    """Once it is cached, nothing is asked of anyone, and the server may be gone."""
    checkpoint = publish(RAIN, CONTENT)
    first = fetch(checkpoint)
    asked = len(hub.requests)
    assert fetch(checkpoint) == first
    assert len(hub.requests) == asked
    hub.stop()
    assert fetch(checkpoint) == first


def test_a_dropped_download_is_resumed(hub, publish, monkeypatch):
    """When the connection drops, the rest is asked for from where it ended."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB: more than is served
    checkpoint = publish(RAIN, CONTENT)
    hub.cuts.append(50_000)
    assert fetch(checkpoint).read_bytes() == CONTENT
    assert [r.headers.get("range") for r in hub.downloads()] == [None, "bytes=50000-"]


def test_the_token_goes_to_the_hub_but_not_to_the_cdn(hub, publish, monkeypatch):
    """HF_TOKEN is sent with the Hub's requests, and not to where they redirect."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(publish(RAIN, CONTENT))
    tokens = {r.path.split("/")[1]: r.headers.get("authorization") for r in hub.file_requests()}
    assert tokens == {"deepinv": "Bearer hf_secret", "cdn": None}


def test_wrong_bytes_are_removed_and_named(hub, publish, hf_home):
    """What does not hash to the table's value is an error, and nothing of it stays."""
    checkpoint = publish(RAIN, CONTENT)
    hub.tampered[SHA256] = CONTENT[:-1] + b"!"
    with pytest.raises(CheckpointError, match=r"deraining.pth: wrong content .*removed") as raised:
        fetch(checkpoint)
    assert not isinstance(raised.value, download.UnavailableError)
    assert raised.value.exit_status == 3
    assert kept_files(hf_home) == []
    hub.tampered.clear()
    assert fetch(checkpoint).read_bytes() == CONTENT


def test_without_a_known_hash_the_hubs_own_is_the_reference(hub, publish, hf_home):
    """A file whose hash is not in the table is held to the Hub's LFS hash."""
    checkpoint = publish(RAIN, CONTENT, known=False)
    hub.tampered[SHA256] = CONTENT[::-1]
    with pytest.raises(CheckpointError, match="wrong content"):
        fetch(checkpoint)
    assert kept_files(hf_home) == []
    hub.tampered.clear()
    path = fetch(checkpoint)
    assert download.expected_sha256(path, checkpoint) == SHA256


@pytest.mark.parametrize(
    ("status", "code", "complaint", "hint"),
    [
        (401, "", "access was refused", "HF_TOKEN"),
        (403, "", "access was refused", "HF_TOKEN"),
        (403, "GatedRepo", "restricted", "HF_TOKEN"),
        (404, "RepoNotFound", "no such repository", "HF_TOKEN"),
        (404, "RevisionNotFound", "no such revision", "@"),
        (404, "EntryNotFound", "no such file", "name"),
        (503, "", "HTTP 503", "later"),
    ],
)
def test_the_hubs_refusals_are_told_apart(hub, status, code, complaint, hint):
    """Each way in which the Hub says no has its own cause and remedy, and takes no time."""
    hub.errors["/org/repo/"] = (status, code)
    began = time.monotonic()
    error = hub_unavailable()
    assert complaint in error.message
    assert "org/repo/model.pth" in error.message
    assert hint.lower() in error.hint.lower()
    assert time.monotonic() - began < 5


def test_missing_things_are_told_apart(hub):
    """A repository, revision or file that is not there is named as such."""
    hub.files["org/repo/a/model.pth"] = CONTENT
    assert "no such repository" in hub_unavailable("org/other").message
    assert "no such revision" in hub_unavailable(revision="v9").message
    assert "no such file" in hub_unavailable(file="b/model.pth").message
    assert download.from_hub("org/repo", "a/model.pth", "main").read_bytes() == CONTENT


def test_a_failing_cdn_is_named(hub):
    """The Hub may answer while the storage behind it does not."""
    hub.files["org/repo/model.pth"] = CONTENT
    hub.errors["/cdn/"] = (503, "")
    assert "HTTP 503" in hub_unavailable().message


def test_a_refused_connection_is_named():
    """With nothing listening, the error says so at once."""
    began = time.monotonic()
    assert "Connection refused" in hub_unavailable().message
    assert time.monotonic() - began < 5


def test_a_branch_is_looked_up_again_but_its_cached_file_will_do(hub):
    """A branch's newest commit is used while the Hub answers, the cached one when it is down."""
    hub.files["org/repo/model.pth"] = CONTENT
    old = download.from_hub("org/repo", "model.pth", "main")
    hub.files["org/repo/model.pth"], hub.commits["main"] = CONTENT[::-1], "f" * 40
    new = download.from_hub("org/repo", "model.pth", "main")
    assert (old.read_bytes(), new.read_bytes()) == (CONTENT, CONTENT[::-1])
    hub.errors["/"] = (503, "")
    assert download.from_hub("org/repo", "model.pth", "main") == new
    hub.stop()
    assert download.from_hub("org/repo", "model.pth", "main") == new


def test_offline_asks_nobody(hub, publish, monkeypatch):
    """With HF_HUB_OFFLINE neither the Hub nor the release is asked, and the error says why."""
    cached, absent = publish(RAIN, CONTENT), publish(BLUR, CONTENT[::-1])
    path = fetch(cached)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(cached) == path
    assert "HF_HUB_OFFLINE" in unavailable(absent).message
    assert "HF_HUB_OFFLINE" in hub_unavailable().message
    assert hub.requests == []


def test_a_full_disk_is_named(hub, publish, monkeypatch):
    """When there is no room for the file, that is the cause given."""
    checkpoint = publish(RAIN, CONTENT)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr(download, "_download", fail)
    assert unavailable(checkpoint).message.count("No space left on device") == 2


def test_a_cache_that_cannot_be_written_is_named(hub, publish, hf_home):
    """A file where the cache folder should be is an error with its cause, not a crash."""
    hf_home.write_text("in the way")
    assert "Not a directory" in unavailable(publish(BLUR, CONTENT)).message


def test_a_cache_that_cannot_be_read_is_named(publish, monkeypatch):
    """A cache folder that belongs to somebody else is an error with its name."""

    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/cache")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", fail)
    assert unavailable(publish(RAIN, CONTENT)).message == "/cache: Permission denied"


def test_a_name_that_cannot_be_a_repository_is_refused(hub):
    """What the Hub does not allow as a name is refused before anything is asked."""
    with pytest.raises(CheckpointError, match="or"):
        download.from_hub("org/bad..name", "model.pth", "main")
    assert hub.requests == []


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_progress_is_drawn_on_a_terminal(hub, publish, monkeypatch, name):
    """On a terminal a bar on stderr names the file; whoever wants none gets none."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    download.fetch(publish(name, CONTENT), notify=print)
    assert f"{name}.pth" in terminal.getvalue()


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_progress_can_be_turned_off(hub, publish, monkeypatch, name):
    """Without progress nothing is drawn, and huggingface_hub's bars are as before afterwards."""
    terminal, before = Terminal(), are_progress_bars_disabled()
    monkeypatch.setattr(sys, "stderr", terminal)
    download.fetch(publish(name, CONTENT), notify=print, progress=False)
    assert terminal.getvalue() == ""
    assert are_progress_bars_disabled() == before


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_nothing_is_drawn_into_a_file(hub, publish, capfd, name):
    """Where stderr is no terminal, a download leaves no trace on it, nor on stdout."""
    download.fetch(publish(name, CONTENT), notify=print)
    assert capfd.readouterr() == ("", "")


# --- the release --------------------------------------------------------------------------------


def test_motion_deblurring_comes_from_the_release(hub, publish, hf_home):
    """What the Hub lacks is taken from the release without asking the Hub, and kept."""
    checkpoint = publish(BLUR, CONTENT)
    heard = []
    path = fetch(checkpoint, heard)
    assert path.read_bytes() == CONTENT
    assert path == hf_home / "restormer" / "motion_deblurring.pth"
    assert heard == []
    assert [r.path for r in hub.requests] == ["/release/motion_deblurring.pth", f"/cdn/{SHA256}"]
    hub.stop()
    assert fetch(checkpoint) == path


@pytest.mark.parametrize("status", [401, 404, 503])
def test_the_release_stands_in_for_the_hub(hub, publish, status):
    """While the Hub refuses, the same bytes come from the release, and one is told."""
    checkpoint = publish(RAIN, CONTENT)
    hub.errors["/deepinv/"] = (status, "")
    heard = []
    assert fetch(checkpoint, heard).read_bytes() == CONTENT
    assert len(heard) == 1
    assert "GitHub release instead" in heard[0]


def test_the_release_is_held_to_the_table(hub, publish, hf_home):
    """Wrong bytes from the release are removed and named like those from the Hub."""
    checkpoint = publish(BLUR, CONTENT)
    hub.tampered[SHA256] = CONTENT[::-1]
    with pytest.raises(CheckpointError, match=r"motion_deblurring.pth: wrong content"):
        fetch(checkpoint)
    assert kept_files(hf_home) == []


def test_a_release_file_without_a_known_hash_is_said_to_be_unverified(hub, publish):
    """Where nothing says what the file should be, one is told; later changes are still noticed."""
    checkpoint = publish(RAIN, CONTENT, known=False)
    hub.errors["/deepinv/"] = (503, "")
    heard = []
    path = fetch(checkpoint, heard)
    assert "SHA-256 is not known" in heard[0]
    assert download.expected_sha256(path, checkpoint) == SHA256


def test_a_dropped_release_download_is_resumed(hub, publish):
    """The rest is asked for as long as each try brings something."""
    checkpoint = publish(BLUR, CONTENT)
    hub.cuts.extend([50_000, 30_000])
    assert fetch(checkpoint).read_bytes() == CONTENT
    ranges = [r.headers.get("range") for r in hub.downloads()]
    assert ranges == [None, "bytes=50000-", "bytes=80000-"]


def test_an_interrupted_release_download_goes_on_next_time(hub, publish):
    """What an earlier run left is kept when the server drops every connection, and used later."""
    checkpoint = publish(BLUR, CONTENT)
    hub.cuts.extend([50_000, 0])
    assert "closed before the end" in unavailable(checkpoint).message
    assert fetch(checkpoint).read_bytes() == CONTENT
    assert hub.downloads()[-1].headers["range"] == "bytes=50000-"


def test_leftovers_longer_than_the_file_are_dropped(hub, publish, hf_home):
    """A leftover that cannot be the file's beginning is discarded, not appended to."""
    checkpoint = publish(BLUR, CONTENT)
    (hf_home / "restormer").mkdir(parents=True)
    (hf_home / "restormer" / "motion_deblurring.pth.incomplete").write_bytes(CONTENT + b"more")
    assert fetch(checkpoint).read_bytes() == CONTENT


def test_a_silent_server_is_given_up(hub, publish, monkeypatch):
    """A server that accepts and never answers does not hang us."""
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
    hub.stalled.append("/release/")
    assert "timed out" in unavailable(publish(BLUR, CONTENT)).message


def test_both_sources_failing_names_both_causes(hub, publish):
    """When neither source can serve, the message tells what each of them said."""
    checkpoint = publish(RAIN, CONTENT)
    hub.errors.update({"/deepinv/": (503, ""), "/release/": (404, "")})
    message = unavailable(checkpoint).message
    assert "HTTP 503" in message
    assert "no such file" in message


def test_a_release_address_that_is_none_is_refused(publish, monkeypatch):
    """A release address that is no web address is named, not opened."""
    checkpoint = publish(BLUR, CONTENT)
    monkeypatch.setenv("RESTORMER_RELEASE_URL", "file:///etc")
    assert "is not a web address" in unavailable(checkpoint).message


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_two_processes_may_pull_at_once(hub, publish, name):
    """Two processes that want the same file at the same time both get it whole."""
    publish(name, CONTENT * 40)
    script = (
        "import dataclasses, hashlib, sys\n"
        "from restormer_cli.checkpoints import catalog, download\n"
        "from restormer_cli.files import atomic\n"
        f"c = dataclasses.replace(catalog.CHECKPOINTS[{name!r}], sha256=sys.argv[1])\n"
        "path = download.fetch(c, notify=print)\n"
        "print(atomic.sha256_file(path))\n"
    )
    expected = hashlib.sha256(CONTENT * 40).hexdigest()
    command = [sys.executable, "-W", "error", "-c", script, expected]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(2)
    ]
    assert [process.communicate(timeout=60) for process in running] == [(f"{expected}\n", "")] * 2


# --- verifying ----------------------------------------------------------------------------------


def test_removal_follows_links_to_the_blob(hub, publish, hf_home):
    """A cached file that was damaged is removed with its blob, and then downloaded anew."""
    checkpoint = publish(RAIN, CONTENT)
    path = fetch(checkpoint)
    path.resolve().chmod(0o600)
    path.resolve().write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match=str(path)):
        download.verify(path, download.expected_sha256(path, checkpoint))
    assert kept_files(hf_home) == []
    assert fetch(checkpoint).read_bytes() == CONTENT


def test_verify_returns_the_hash(tmp_path):
    """A right file, and one of which nothing is known, are hashed and left alone."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert download.verify(path, SHA256) == download.verify(path, None) == SHA256
    assert path.exists()
