"""Downloads from a Hub and a release on loopback: caching, verification and failures."""

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

from restormer_cli.checkpoints import catalog, download
from restormer_cli.errors import CheckpointError

CONTENT = bytes(range(256)) * 512  # 128 KiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RAIN = "deraining"
BLUR = "motion_deblurring"
RAIN_ON_HUB = f"/{catalog.HUB_REPOSITORY}/resolve/{catalog.HUB_REVISION}/deraining.pth"


def fetch(checkpoint, notes=None):
    """Download a checkpoint; append notes to the list `notes`."""
    return download.fetch(checkpoint, notify=[].append if notes is None else notes.append)


def unavailable(checkpoint) -> download.UnavailableError:
    """Check that no source can deliver the file; return the error, with a hint and status 3."""
    with pytest.raises(download.UnavailableError) as raised:
        fetch(checkpoint)
    assert raised.value.hint
    assert raised.value.exit_status == 3
    return raised.value


def hub_unavailable(name="org/repo", file="model.pth", revision="main"):
    """Check that the Hub cannot deliver a file; return the error, with a hint."""
    with pytest.raises(download.UnavailableError) as raised:
        download.from_hub(name, file, revision)
    assert raised.value.hint
    return raised.value


class Terminal(io.StringIO):
    """A stderr that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def kept_files(home):
    """List the files of a cache that are larger than metadata."""
    return [p for p in home.rglob("*") if p.is_file() and p.stat().st_size > 1000]


def test_a_checkpoint_comes_from_the_pinned_revision(hub, publish):
    """The file is requested at the pinned commit and stored in huggingface_hub's cache."""
    checkpoint = publish(RAIN, CONTENT)
    path = fetch(checkpoint)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    assert {r.path for r in hub.file_requests()} == {RAIN_ON_HUB, f"/cdn/{SHA256}"}


def test_a_cached_checkpoint_needs_no_network(hub, publish):
    """A cached file is used without a request, also if the server is down."""
    checkpoint = publish(RAIN, CONTENT)
    first = fetch(checkpoint)
    count = len(hub.requests)
    assert fetch(checkpoint) == first
    assert len(hub.requests) == count
    hub.stop()
    assert fetch(checkpoint) == first


def test_a_dropped_download_is_resumed(hub, publish, monkeypatch):
    """After a dropped connection, only the rest is requested."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # 10 MB: more than is served
    checkpoint = publish(RAIN, CONTENT)
    hub.cuts.append(50_000)
    assert fetch(checkpoint).read_bytes() == CONTENT
    assert [r.headers.get("range") for r in hub.downloads()] == [None, "bytes=50000-"]


def test_the_token_goes_to_the_hub_but_not_to_the_cdn(hub, publish, monkeypatch):
    """HF_TOKEN is sent to the Hub and not to the target of its redirects."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(publish(RAIN, CONTENT))
    tokens = {r.path.split("/")[1]: r.headers.get("authorization") for r in hub.file_requests()}
    assert tokens == {"deepinv": "Bearer hf_secret", "cdn": None}


def test_a_file_with_wrong_content_is_removed(hub, publish, hf_home):
    """A wrong hash is an error, and the next attempt downloads the file again."""
    checkpoint = publish(RAIN, CONTENT)
    hub.tampered[SHA256] = CONTENT[:-1] + b"!"
    with pytest.raises(CheckpointError, match=r"deraining.pth: wrong content .*removed") as raised:
        fetch(checkpoint)
    assert not isinstance(raised.value, download.UnavailableError)
    assert raised.value.exit_status == 3
    assert kept_files(hf_home) == []
    hub.tampered.clear()
    assert fetch(checkpoint).read_bytes() == CONTENT


def test_a_file_without_a_known_hash_is_verified_with_the_hubs(hub, publish, hf_home):
    """The Hub's LFS hash is used if the table has none."""
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
def test_each_refusal_of_the_hub_has_its_message(hub, status, code, complaint, hint):
    """Each kind of refusal has its own cause and remedy, and is reported without retries."""
    hub.errors["/org/repo/"] = (status, code)
    began = time.monotonic()
    error = hub_unavailable()
    assert complaint in error.message
    assert "org/repo/model.pth" in error.message
    assert hint.lower() in error.hint.lower()
    assert time.monotonic() - began < 5


