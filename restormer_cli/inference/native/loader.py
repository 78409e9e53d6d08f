"""Compile, check and load the library, and keep it in the cache with the verdict."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from threading import Lock

from ..fusion.cache import require_private
from ..fusion.passes import FusionError
from ..fusion.verdict import NOT_BUILT, Opened, Verdict, read_verdict, write_verdict
from .check import examine
from .compiler import COMPILE_LIMIT, SOURCE, compile_library, find_compiler, library_path
from .library import Library

_lock = Lock()
_opened: Opened | None = None


def open_library(*, build: bool) -> Opened:
    """Return the library of this process; build and check it first if `build` is set.

    Without `build`, only a library that was built before is opened.
    """
    global _opened
    with _lock:
        if _opened is None or (build and not _opened.is_final):
            _opened = _open(build)
        return _opened


def _open(build: bool) -> Opened:
    try:
        return prepare(build=build)
    except FusionError as error:
        return Opened(None, Verdict(str(error)))


def prepare(*, build: bool, source: Path = SOURCE, limit: float = COMPILE_LIMIT) -> Opened:
    """Open the library in the cache; build and check it first if `build` is set.

    The verdict is stored beside the library, with the library's SHA-256. A failure is stored, too,
    and remembered for a day.

    Raises:
        FusionError: there is no compiler, or it fails, or the library cannot be stored or loaded.
    """
    compiler, version = find_compiler(limit)
    path = library_path(version, source)
    with suppress(OSError):  # it is not there
        require_private(path)
    verdict = read_verdict(path.with_suffix(".json"), path)
    if verdict is None:
        if not build:
            return Opened(None, Verdict(NOT_BUILT), is_final=False)
        try:
            compile_library(compiler, path, source=source, limit=limit)
            verdict = examine(path)
        except FusionError as error:
            verdict = Verdict(str(error))
        write_verdict(path.with_suffix(".json"), verdict, path)
    if verdict.cause:
        return Opened(None, verdict)
    try:
        library = Library(path)
    except OSError as error:
        raise FusionError(f"{path} cannot be loaded: {error}") from error
    if library.instructions != verdict.instructions:  # the system may refuse AMX to a process
        raise FusionError(f"this process has {library.instructions}, not {verdict.instructions}")
    return Opened(library, verdict)
