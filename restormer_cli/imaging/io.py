"""Read and write image files without loss: decoding, encoding, and errors that name the file."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import cv2
import numpy as np
import PIL.Image

from ..errors import DamagedError, ImageError
from ..files import UrlPath, write_atomic
from ..memory import MemoryGuard, available_memory
from ..streams import CHUNK, read_chunks
from ..text import first_line, format_bytes
from .codecs import CODEC_ERRORS, headers, heif, jpeg, netpbm, pillow, png, raw, tiff
from .codecs.tiff import dng
from .codecs.unsupported import check_kind, is_unsupported
from .formats import FORMATS, fit, replacement
from .image import Array, Image, ImageSequence
from .integrity.fault import CUT
from .metadata import read_orientation
from .scale import find_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Signature -> decoder; Pillow decodes all other files.
_DECODERS: dict[re.Pattern[bytes], Callable[[bytes, int], ImageSequence]] = {
    re.compile(signature, re.DOTALL): decoder
    for signature, decoder in (
        (re.escape(png.SIGNATURE), png.decode),
        (re.escape(jpeg.SIGNATURE), jpeg.decode),
        (raw.SIGNATURE, raw.decode),
        (b"|".join(map(re.escape, tiff.SIGNATURES)), tiff.decode),
        (heif.SIGNATURE, heif.decode),
        (netpbm.SIGNATURE, netpbm.decode),
    )
}
_ENCODERS: dict[str, Callable[[Iterable[Image], int, int], bytes]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "tiff": tiff.encode,
    "webp": pillow.encode_webp,
    "bmp": pillow.encode_bmp,
    "dng": dng.encode,
    "avif": pillow.encode_avif,
    "heif": heif.encode,
}
_MAX_PIXEL_BYTES = 32  # four samples of 64 bits
_MAX_OTHER_BYTES = 2**26  # metadata, thumbnails and the like


class Remarks(NamedTuple):
    """Remarks of the encoder on an image."""

    losses: list[str]  # parts of the image that the file lacks
    notes: list[str]


class Encoded(NamedTuple):
    """An encoded file and the remarks on each of its images."""

    data: bytes
    remarks: list[Remarks]


def read_image(
    source: Path | BinaryIO | bytes,
    *,
    max_pixels: int = 300_000_000,
    name: str = "<bytes>",
    allow_damaged: bool = False,
) -> Image:
    """Read the first image of a file, a stream or bytes; see `read_bytes` and `decode`."""
    if not isinstance(source, bytes):
        name, source = read_bytes(source, max_pixels=max_pixels)
    images = decode(source, max_pixels=max_pixels, name=name, allow_damaged=allow_damaged).images
    return next(images)


def decode(
    data: bytes,
    *,
    max_pixels: int = 300_000_000,
    name: str = "<bytes>",
    allow_damaged: bool = False,
    kind: str | None = None,
) -> ImageSequence:
    """Decode all images of a file, upright, each on demand.

    Sizes are checked at once, from the headers. Threads may decode concurrently. Errors contain
    `name`, and are raised here or while iterating over the images.

    Args:
        data: the file.
        max_pixels: limit of each image.
        name: of the file, for errors.
        allow_damaged: decode images that are damaged in part, and describe the damage in
            `Image.damage`.
        kind: format of the output, if it is known: for a DNG, camera raw files stay linear.

    Raises:
        DamagedError: the file is empty, damaged or truncated.
        ImageError: the file is not an image, has more than `max_pixels`, or NaN or infinite
            samples.
    """
    if not data:
        raise DamagedError(f"{name}: the file is empty", "Get a complete copy of the file.")
    matching = (decoder for start, decoder in _DECODERS.items() if start.match(data))
    decoder = next(matching, pillow.decode)
    if decoder is tiff.decode and raw.is_raw(data, Path(name).suffix.lower()):
        decoder = raw.decode
    if decoder is raw.decode and kind == "dng":
        decoder = raw.decode_linear
    with _named_errors(name):
        check_kind(data, name)
        sequence = decoder(data, max_pixels)
    return replace(sequence, images=_checked(sequence, name, allow_damaged))


def encode(images: Iterable[Image], kind: str, *, count: int = 1, quality: int = 95) -> Encoded:
    """Encode images to a file.

    Args:
        images: each is encoded before the next is requested.
        kind: key of FORMATS; with several images, one whose `several` is not empty.
        count: number of images.
        quality: 1..100, for JPEG, AVIF, HEIF and WebP. HEIF and WebP are lossless at 100, WebP also
            for a lossless source.

    Returns:
        The file, and the remarks on each image.

    Raises:
        ImageError: an image is too large for the format, or cannot be encoded.
    """
    remarks: list[Remarks] = []  # which encoders extend
    source_errors: list[BaseException] = []

    def fitted() -> Iterator[Image]:
        try:
            for image in images:
                copy = fit(image, kind)
                remarks.append(Remarks(copy.losses, copy.notes))
                yield copy
        except BaseException as error:
            source_errors.append(error)
            raise

    try:
        with MemoryGuard(f"to encode it as {kind}"):
            data = _ENCODERS[kind](fitted() if count > 1 else list(fitted()), count, quality)
    except CODEC_ERRORS as error:
        if error in source_errors:  # raised by `images`, not by the encoder
            raise
        raise ImageError(
            f"cannot encode as {kind} ({_reason(error)})", "Write PNG or TIFF."
        ) from error
    return Encoded(data, remarks)


def write_image(
    image: Image,
    target: Path | BinaryIO,
    *,
    format: str | None = None,  # noqa: A002 - as in Pillow
    quality: int = 95,
) -> list[str]:
    """Encode an image and write it; see `output_format`, `encode` and `write_encoded`.

    Returns:
        Losses and notes.

    Raises:
        ImageError: the image cannot be encoded, or the target cannot be written.
    """
    kind, notes = output_format(target, format, image.format)
    try:
        data, (remarks,) = encode([image], kind, quality=quality)
    except ImageError as error:
        name = _name_of(target, "output")
        raise type(error)(f"{name}: {error.message}", error.hint) from error
    write_encoded(data, target)
    return [*notes, *remarks.losses, *remarks.notes]


def requested_format(target: Path | BinaryIO | None, wanted: str | None) -> str | None:
    """Return the format that an output must have: the wanted one, or by the target's suffix."""
    suffix = target.suffix.lower() if isinstance(target, Path) else ""
    by_suffix = (kind for kind, spec in FORMATS.items() if suffix in spec.suffixes)
    return wanted or next(by_suffix, suffix[1:]) or None