def test_a_missing_repository_revision_or_file_is_named(hub):
    """The message says whether the repository, the revision or the file is missing."""
    hub.files["org/repo/a/model.pth"] = CONTENT
    assert "no such repository" in hub_unavailable("org/other").message
    assert "no such revision" in hub_unavailable(revision="v9").message
    assert "no such file" in hub_unavailable(file="b/model.pth").message
    assert download.from_hub("org/repo", "a/model.pth", "main").read_bytes() == CONTENT


def test_a_failing_cdn_is_named(hub):
    """The Hub answers, but the storage behind it does not."""
    hub.files["org/repo/model.pth"] = CONTENT
    hub.errors["/cdn/"] = (503, "")
    assert "HTTP 503" in hub_unavailable().message


def test_a_refused_connection_is_named():
    """A refused connection is an error without retries."""
    began = time.monotonic()
    assert "Connection refused" in hub_unavailable().message
    assert time.monotonic() - began < 5


def test_a_branch_is_requested_again_but_its_cached_file_is_enough(hub):
    """The newest commit is used if the Hub answers, otherwise the cached one."""
    hub.files["org/repo/model.pth"] = CONTENT
    old = download.from_hub("org/repo", "model.pth", "main")
    hub.files["org/repo/model.pth"], hub.commits["main"] = CONTENT[::-1], "f" * 40
    new = download.from_hub("org/repo", "model.pth", "main")
    assert (old.read_bytes(), new.read_bytes()) == (CONTENT, CONTENT[::-1])
    hub.errors["/"] = (503, "")
    assert download.from_hub("org/repo", "model.pth", "main") == new
    hub.stop()
    assert download.from_hub("org/repo", "model.pth", "main") == new


def test_offline_makes_no_request(hub, publish, monkeypatch):
    """With HF_HUB_OFFLINE, an uncached file is an error that gives the cause."""
    cached, absent = publish(RAIN, CONTENT), publish(BLUR, CONTENT[::-1])
    path = fetch(cached)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(cached) == path
    assert "HF_HUB_OFFLINE" in unavailable(absent).message
    assert "HF_HUB_OFFLINE" in hub_unavailable().message
    assert hub.requests == []


def test_a_full_disk_is_named(hub, publish, monkeypatch):
    """The message gives the cause for both sources."""
    checkpoint = publish(RAIN, CONTENT)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    assert unavailable(checkpoint).message.count("No space left on device") == 2


def test_a_cache_that_cannot_be_written_is_named(hub, publish, hf_home):
    """A file in place of the cache folder is an error with its cause."""
    hf_home.write_text("in the way")
    assert "Not a directory" in unavailable(publish(BLUR, CONTENT)).message


def test_a_cache_that_cannot_be_read_is_named(publish, monkeypatch):
    """A cache folder of another user is an error with its name."""

    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/cache")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", fail)
    assert unavailable(publish(RAIN, CONTENT)).message == "/cache: Permission denied"


