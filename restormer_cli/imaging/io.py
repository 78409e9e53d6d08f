"""Read and write image files without loss: decoding, encoding, and errors that name the file."""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
import PIL.Image

from ..errors import DamagedError, ImageError
from ..files import write_atomic
from .codecs import CODEC_ERRORS, exif, heif, jpeg, pillow, png, raw, tiff
from .formats import FORMATS, fit
from .image import Array, Image, ImageSequence
from .unsupported import check_kind, is_unsupported

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
    )
}
_ENCODERS: dict[str, Callable[[Iterable[Image], int, int], bytes]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "tiff": tiff.encode,
    "webp": pillow.encode_webp,
    "bmp": pillow.encode_bmp,
    "avif": pillow.encode_avif,
    "heif": heif.encode,
}
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")


def read_image(
    source: Path | BinaryIO | bytes,
    *,
    max_pixels: int = 300_000_000,
    name: str = "<bytes>",
    allow_damaged: bool = False,
) -> Image:
    """Read the first image of a file, a stream or bytes; see `read_bytes` and `decode`."""
    if not isinstance(source, bytes):
        name, source = read_bytes(source)
    images = decode(source, max_pixels=max_pixels, name=name, allow_damaged=allow_damaged).images
    return next(images)


def decode(
    data: bytes,
    *,
    max_pixels: int = 300_000_000,
    name: str = "<bytes>",
    allow_damaged: bool = False,
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
    with _named_errors(name):
        check_kind(data, name)
        sequence = decoder(data, max_pixels)
    return replace(sequence, images=_checked(sequence, name, allow_damaged))


def encode(
    images: Iterable[Image], kind: str, *, count: int = 1, quality: int = 95
) -> tuple[bytes, list[list[str]]]:
    """Encode images to a file.

    Args:
        images: each is encoded before the next is requested.
        kind: key of FORMATS; with several images, one whose `several` is not empty.
        count: number of images.
        quality: 1..100, for JPEG, AVIF, HEIF and WebP. HEIF and WebP are lossless at 100, WebP also
            for a lossless source.

    Returns:
        The file, and for each image the notes on what was lost.

    Raises:
        ImageError: an image is too large for the format, or cannot be encoded.
    """
    reports: list[tuple[list[str], list[str]]] = []  # losses and notes, which encoders extend
    source_errors: list[BaseException] = []

    def fitted() -> Iterator[Image]:
        try:
            for image in images:
                copy = fit(image, kind)
                reports.append((copy.losses, copy.notes))
                yield copy
        except BaseException as error:
            source_errors.append(error)
            raise

    try:
        data = _ENCODERS[kind](fitted() if count > 1 else list(fitted()), count, quality)
    except CODEC_ERRORS as error:
        if error in source_errors:  # raised by `images`, not by the encoder
            raise
        raise ImageError(
            f"cannot encode as {kind} ({_reason(error)})", "Write PNG or TIFF."
        ) from error
    return data, [[*losses, *notes] for losses, notes in reports]


def write_image(
    image: Image,
    target: Path | BinaryIO,
    *,
    format: str | None = None,  # noqa: A002 - as in Pillow
    quality: int = 95,
) -> list[str]:
    """Encode an image and write it; see `output_format`, `encode` and `write_encoded`.

    Returns:
        Notes on what was lost.

    Raises:
        ImageError: the image cannot be encoded, or the target cannot be written.
    """
    kind, notes = output_format(target, format, image.format)
    data, (losses,) = encode([image], kind, quality=quality)
    write_encoded(data, target)
    return [*notes, *losses]


def output_format(
    target: Path | BinaryIO | None, wanted: str | None, own: str
) -> tuple[str, list[str]]:
    """Choose the format of an output: the wanted one, or by the target's suffix, or the input's.

    Returns:
        A key of FORMATS, and a note if PNG replaces an input format that cannot be written.

    Raises:
        ImageError: the format cannot be written.
    """
    suffix = target.suffix.lower() if isinstance(target, Path) else ""
    by_suffix = (kind for kind, spec in FORMATS.items() if suffix in spec.suffixes)
    kind = wanted or next(by_suffix, suffix[1:]) or own
    if wanted is None and kind == own and kind not in FORMATS:
        return "png", [f"{kind} cannot be written: PNG instead"]
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


def read_bytes(source: Path | BinaryIO) -> tuple[str, bytes]:
    """Return the name and the content of a file or stream.

    Raises:
        ImageError: it cannot be read.
    """
    name = _name_of(source, "input")
    try:
        return name, source.read_bytes() if isinstance(source, Path) else source.read()
    except (OSError, MemoryError) as error:
        cause, hint = f"cannot read ({_reason(error)})", "Check its permissions."
        if isinstance(error, FileNotFoundError):
            cause, hint = "no such file", "Check the path."
        elif isinstance(source, Path) and source.is_dir():
            cause, hint = "a folder, not an image", "Name an image."
        raise ImageError(f"{name}: {cause}", hint) from error


def _name_of(stream: object, role: str) -> str:
    name = stream if isinstance(stream, Path) else getattr(stream, "name", None)
    return str(name) if isinstance(name, str | Path) else f"<{role}>"


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


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
        with _library_checks_off():
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
            f"{name}: damaged or truncated ({_reason(error)})", "Get a complete copy of the file."
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
            if image.icc is not None and image.icc[36:40] != b"acsp":  # ICC.1:2022, 7.2.9
                image.notes.append("the ICC profile is damaged: kept unchanged")
            if number == 1:
                image.losses += [f"{content}: left out" for content in sequence.omitted]
            _turn_upright(image)
        yield image


def _turn_upright(image: Image) -> None:
    """Apply and reset the orientation (EXIF 2.32, 4.6.4), and make the arrays contiguous."""
    orientation = 1
    if image.exif is not None:
        image.exif = image.exif.removeprefix(b"Exif\0\0")
        try:
            orientation, image.exif = exif.reset_orientation(image.exif)
            if image.dpi is None and image.format in ("heif", "jpeg"):
                image.dpi = exif.parse(image.exif).dpi()
        except CODEC_ERRORS:
            image.notes.append("EXIF is damaged: kept unchanged, orientation not applied")
    already_upright = image.format in ("heif", "raw")  # turned by their decoders
    if image.xmp is not None and (orientation != 1 or already_upright):
        image.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", image.xmp)
    if already_upright:
        orientation = 1

    def turn(plane: Array) -> Array:
        plane = plane.swapaxes(0, 1) if orientation > 4 else plane
        plane = plane[::-1] if orientation in (3, 4, 7, 8) else plane
        return np.ascontiguousarray(plane[:, ::-1] if orientation in (2, 3, 6, 7) else plane)

    image.pixels = turn(image.pixels)
    image.alpha = None if image.alpha is None else turn(image.alpha)
    image.bands = None if image.bands is None else turn(image.bands)
