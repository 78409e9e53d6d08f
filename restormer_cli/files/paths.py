"""URLs with the interface of `Path`: `s3://`, `gs://` and every other scheme that fsspec knows."""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import sys
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path, PosixPath, WindowsPath
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

ATOMIC = frozenset(["abfs", "abfss", "az", "gcs", "gs", "hf", "memory", "oss", "r2", "s3", "s3a"])
"""Schemes of object stores, whose uploads are atomic."""

LOCAL = frozenset(["", "file", "local"])
"""Schemes of the names of local files; empty without one."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # two letters: C:/ is a drive
_FAILURES = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
"""Exceptions of fsspec's backends that do not derive from OSError: module and name."""

_Path: Any = WindowsPath if sys.platform == "win32" else PosixPath


def as_path(name: str) -> Path:
    """Return a `UrlPath` for the URL of a remote file, and a `Path` for any other name.

    Raises:
        UsageError: the URL's scheme is unknown, its backend is not installed, or a `file://` URL
            names another host.
    """
    scheme, rest = _split(name)
    if scheme in LOCAL:
        return Path(local_name(name))
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ValueError as error:
        raise UsageError(
            f"{name}: there is no file system called {scheme}",
            "Use s3://, gs:// or another scheme that fsspec supports.",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"{name}: cannot be reached ({error})",
            "Install the missing package; for s3 and gs: pip install 'restormer-cli[remote]'",
        ) from error
    url: Path = UrlPath(f"{scheme}://{rest}")
    return url


def as_local_path(name: str, what: str) -> Path:
    """Return the `Path` for the name or `file://` URL of a local file or folder.

    Args:
        name: the name or URL.
        what: the option or argument that it is the value of, for errors.

    Raises:
        UsageError: it is the URL of a remote file, or a `file://` URL names another host.
    """
    if _split(name)[0] not in LOCAL:
        raise UsageError(
            f"{what}: {name} is remote, but this file or folder must be local",
            "Name one on this machine.",
        )
    return Path(local_name(name))


def local_name(name: str) -> str:
    """Return the path that a `file://` URL names, and any other name unchanged.

    Raises:
        UsageError: the URL names another host.
    """
    scheme, rest = _split(name)
    if not scheme or scheme not in LOCAL:
        return name
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise UsageError(
            f"{name}: {host} is another host", "Write file:/// and the path of a local file."
        )
    return urllib.request.url2pathname(slash + path)


def _split(name: str) -> tuple[str, str]:
    """Return the scheme of a URL, in lower case, and what follows it; no scheme for a path."""
    match = _SCHEME.match(name)
    return (match[1].lower(), name[match.end() :]) if match else ("", name)


def beside(folder: Path, mark: str) -> Path:
    """Return the path beside a folder that has its name and `mark`; `photos` stays relative.

    Raises:
        UsageError: the folder is a root.
    """
    is_url = isinstance(folder, UrlPath)
    absolute = folder if is_url else Path(os.path.abspath(folder))  # noqa: PTH100 - keeps links
    if folder.is_root if isinstance(folder, UrlPath) else not absolute.name:
        raise UsageError(f"{absolute}: a root has no folder beside it", "Name the output with -o.")
    base = absolute if folder.name in ("", "..") else folder
    return base.with_name(absolute.name + mark)