def test_a_name_that_cannot_be_a_repository_is_refused(hub):
    """An invalid repository name is refused without a request."""
    with pytest.raises(CheckpointError, match="or"):
        download.from_hub("org/bad..name", "model.pth", "main")
    assert hub.requests == []


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_progress_is_drawn_on_a_terminal(hub, publish, monkeypatch, name):
    """On a terminal, a progress bar on stderr names the file."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    download.fetch(publish(name, CONTENT), notify=print)
    assert f"{name}.pth" in terminal.getvalue()


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_nothing_is_drawn_into_a_file(hub, publish, capfd, name):
    """If stderr is no terminal, a download prints nothing to stderr or stdout."""
    download.fetch(publish(name, CONTENT), notify=print)
    assert capfd.readouterr() == ("", "")


def test_motion_deblurring_comes_from_the_release(hub, publish, hf_home):
    """A file that the Hub lacks is downloaded from the release only, and cached."""
    checkpoint = publish(BLUR, CONTENT)
    notes = []
    path = fetch(checkpoint, notes)
    assert path.read_bytes() == CONTENT
    assert path == hf_home / "restormer" / "motion_deblurring.pth"
    assert notes == []
    assert [r.path for r in hub.requests] == ["/release/motion_deblurring.pth", f"/cdn/{SHA256}"]
    hub.stop()
    assert fetch(checkpoint) == path


@pytest.mark.parametrize("status", [401, 404, 503])
def test_the_release_replaces_the_hub(hub, publish, status):
    """If the Hub refuses, the file comes from the release, and a note gives the cause."""
    checkpoint = publish(RAIN, CONTENT)
    hub.errors["/deepinv/"] = (status, "")
    notes = []
    assert fetch(checkpoint, notes).read_bytes() == CONTENT
    assert len(notes) == 1
    assert "GitHub release instead" in notes[0]


def test_a_release_file_is_verified_with_the_table(hub, publish, hf_home):
    """A file of the release with the wrong hash is removed."""
    checkpoint = publish(BLUR, CONTENT)
    hub.tampered[SHA256] = CONTENT[::-1]
    with pytest.raises(CheckpointError, match=r"motion_deblurring.pth: wrong content"):
        fetch(checkpoint)
    assert kept_files(hf_home) == []


def test_a_release_file_without_a_known_hash_is_reported(hub, publish):
    """A note reports the unknown hash, which is stored to detect later changes."""
    checkpoint = publish(RAIN, CONTENT, known=False)
    hub.errors["/deepinv/"] = (503, "")
    notes = []
    path = fetch(checkpoint, notes)
    assert "SHA-256 is not known" in notes[0]
    assert download.expected_sha256(path, checkpoint) == SHA256


def test_a_dropped_release_download_is_resumed(hub, publish):
    """The rest is requested again as long as each attempt adds bytes."""
    checkpoint = publish(BLUR, CONTENT)
    hub.cuts.extend([50_000, 30_000])
    assert fetch(checkpoint).read_bytes() == CONTENT
    ranges = [r.headers.get("range") for r in hub.downloads()]
    assert ranges == [None, "bytes=50000-", "bytes=80000-"]


def test_an_interrupted_release_download_is_resumed_by_the_next_run(hub, publish):
    """The partial file of a failed run is kept and completed later."""
    checkpoint = publish(BLUR, CONTENT)
    hub.cuts.extend([50_000, 0])
    assert "closed before the end" in unavailable(checkpoint).message
    assert fetch(checkpoint).read_bytes() == CONTENT
    assert hub.downloads()[-1].headers["range"] == "bytes=50000-"


def test_a_partial_file_longer_than_the_file_is_discarded(hub, publish, hf_home):
    """A partial file that is too long is downloaded again."""
    checkpoint = publish(BLUR, CONTENT)
    (hf_home / "restormer").mkdir(parents=True)
    (hf_home / "restormer" / "motion_deblurring.pth.incomplete").write_bytes(CONTENT + b"more")
    assert fetch(checkpoint).read_bytes() == CONTENT


def test_a_silent_server_times_out(hub, publish, monkeypatch):
    """A server that accepts a connection but never answers is an error."""
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    hub.stalled.append("/release/")
    assert "timed out" in unavailable(publish(BLUR, CONTENT)).message


def test_both_sources_failing_names_both_causes(hub, publish):
    """The message contains the causes of both the Hub and the release."""
    checkpoint = publish(RAIN, CONTENT)
    hub.errors.update({"/deepinv/": (503, ""), "/release/": (404, "")})
    message = unavailable(checkpoint).message
    assert "HTTP 503" in message
    assert "no such file" in message


def test_an_invalid_release_address_is_refused(publish, monkeypatch):
    """A local file as the release's address is not opened."""
    checkpoint = publish(BLUR, CONTENT)
    monkeypatch.setenv("RESTORMER_RELEASE_URL", "file:///etc")
    assert "is not a web address" in unavailable(checkpoint).message


@pytest.mark.parametrize("name", [RAIN, BLUR])
def test_two_processes_may_pull_at_once(hub, publish, name):
    """Two processes that download the same file at once both get all of it."""
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


def test_removal_follows_links_to_the_blob(hub, publish, hf_home):
    """A damaged cached file is removed with its blob, and then downloaded again."""
    checkpoint = publish(RAIN, CONTENT)
    path = fetch(checkpoint)
    path.resolve().chmod(0o600)
    path.resolve().write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match=str(path)):
        download.verify(path, download.expected_sha256(path, checkpoint))
    assert kept_files(hf_home) == []
    assert fetch(checkpoint).read_bytes() == CONTENT


def test_a_file_with_the_right_hash_is_kept(tmp_path):
    """Verification leaves a right file where it is."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    download.verify(path, SHA256)
    assert path.read_bytes() == CONTENT
