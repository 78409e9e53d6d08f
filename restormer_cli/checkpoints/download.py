"""Download official checkpoints and other Hub files, cache them, and verify them at each use.

The Hub is used through huggingface_hub, with its cache and environment variables. The author's
GitHub release replaces it for files that it lacks or cannot deliver; these are cached in
`HF_HOME/restormer`. This module does not import torch.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined] # documented names
    WeakFileLock,
    logging,
    tqdm,
)

from ..callbacks import Notify
from ..errors import CheckpointError
from ..files import sha256_file
from ..text import first_line, reason
from .catalog import GITHUB_RELEASE, HUB_REPOSITORY, HUB_REVISION, Checkpoint
from .file_errors import unreadable_error

TIMEOUT = 15  # seconds without a byte after which a download fails
_CHUNK = 1 << 20  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")

# The bases of HfHubHTTPError belong to the HTTP library that this version of huggingface_hub uses:
# requests or httpx. Its transfer library hf_xet raises RuntimeError.
_FAILURES = cast(
    "tuple[type[Exception], ...]", (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)
)

# Weights are named by several options and arguments, so no remedy names one of these.
_WITHOUT_DOWNLOAD = "use a file or the bundled lite weights (see `restormer weights list`)."

# Cause and remedy of a failed download, by exception and by HTTP status.
_CAUSES: dict[type[Exception], tuple[str, str]] = {  # a subclass before its base class
    GatedRepoError: ("access is restricted", "Request access on its page, then set HF_TOKEN."),
    RepositoryNotFoundError: (
        "no such repository, or it is private",
        "Check its name; set HF_TOKEN if it is private.",
    ),
    RevisionNotFoundError: ("no such revision", "Check the revision after @."),
}
_REFUSED = "Set HF_TOKEN to a valid token with access, or unset it if the file is public."
_STATUSES = {
    401: ("access was refused (HTTP 401)", _REFUSED),
    403: ("access was refused (HTTP 403)", _REFUSED),
    404: ("no such file", "Check the name; the file may have been moved."),
}


class UnavailableError(CheckpointError):
    """A checkpoint cannot be downloaded or stored; `--weights auto` uses the lite weights instead.

    Wrong content is a plain `CheckpointError`, without a fallback.
    """


def cached_file(checkpoint: Checkpoint) -> Path | None:
    """Return the cached file of an official checkpoint, or None; makes no request."""
    if path := _cached_from_hub(HUB_REPOSITORY, checkpoint.file, HUB_REVISION):
        return path
    path = _release_file(checkpoint)
    return path if path.is_file() else None


def is_offline() -> bool:
    """Return True if HF_HUB_OFFLINE forbids downloads."""
    return bool(constants.HF_HUB_OFFLINE)


def fetch(checkpoint: Checkpoint, *, notify: Notify) -> Path:
    """Return the file of an official checkpoint, from the cache, the Hub or the GitHub release.

    `notify` is called with a sentence if the release replaces the Hub.

    Raises:
        UnavailableError: no source has the file or can be reached.
        CheckpointError: the downloaded file has the wrong SHA-256; it was removed.
    """
    if path := cached_file(checkpoint):
        return path
    if is_offline():
        raise UnavailableError(
            f"{checkpoint.file} is not cached, and HF_HUB_OFFLINE forbids downloading it",
            f"Run `restormer weights pull {checkpoint.name}` while online and without that "
            f"variable, or {_WITHOUT_DOWNLOAD}",
        )
    if not checkpoint.on_hub:
        return from_release(checkpoint)
    try:
        return from_hub(HUB_REPOSITORY, checkpoint.file, HUB_REVISION)
    except UnavailableError as error:
        failure = error
    try:
        path = from_release(checkpoint)
    except UnavailableError as error:
        raise UnavailableError(f"{failure.message}; {error.message}", failure.hint) from error
    unverified = "" if checkpoint.sha256 else "; its SHA-256 is not known"
    notify(f"{failure.message}; downloaded it from the GitHub release instead{unverified}")
    return path


def from_hub(repository: str, file: str, revision: str) -> Path:
    """Return a file of a Hub repository; download it unless it is cached.

    For a branch, the newest commit is requested first; if that fails, the cached file is used. A
    downloaded file is verified with the Hub's hash.

    Raises:
        UnavailableError: the file does not exist, or cannot be downloaded or stored.
        CheckpointError: the downloaded file has the wrong SHA-256; it was removed.
    """
    cached = _cached_from_hub(repository, file, revision)
    if cached and (is_offline() or re.fullmatch(r"[0-9a-f]{40}", revision)):
        return cached
    name = f"{repository}/{file}"
    if is_offline():
        raise UnavailableError(
            f"{name} is not cached, and HF_HUB_OFFLINE forbids downloading it",
            "Unset HF_HUB_OFFLINE, or name a file on this machine.",
        )
    with _quiet_hub_log():
        try:
            # Without this request, hf_hub_download would retry for half a minute.
            url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
            etag = huggingface_hub.get_hf_file_metadata(url).etag or ""
            path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        except _FAILURES as error:
            if cached and not isinstance(error, (RevisionNotFoundError, EntryNotFoundError)):
                return cached
            raise _unavailable(f"{name} from {constants.ENDPOINT}", error) from error
    if _SHA256.fullmatch(etag):
        verify(path, etag)
    return path


def from_release(checkpoint: Checkpoint) -> Path:
    """Return an official checkpoint from the release or its mirror `RESTORMER_RELEASE_URL`.

    Interrupted downloads are resumed, also by a later run.

    Raises:
        UnavailableError: the release cannot be reached, or the file cannot be stored.
        CheckpointError: the downloaded file has the wrong SHA-256; it was removed.
    """
    base = os.environ.get("RESTORMER_RELEASE_URL", GITHUB_RELEASE).rstrip("/")
    url = f"{base}/{checkpoint.file}"
    path = _release_file(checkpoint)
    partial = path.with_name(f"{path.name}.incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(f".{path.name}.lock")), _quiet_hub_log():
            if path.is_file():  # another process downloaded it
                return path
            _download(url, partial)
            if checkpoint.sha256:
                verify(partial, checkpoint.sha256, name=url)
            else:
                _hash_file(path).write_text(f"{file_sha256(partial)}\n", encoding="ascii")
            partial.replace(path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unavailable(url, error) from error
    return path


def expected_sha256(path: Path, checkpoint: Checkpoint | None = None) -> str | None:
    """Return the SHA-256 that a cached file must have, or None if it is unknown.

    It is in the table of checkpoints, in the name of the blob that a file from the Hub links to,
    or in the file that was written next to a file from the release.
    """
    if checkpoint is not None and checkpoint.sha256:
        return checkpoint.sha256
    if path.is_symlink() and _SHA256.fullmatch(blob := path.readlink().name):
        return blob
    stored = _hash_file(path)
    return stored.read_text(encoding="ascii").strip() if stored.is_file() else None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a checkpoint file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return sha256_file(path)
    except OSError as error:
        raise unreadable_error(path, error) from error


def verify(path: Path, sha256: str, *, name: str | None = None) -> None:
    """Compare a file with its SHA-256, and remove the file if it differs.

    Cached checkpoints are verified at each use, which takes 0.1 s per 100 MB, because a flipped bit
    on the disk would alter images unnoticed. Messages contain `name` or else the path.

    Raises:
        CheckpointError: the file cannot be read, or the hash is wrong.
    """
    if (digest := file_sha256(path)) == sha256:
        return
    _remove(path)
    raise CheckpointError(
        f"{name or path}: wrong content (SHA-256 {digest[:12]}..., should be {sha256[:12]}...); "
        "the file was removed",
        "Repeat the command to download the file again.",
    )


def _release_file(checkpoint: Checkpoint) -> Path:
    return Path(constants.HF_HOME) / "restormer" / checkpoint.file


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _cached_from_hub(repository: str, file: str, revision: str) -> Path | None:
    try:
        path = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
    except ValueError as error:  # not a valid repository name
        raise CheckpointError(
            first_line(error), "Name the file as hf:ORG/REPO/FILE[@REV]."
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"{error.filename}: {reason(error)}",
            "Check its permissions, or set HF_HOME to another folder.",
        ) from error
    return Path(path) if isinstance(path, str) else None


@contextmanager
def _quiet_hub_log() -> Iterator[None]:
    """Silence the log of huggingface_hub, which our errors repeat."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _unavailable(name: str, error: Exception) -> UnavailableError:
    for kind, (cause, hint) in _CAUSES.items():
        if isinstance(error, kind):
            return UnavailableError(f"{name}: {cause}", hint)
    # "Not in the cache, and the Hub failed": report the failure of the Hub.
    root = (isinstance(error, EntryNotFoundError) and error.__cause__) or error
    status = getattr(getattr(root, "response", None), "status_code", None)
    status = root.code if isinstance(root, urllib.error.HTTPError) else status
    if status is None:
        return UnavailableError(
            f"{name}: {_plain_cause(root)}",
            f"Check the connection, or {_WITHOUT_DOWNLOAD}",
        )
    cause, hint = _STATUSES.get(status, (f"the server answered HTTP {status}", "Try again later."))
    return UnavailableError(f"{name}: {cause}", hint)


