"""Files behind a URL: `s3://`, `gs://` and all else that fsspec knows, named as paths are."""

from __future__ import annotations

import errno
import glob
import os
import re
import sys
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path, PosixPath, WindowsPath
from typing import IO, TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

ATOMIC = frozenset(["abfs", "abfss", "az", "gcs", "gs", "hf", "memory", "oss", "r2", "s3", "s3a"])
"""Stores of objects, which appear whole when they are written; elsewhere a file is renamed."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # longer than a drive's letter
_FAILURES = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
"""What the libraries behind fsspec raise that is no OSError, if they are loaded."""

_Path: Any = WindowsPath if sys.platform == "win32" else PosixPath


def as_path(name: str) -> Path:
    """The path that a name means: a Url, if it is one of anything but a local file.

    Raises:
        UsageError: nothing is known about such URLs, or what reads them is not installed.
    """
    scheme = _SCHEME.match(name)
    if scheme is None:
        return Path(name)
    kind = scheme[1].lower()
    if kind in ("file", "local"):
        host, slash, rest = name[scheme.end() :].partition("/")
        if host not in ("", "localhost"):
            raise UsageError(f"{name}: {host} is another host", "A file here has three slashes.")
        return Path(urllib.request.url2pathname(slash + rest))
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(kind)
    except ValueError as error:
        raise UsageError(
            f"{name}: there is no file system called {kind}",
            "s3, gs and all else that fsspec knows can be named.",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"{name} cannot be reached: {error}",
            "Install what is missing; for s3 and gs: pip install 'restormer-cli[remote]'",
        ) from error
    found: Path = UrlPath(kind + name[len(kind) :])
    return found


class UrlPath(_Path):  # type: ignore[misc] # which of two, is known when it runs
    """A path whose first part is the scheme of a URL; what touches the file goes through fsspec.

    All that only names things is inherited. Runs of slashes count as one.
    """

    def __str__(self) -> str:
        first, *others = self.parts or ("",)
        return f"{first}//{'/'.join(others)}" if first.endswith(":") else "/".join(self.parts)

    @property
    def scheme(self) -> str:
        """What its file system is called."""
        return str(self.parts[0][:-1]).lower()

    @property
    def is_root(self) -> bool:
        """Whether it is a whole bucket or host."""
        return len(self.parts) < 3

    @contextmanager
    def _there(self) -> Iterator[tuple[Any, str]]:
        """Its file system and its name there; what goes wrong with it is an OSError."""
        from fsspec.core import url_to_fs

        kinds = [(sys.modules.get(module), name) for module, name in _FAILURES]
        failures = [getattr(module, name) for module, name in kinds if module]
        try:
            yield url_to_fs(str(self))
        except (NotImplementedError, *failures) as error:  # the former where one can only read
            raise OSError(errno.EIO, str(error).strip() or type(error).__name__) from error

    def exists(self, **_: Any) -> bool:
        """Whether it is a file or a folder; what cannot be reached may be one."""
        with suppress(OSError), self._there() as (fs, name):
            return bool(fs.exists(name))
        return True

    def is_dir(self, **_: Any) -> bool:
        """Whether there is something below it, as far as one may look."""
        with suppress(OSError), self._there() as (fs, name):
            return bool(fs.isdir(name))
        return False

    def is_file(self, **_: Any) -> bool:
        """Whether it is one, as far as one may look."""
        with suppress(OSError), self._there() as (fs, name):
            return bool(fs.isfile(name))
        return False

    def stat(self, **_: Any) -> os.stat_result:
        """Its size and time; the latter is None where it is not known."""
        with self._there() as (fs, name):
            size, modified = fs.info(name)["size"], None
            with suppress(NotImplementedError):
                modified = int(fs.modified(name).timestamp() * 1e9)
        return status(size, modified)

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Make it, and those above it, where a file system has folders; a bucket never."""
        if self.scheme in ATOMIC:
            return
        with self._there() as (fs, name):
            fs.makedirs(name, exist_ok=True)

    def open(self, *_: Any, **__: Any) -> IO[bytes]:
        """For reading bytes, whatever is asked for."""
        with self._there() as (fs, name):
            file: IO[bytes] = fs.open(name, "rb")
            return file

    def read_bytes(self) -> bytes:
        """The content."""
        with self._there() as (fs, name):
            return bytes(fs.cat_file(name))

    def files(self, *, recursive: bool) -> list[UrlPath]:
        """The files below it."""
        with self._there() as (fs, name):
            root = name.rstrip("/")
            found = fs.find(root, maxdepth=None if recursive else 1)
            return [self / file.removeprefix(root).lstrip("/") for file in found]

    def matches(self) -> list[UrlPath]:
        """What is there, if it is a pattern."""
        plain = next(n for n, part in enumerate(self.parts) if glob.has_magic(part))
        root = type(self)(*self.parts[:plain])
        with self._there() as (fs, name):
            above = fs._strip_protocol(str(root)).rstrip("/")  # which may leave out the host
            return [root / match.removeprefix(above).lstrip("/") for match in fs.glob(name)]

    def put(self, data: bytes, temporary: str) -> None:
        """Write the file, which appears whole or not at all; `temporary` is a name beside it."""
        with self._there() as (fs, name):
            if self.scheme in ATOMIC:
                fs.pipe_file(name, data)
                return
            first = f"{name.rpartition('/')[0]}/{temporary}"
            try:
                fs.pipe_file(first, data)
                fs.mv(first, name)
            except BaseException:
                with suppress(OSError, NotImplementedError):
                    fs.rm_file(first)
                raise


def status(size: int, modified: int | None) -> os.stat_result:
    """What is known of a file; its time in nanoseconds."""
    return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0), {"st_mtime_ns": modified})
