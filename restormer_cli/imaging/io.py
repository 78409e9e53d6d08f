"""Read and write image files and streams: limits, atomic writes, and the format of an output."""

from __future__ import annotations

import io
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import ImageError
from ..files import UrlPath, is_folder, unreachable, write_atomic, write_hint
from ..memory import MemoryGuard, available_memory
from ..streams import CHUNK, read_chunks
from ..text import format_bytes, reason
from .codecs import headers
from .coding import check_start, decode, encode, named_errors
from .formats import FORMATS, replacement
from .limits import MAX_PIXELS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from .image import Image

_MAX_PIXEL_BYTES = 32  # four samples of 64 bits
_MAX_OTHER_BYTES = 2**26  # metadata, thumbnails and the like


def read_image(
    source: Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    name: str = "<bytes>",
    allow_damaged: bool = False,
) -> Image:
    """Read the first image of a file or of bytes; see `read_bytes` and `decode`."""
    if not isinstance(source, bytes):
        name, source = read_bytes(source, max_pixels=max_pixels)
    images = decode(source, max_pixels=max_pixels, name=name, allow_damaged=allow_damaged).images
    return next(images)


def write_image(image: Image, path: Path, *, quality: int = 95) -> list[str]:
    """Encode an image and write it to a file; see `output_format`, `encode` and `write_encoded`.

    Returns:
        Losses and notes.

    Raises:
        ImageError: the image cannot be encoded, or the file cannot be written.
    """
    kind, notes = output_format(path, None, image.format)
    try:
        data, (remarks,) = encode([image], kind, quality=quality)
    except ImageError as error:
        raise type(error)(f"{path}: {error.message}", error.hint) from error
    write_encoded(data, path)
    return [*notes, *remarks.losses, *remarks.notes]


def requested_format(target: Path | None, wanted: str | None) -> str | None:
    """Return the format that an output must have: the wanted one, or by the target's suffix."""
    suffix = target.suffix.lower() if target else ""
    by_suffix = (kind for kind, spec in FORMATS.items() if suffix in spec.suffixes)
    return wanted or next(by_suffix, suffix[1:]) or None


def output_format(target: Path | None, wanted: str | None, own: str) -> tuple[str, list[str]]:
    """Choose the format of an output: the wanted one, or by the target's suffix, or the input's.

    Returns:
        A key of FORMATS, and a note if it replaces an input format that cannot be written.

    Raises:
        ImageError: the format cannot be written.
    """
    kind = requested_format(target, wanted) or own
    if wanted is None and kind == own and kind not in FORMATS:
        other = replacement(kind)
        return other, [f"{kind} cannot be written: {other.upper()} instead"]
    if kind not in FORMATS:
        raise ImageError(
            f"{_name_of(target, 'output')}: cannot write the format {kind}",
            f"Choose one of {', '.join(FORMATS)}.",
        )
    return kind, []


def write_encoded(
    data: bytes,
    target: Path | BinaryIO,
    *,
    ready: Callable[[bytes, os.stat_result], None] | None = None,
) -> None:
    """Write an encoded file atomically, or write it to a stream.

    `ready` is called with `data` and the new file's status just before the file appears.

    Raises:
        ImageError: the target cannot be written; then it is unchanged.
        BrokenPipeError: the reader of the stream has finished.
    """
    try:
        if isinstance(target, Path):
            write_atomic(target, data, ready and partial(ready, data))
        else:
            target.write(data)
            target.flush()
    except OSError as error:
        # The reader of a stream has finished, which is not an error of the image.
        if isinstance(error, BrokenPipeError) and not isinstance(target, Path):
            raise
        raise ImageError(
            f"{_name_of(target, 'output')}: cannot write ({reason(error)})",
            write_hint(error, "Check that the folder exists, is writable, and has free space."),
        ) from error


def make_folder(path: Path) -> None:
    """Create an output folder and its parents.

    Raises:
        ImageError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be created ({reason(error)})",
            write_hint(error, "Choose another folder."),
        ) from error


def read_bytes(
    source: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> tuple[str, bytes]:
    """Return the name and the content of a file or stream.

    Of a local file or stream that does not begin like an image, only the first MiB is read. Hence
    neither endless streams nor large files of other kinds fill the memory.

    Args:
        source: the file or stream.
        max_pixels: limit of each image, from which a limit of the bytes is derived.
        name: of the source, for errors.

    Raises:
        ImageError: the source cannot be read, is too large, or not an image.
    """
    name = name or _name_of(source, "input")
    limit = _MAX_OTHER_BYTES + _MAX_PIXEL_BYTES * max_pixels
    too_large = ImageError(
        f"{name}: over {format_bytes(limit)}, too large for images of up to {max_pixels} pixels",
        "Raise --max-pixels if you trust the file.",
    )
    available = available_memory()

    def check(size: int) -> None:
        if size > limit:
            raise too_large
        if size > available:
            raise MemoryError

    try:
        with MemoryGuard(f"to read {name}"):
            return name, _read_all(source, name, check)
    except OSError as error:
        cause, hint = f"cannot read ({reason(error)})", "Check the file and its permissions."
        if isinstance(source, Path):
            if problem := unreachable(source):
                cause, hint = problem
            elif is_folder(source):
                cause, hint = "a folder, not an image", "Name an image."
        raise ImageError(f"{name}: {cause}", hint) from error


def read_size(path: Path) -> headers.Size | None:
    """Return the size that the header of a file states, for estimates; None if it states none."""
    with suppress(ImageError), named_errors(str(path)):
        return headers.read(path)
    return None


def _read_all(source: Path | BinaryIO, name: str, check: Callable[[int], None]) -> bytes:
    """Return the content; `check` is called with the number of bytes known so far."""
    size = source.stat().st_size or 0 if isinstance(source, Path) else 0  # None: unknown, of a URL
    if isinstance(source, UrlPath):
        check(size)
        return source.read_bytes()
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        content = io.BytesIO()
        for chunk in read_chunks(file):
            if not content.tell() and len(chunk) == CHUNK:
                check_start(chunk, name)
                check(size)
            content.write(chunk)
            check(content.tell())
        return content.getvalue()


def _name_of(stream: object, role: str) -> str:
    name = stream if isinstance(stream, Path) else getattr(stream, "name", None)
    return str(name) if isinstance(name, str | Path) else f"<{role}>"
