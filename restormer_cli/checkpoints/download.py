"""Official checkpoints and other Hub files: fetched once, kept in the cache, verified at each use.

Two sources: the Hub through huggingface_hub, with its cache and its environment variables; and,
for what the Hub lacks or while it is down, the author's GitHub release, kept under
`HF_HOME/restormer`. Nothing here needs torch.
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
from huggingface_hub.utils import (  # type: ignore[attr-defined] # its documented names
    WeakFileLock,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    logging,
    tqdm,
)

from ..callbacks import Notify
from ..errors import CheckpointError
from ..files import sha256_file
from .catalog import GITHUB_RELEASE, HUB_REPOSITORY, HUB_REVISION, Checkpoint

_TIMEOUT = 15  # seconds without a byte
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")

# huggingface_hub has spoken through requests, httpx and httpx2: whichever it is, its own HTTP error
# derives from that library's root. RuntimeError is what hf_xet, its transfer library, raises.
_FAILURES = cast(
    "tuple[type[Exception], ...]", (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)
)

_CAUSES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "access to the repository is restricted",
        "Ask for access on its page, then set HF_TOKEN.",
    ),
    (
        RepositoryNotFoundError,
        "there is no such repository, or it is private",
        "Check its name; set HF_TOKEN if it is private.",
    ),
    (RevisionNotFoundError, "there is no such revision", "Check the revision after @."),
)

_NETWORK_HINT = "Check the connection, or use --weights lite or a file of your own."


class UnavailableError(CheckpointError):
    """A checkpoint cannot be had just now: no network, no such file, no place to put it.

    Wrong bytes are not of this kind: what is damaged is never passed over in silence.
    """


# --- official checkpoints -----------------------------------------------------------------------


def cached_file(checkpoint: Checkpoint) -> Path | None:
    """Where an official checkpoint lies on this machine, or None; asks no network."""
    if path := _cached_from_hub(HUB_REPOSITORY, checkpoint.file, HUB_REVISION):
        return path
    path = _release_folder() / checkpoint.file
    return path if path.is_file() else None


def fetch(checkpoint: Checkpoint, *, notify: Notify, progress: bool = True) -> Path:
    """An official checkpoint's file: from the cache, else the Hub, else the GitHub release.

    Args:
        checkpoint: one of `tasks.CHECKPOINTS`.
        notify: told, in a sentence, when the second source stood in for the first.
        progress: draw a bar on stderr if that is a terminal.

    Raises:
        UnavailableError: no source has it or could be reached; the message names each one's cause.
        CheckpointError: what came has the wrong SHA-256; it was removed.
    """
    if path := cached_file(checkpoint):
        return path
    if is_offline():
        raise UnavailableError(
            f"{checkpoint.file} is not cached, and HF_HUB_OFFLINE forbids to download it",
            f"Run `restormer weights pull {checkpoint.name}` while online, or use --weights lite.",
        )
    failure: UnavailableError | None = None
    if checkpoint.on_hub:
        try:
            return from_hub(
                HUB_REPOSITORY,
                checkpoint.file,
                HUB_REVISION,
                sha256=checkpoint.sha256,
                progress=progress,
            )
        except UnavailableError as error:
            failure = error
    try:
        path = from_release(checkpoint, progress=progress)
    except UnavailableError as error:
        if failure is None:
            raise
        raise UnavailableError(f"{failure.message}; {error.message}", failure.hint) from error
    if failure is not None:
        unverified = "" if checkpoint.sha256 else ", where its SHA-256 is not known"
        notify(f"{failure.message}; took it from the GitHub release instead{unverified}")
    return path


def expected_sha256(path: Path, checkpoint: Checkpoint | None = None) -> str | None:
    """What a cached file must hash to, as far as anything says so.

    That is the table for official checkpoints; else the Hub's LFS hash, which names the blob that
    a cached file links to; else what the file hashed to when it came, noted beside it.
    """
    if checkpoint is not None and checkpoint.sha256:
        return checkpoint.sha256
    if path.is_symlink() and _SHA256.fullmatch(blob := path.readlink().name):
        return blob
    note = path.with_name(f"{path.name}.sha256")
    return note.read_text(encoding="ascii").strip() if note.is_file() else None


# --- the Hub ------------------------------------------------------------------------------------


def from_hub(
    repository: str,
    file: str,
    revision: str,
    *,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """A file of any Hub repository, downloaded unless it is cached, and verified if downloaded.

    A branch is asked for its newest commit first; where that fails, the cached file will do.

    Raises:
        UnavailableError: it is not there, or cannot be reached or stored.
        CheckpointError: what came has the wrong SHA-256; it was removed.
    """
    kept = _cached_from_hub(repository, file, revision)
    if kept and (is_offline() or re.fullmatch(r"[0-9a-f]{40}", revision)):
        return kept
    name = f"{repository}/{file}"
    if is_offline():
        raise UnavailableError(
            f"{name} is not cached, and HF_HUB_OFFLINE forbids to download it",
            "Unset HF_HUB_OFFLINE, or name a file on this machine.",
        )
    with _hub_output(progress):
        try:
            # One look first: alone, hf_hub_download tries for half a minute before it gives up.
            url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
            etag = huggingface_hub.get_hf_file_metadata(url).etag or ""
            path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        except _FAILURES as error:
            if kept and not isinstance(error, (RevisionNotFoundError, EntryNotFoundError)):
                return kept
            raise _unavailable(f"{name} from {constants.ENDPOINT}", error) from error
    verify(path, sha256 or (etag if _SHA256.fullmatch(etag) else None))
    return path


def _cached_from_hub(repository: str, file: str, revision: str) -> Path | None:
    try:
        path = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
    except ValueError as error:  # a repository name that cannot be one
        raise CheckpointError(str(error).splitlines()[0], "Say hf:ORG/REPO/FILE[@REV].") from error
    except OSError as error:
        raise UnavailableError(
            f"{error.filename}: {error.strerror}", "See that the cache can be read, or set HF_HOME."
        ) from error
    return Path(path) if isinstance(path, str) else None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids all downloads."""
    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def _hub_output(progress: bool) -> Iterator[None]:
    """No bar where none is wanted, and no log lines: our one error message says the cause."""
    silence = not progress and not are_progress_bars_disabled()
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    # HF_HUB_DISABLE_PROGRESS_BARS has the last word in huggingface_hub, which warns of attempts.
    if silence and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if silence and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
            enable_progress_bars()