def _plain_cause(error: BaseException) -> str:
    """Return the operating system's message, if it is among the causes of an error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error.reason if isinstance(error, urllib.error.URLError) else error)


def _download(url: str, partial: Path) -> None:
    """Complete the file `partial`, and resume as long as each attempt adds bytes."""
    while True:
        size = partial.stat().st_size if partial.exists() else 0
        try:
            if _download_rest(url, partial, size):
                return
            failure: Exception = OSError("the connection was closed before the end")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not size:
                raise
            partial.unlink()  # longer than the file
            continue
        except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
            failure = error
        if not partial.exists() or partial.stat().st_size <= size:
            raise failure


def _download_rest(url: str, partial: Path, start: int) -> bool:
    """Download everything after `start` bytes; return False if the connection ended early."""
    headers = {"User-Agent": "restormer-cli"} | ({"Range": f"bytes={start}-"} if start else {})
    if not url.startswith(("https://", "http://")):  # http for local mirrors
        raise ValueError(f"{url} is not a web address")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310 - checked above
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(  # type: ignore[no-untyped-call]
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=partial.stem,
                disable=None,  # drawn on a terminal only
            ) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            return total is None or file.tell() >= total


def _remove(path: Path) -> None:
    """Remove a cached file and the blob it links to, which the cache would use again."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