def output_format(
    target: Path | BinaryIO | None, wanted: str | None, own: str
) -> tuple[str, list[str]]:
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
    """
    try:
        if isinstance(target, Path):
            write_atomic(target, data, ready and partial(ready, data))
        else:
            target.write(data)
            target.flush()
    except BrokenPipeError:  # the reader has finished, which is not an error of the image
        raise
    except OSError as error:
        raise ImageError(
            f"{_name_of(target, 'output')}: cannot write ({_reason(error)})",
            "Check that the folder exists, is writable, and has free space.",
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
            f"{path}: cannot be created ({error.strerror})", "Choose another folder."
        ) from error


def read_bytes(
    source: Path | BinaryIO, *, max_pixels: int = 300_000_000, name: str | None = None
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
        cause, hint = f"cannot read ({_reason(error)})", "Check the file and its permissions."
        if isinstance(error, FileNotFoundError):
            cause, hint = "no such file", "Check the path."
        elif isinstance(source, Path) and source.is_dir():
            cause, hint = "a folder, not an image", "Name an image."
        raise ImageError(f"{name}: {cause}", hint) from error


def read_size(path: Path) -> headers.Size | None:
    """Return the size that the header of a file states, for estimates; None if it states none."""
    with suppress(ImageError), _named_errors(str(path)):
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
                _check_start(chunk, name)
                check(size)
            content.write(chunk)
            check(content.tell())
        return content.getvalue()


def _check_start(start: bytes, name: str) -> None:
    """Raise ImageError if no decoder can read a file with this start of at least 1 MiB."""
    with _named_errors(name):
        check_kind(start, name)
        if not any(s.match(start) for s in _DECODERS) and not pillow.accepts(start):
            raise PIL.UnidentifiedImageError


def _name_of(stream: object, role: str) -> str:
    name = stream if isinstance(stream, Path) else getattr(stream, "name", None)
    return str(name) if isinstance(name, str | Path) else f"<{role}>"


def _reason(error: BaseException) -> str:
    """Return the system's message of an error, or else the first line of its own."""
    return getattr(error, "strerror", None) or first_line(error)