def _unavailable(what: str, error: Exception) -> UnavailableError:
    """Put a failed download into words."""
    for kind, cause, hint in _CAUSES:
        if isinstance(error, kind):
            return UnavailableError(f"{what}: {cause}", hint)
    # "Not in the cache, and the Hub failed": the failure is what to tell.
    root = (isinstance(error, EntryNotFoundError) and error.__cause__) or error
    status = getattr(getattr(root, "response", None), "status_code", None)
    status = root.code if isinstance(root, urllib.error.HTTPError) else status
    if status in (401, 403):
        return UnavailableError(
            f"{what}: access was refused (HTTP {status})",
            "Set HF_TOKEN to a valid token that may read it, or unset it if the file is public.",
        )
    if status == 404:
        return UnavailableError(
            f"{what}: there is no such file", "Check the name: it may have been moved."
        )
    if status is not None:
        return UnavailableError(f"{what}: the server answered HTTP {status}", "Try again later.")
    return UnavailableError(f"{what}: {_plain_cause(root)}", _NETWORK_HINT)


def _plain_cause(error: BaseException) -> str:
    """The operating system's word for it, from beneath what HTTP libraries wrap around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (str(reason) or type(error).__name__).splitlines()[0]


# --- the GitHub release -------------------------------------------------------------------------


def _release_folder() -> Path:
    return Path(constants.HF_HOME) / "restormer"


def from_release(checkpoint: Checkpoint, *, progress: bool = True) -> Path:
    """An official checkpoint from the release (or `RESTORMER_RELEASE_URL`), resumed if cut off.

    Raises:
        UnavailableError: it cannot be reached or stored.
        CheckpointError: what came has the wrong SHA-256; it was removed.
    """
    base = os.environ.get("RESTORMER_RELEASE_URL", GITHUB_RELEASE).rstrip("/")
    url = f"{base}/{checkpoint.file}"
    path = _release_folder() / checkpoint.file
    partial = path.with_name(f"{path.name}.incomplete")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(f".{path.name}.lock")), _hub_output(progress):
            if path.is_file():  # another process was faster
                return path
            _download(url, partial)
            digest = verify(partial, checkpoint.sha256, called=url)
            if checkpoint.sha256 is None:
                note = path.with_name(f"{path.name}.sha256")
                note.write_text(f"{digest}\n", encoding="ascii")
            partial.replace(path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unavailable(url, error) from error
    return path


def _download(url: str, partial: Path) -> None:
    """Append to `partial` until it is whole, resuming for as long as each try brings something."""
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        try:
            if _download_rest(url, partial, have):
                return
            cut_off: Exception = OSError("the connection was closed before the end")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
                raise
            partial.unlink()  # what lies there is not the beginning of this file
            continue
        except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
            cut_off = error
        if not partial.exists() or partial.stat().st_size <= have:
            raise cut_off


def _download_rest(url: str, partial: Path, have: int) -> bool:
    """Download what lies beyond `have` bytes; False if the connection ended too soon."""
    headers = {"User-Agent": "restormer-cli"} | ({"Range": f"bytes={have}-"} if have else {})
    if not url.startswith(("https://", "http://")):  # http: a mirror of one's own
        raise ValueError(f"{url} is not a web address")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310 - likewise
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server does not resume and sends it all
        rest = response.headers.get("Content-Length")
        total = have + int(rest) if rest else None
        with (
            partial.open("ab" if have else "wb") as file,
            tqdm(  # type: ignore[no-untyped-call]
                total=total,
                initial=have,
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


# --- hashes -------------------------------------------------------------------------------------


def verify(path: Path, sha256: str | None, *, called: str | None = None) -> str:
    """Hash a downloaded file, and remove it where the hash is not `sha256` (None: anything goes).

    Every use of a cached checkpoint comes through here. It costs a tenth of a second for 100 MB;
    without it, a bit that flips on the disk would alter pictures and nobody would know.

    Returns:
        The SHA-256.

    Raises:
        CheckpointError: the hash is wrong; the file is gone now.
    """
    try:
        found = sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", "See that it can be read.") from error
    if sha256 is None or found == sha256:
        return found
    _remove(path)
    raise CheckpointError(
        f"{called or path}: wrong content (SHA-256 {found[:12]}..., should be {sha256[:12]}...); "
        "the file was removed",
        "Run the command again: it will be downloaded anew.",
    )


def _remove(path: Path) -> None:
    """Remove a cached file together with the blobs it links to: else the cache would serve them."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