class UrlPath(_Path):  # type: ignore[misc] # the base class depends on the platform
    """A URL as a path whose first part is the scheme; file access goes through fsspec.

    Everything that only handles names is inherited from `Path`. Repeated slashes count as one.
    """

    def __str__(self) -> str:
        first, *others = self.parts or ("",)
        return f"{first}//{'/'.join(others)}" if first.endswith(":") else "/".join(self.parts)

    @property
    def is_root(self) -> bool:
        """True for the URL of a whole bucket or host."""
        return len(self.parts) < 3

    @property
    def _is_atomic(self) -> bool:
        return self.parts[0].lower().removesuffix(":") in ATOMIC

    @contextmanager
    def _file_system(self) -> Iterator[tuple[Any, str]]:
        """Yield the fsspec file system and this URL's name in it; raise errors as OSError."""
        from fsspec.core import url_to_fs

        modules = [(sys.modules.get(module), name) for module, name in _FAILURES]
        failures = [getattr(module, name) for module, name in modules if module]
        try:
            yield url_to_fs(str(self))
        except (NotImplementedError, *failures) as error:  # the first by read-only file systems
            raise OSError(errno.EIO, str(error).strip() or type(error).__name__) from error

    def _query(self, method: str, *, default: bool) -> bool:
        with suppress(OSError), self._file_system() as (fs, name):
            return bool(getattr(fs, method)(name))
        return default

    def exists(self, **_: Any) -> bool:
        """Return True for a file or folder, and if the file system cannot be reached."""
        return self._query("exists", default=True)

    def is_dir(self, **_: Any) -> bool:
        """Return True for a folder; False if the file system cannot be reached."""
        return self._query("isdir", default=False)

    def is_file(self, **_: Any) -> bool:
        """Return True for a file; False if the file system cannot be reached."""
        return self._query("isfile", default=False)

    def stat(self, **_: Any) -> os.stat_result:
        """Return the size and the modification time, or None for an unknown time."""
        with self._file_system() as (fs, name):
            size, modified = fs.info(name)["size"], None
            with suppress(NotImplementedError):
                modified = int(fs.modified(name).timestamp() * 1e9)
        return stat_result(size, modified)

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Create the folder and its parents; object stores have no folders."""
        if self._is_atomic:
            return
        with self._file_system() as (fs, name):
            fs.makedirs(name, exist_ok=True)

    def open(self, *_: Any, **__: Any) -> NoReturn:
        """Raise OSError: errors of an open file would not be converted. Use `read_bytes`."""
        raise io.UnsupportedOperation(f"{self} can only be read or written as a whole")

    def read_bytes(self) -> bytes:
        """Return the content."""
        with self._file_system() as (fs, name):
            return bytes(fs.cat_file(name))

    def files(self, *, recursive: bool) -> list[UrlPath]:
        """List the files in this folder, or at any depth with `recursive`."""
        with self._file_system() as (fs, name):
            root = name.rstrip("/")
            names = fs.find(root, maxdepth=None if recursive else 1)
            return [self / file.removeprefix(root).lstrip("/") for file in names]

    def has_subfolders(self) -> bool:
        """Return True if this folder contains folders."""
        with self._file_system() as (fs, name):
            return any(entry["type"] == "directory" for entry in fs.ls(name, detail=True))

    def matches(self) -> list[UrlPath]:
        """List the files that match this URL as a glob pattern."""
        first = next(n for n, part in enumerate(self.parts) if glob.has_magic(part))
        root = type(self)(*self.parts[:first])
        with self._file_system() as (fs, name):
            prefix = fs._strip_protocol(str(root)).rstrip("/")  # some backends drop the host
            return [root / match.removeprefix(prefix).lstrip("/") for match in fs.glob(name)]

    def put(self, data: bytes, temporary: str) -> None:
        """Upload all data or none; without atomic uploads, `temporary` is renamed."""
        with self._file_system() as (fs, name):
            if self._is_atomic:
                fs.pipe_file(name, data)
                return
            upload = f"{name.rpartition('/')[0]}/{temporary}"
            try:
                fs.pipe_file(upload, data)
                fs.mv(upload, name)
            except BaseException:
                with suppress(OSError, NotImplementedError):
                    fs.rm_file(upload)
                raise


def stat_result(size: int, modified: int | None) -> os.stat_result:
    """Return a `stat_result` with a size in bytes and a modification time in nanoseconds."""
    return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0), {"st_mtime_ns": modified})