def _damage(error: BaseException) -> str:
    """Return the cause of damage; messages of `struct` say where our parser failed."""
    return CUT if isinstance(error, struct.error) else _reason(error)


_saved_settings: list[tuple[int | None, int]] = []
_settings_lock = threading.Lock()


@contextmanager
def _library_checks_off() -> Iterator[None]:
    """Lift Pillow's pixel limit and silence OpenCV's log, since `decode` makes its own checks.

    Both settings are global. The first thread to enter saves the original values, and the last to
    leave restores them.
    """
    silent = cv2.utils.logging.LOG_LEVEL_SILENT
    with _settings_lock:
        _saved_settings.append((PIL.Image.MAX_IMAGE_PIXELS, cv2.utils.logging.setLogLevel(silent)))
        PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _settings_lock:
            PIL.Image.MAX_IMAGE_PIXELS, level = _saved_settings.pop()
            cv2.utils.logging.setLogLevel(level)


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Convert the decoders' exceptions to errors that name the file."""
    try:
        with _library_checks_off(), MemoryGuard("to decode it"):
            yield
    except ImageError as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image, or in an unsupported format",
            "Use PNG, JPEG, TIFF, WebP, AVIF, HEIF, GIF, BMP, JPEG 2000, PNM, QOI, TGA or a camera "
            "raw file.",
        ) from error
    except CODEC_ERRORS as error:
        if is_unsupported(error):
            raise ImageError(
                f"{name}: not supported ({_reason(error)})",
                f"Convert it, for example: magick {name} out.png",
            ) from error
        raise DamagedError(
            f"{name}: damaged or truncated ({_damage(error)})", "Get a complete copy of the file."
        ) from error


def _checked(sequence: ImageSequence, name: str, allow_damaged: bool) -> Iterator[Image]:
    """Decode the images one by one, check them and turn them upright."""
    for number in range(1, sequence.count + 1):
        with _named_errors(name if sequence.count == 1 else f"{name}: {sequence.unit} {number}"):
            image = next(sequence.images)
            if image.damage is not None and not allow_damaged:
                raise DamagedError(
                    f"damaged: {image.damage}",
                    "Get a complete copy of the file, or restore what there is with "
                    "--allow-damaged.",
                )
            planes = [p for p in (image.pixels, image.alpha, image.bands) if p is not None]
            if image.pixels.dtype == np.float32 and not all(np.isfinite(p).all() for p in planes):
                raise ImageError(
                    "some samples are NaN or infinite", "Replace them before restoring."
                )
            if image.pixels.dtype == np.float32:
                image.scale = find_scale(image.pixels, image.alpha)
            if image.icc is not None and image.icc[36:40] != b"acsp":  # ICC.1:2022, 7.2.9
                image.notes.append("the ICC profile is damaged: kept unchanged")
            if number == 1:
                image.losses += [f"{content}: left out" for content in sequence.omitted]
            _turn_upright(image)
        yield image


def _turn_upright(image: Image) -> None:
    """Apply and reset the orientation, and make the arrays contiguous."""
    orientation = read_orientation(image)

    def turn(plane: Array) -> Array:
        plane = plane.swapaxes(0, 1) if orientation > 4 else plane
        plane = plane[::-1] if orientation in (3, 4, 7, 8) else plane
        return np.ascontiguousarray(plane[:, ::-1] if orientation in (2, 3, 6, 7) else plane)

    image.pixels = turn(image.pixels)
    image.alpha = None if image.alpha is None else turn(image.alpha)
    image.bands = None if image.bands is None else turn(image.bands)
