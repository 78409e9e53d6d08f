"""Lists of paths, as `--files-from` takes them."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import nullcontext, suppress

from ..errors import UsageError
from ..streams import read_chunks
from ..text import format_bytes, reason
from .paths import as_local_path

MAX_LIST_BYTES = 2**28
"""Maximum size of a list of inputs: millions of paths."""


def read_list_file(name: str | None, *, null: bool) -> list[str]:
    """Return the paths that a file lists, or stdin (-); none without a name.

    Raises:
        UsageError: the list cannot be read, is remote, or is no list of paths.
    """
    if name is None:
        return []
    if name == "-" and not sys.stdin.readable():
        raise UsageError("stdin is closed, so there is no list", "Name a file of paths.")
    path = None if name == "-" else as_local_path(name, "--files-from")
    data = bytearray()
    try:
        with nullcontext(sys.stdin.buffer) if path is None else path.open("rb") as file:
            for chunk in read_chunks(file):
                data += chunk
                if len(data) > MAX_LIST_BYTES:
                    raise UsageError(
                        f"{name}: the list is over {format_bytes(MAX_LIST_BYTES)}",
                        "Split it into several.",
                    )
    except (OSError, MemoryError) as error:
        cause = "not enough memory" if isinstance(error, MemoryError) else reason(error)
        raise UsageError(
            f"{name}: the list cannot be read ({cause})",
            "Give --files-from a file with one path per line, or - for stdin.",
        ) from error
    try:
        return read_list(bytes(data), null=null)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", error.hint) from error


def read_list(data: bytes, *, null: bool) -> list[str]:
    """Split a list of paths: one on each line or, with `null`, separated by NUL bytes.

    Lines may be in UTF-16, and begin with a byte order mark, as Windows writes them. Other bytes
    are kept, whatever their encoding.

    Raises:
        UsageError: lines contain NUL bytes.
    """
    if null:
        return [os.fsdecode(entry) for entry in data.split(b"\0") if entry]
    encoding = _utf_16(data)
    if encoding is not None:
        with suppress(UnicodeDecodeError):
            data = data.decode(encoding, "surrogatepass").encode(errors="surrogatepass")
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        raise UsageError(
            "the list has NUL bytes",
            "If find -print0 wrote it, add -0. If not, it is not a list of paths, one per line.",
        )
    lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line]


def _utf_16(data: bytes) -> str | None:
    """Return the byte order of text in UTF-16, by its mark or the NUL bytes of ASCII; or None."""
    orders = (("utf-16-le", codecs.BOM_UTF16_LE, 1), ("utf-16-be", codecs.BOM_UTF16_BE, 0))
    for encoding, mark, first in orders:
        high = data[first::2]
        if data.startswith(mark) or (len(data) > 2 and high.count(0) > len(high) // 2):
            return encoding
    return None
