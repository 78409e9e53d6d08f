"""Decode and encode image files: choose the codec, check the images, name the file in errors."""

from __future__ import annotations

import re
import struct
import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import PIL.Image

from ..errors import DamagedError, ImageError
from ..memory import MemoryGuard
from ..text import reason
from .codecs import CODEC_ERRORS, heif, jpeg, netpbm, pillow, png, raw, tiff
from .codecs.tiff import dng
from .codecs.unsupported import check_kind, is_unsupported
from .formats import fit
from .image import Array, Image, ImageSequence
from .integrity.fault import CUT
from .limits import MAX_PIXELS
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
_WITH_DAMAGE = ", or restore what there is with --allow-damaged"


class Remarks(NamedTuple):
    """Remarks of the encoder on an image."""

    losses: list[str]  # parts of the image that the file lacks
    notes: list[str]


class Encoded(NamedTuple):
    """An encoded file and the remarks on each of its images."""

    data: bytes
    remarks: list[Remarks]


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
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
        allow_damaged: decode images that are damaged in part, and set `Image.damage`.
        kind: format of the output, if it is known: for a DNG, camera raw files stay linear.

    Raises:
        DamagedError: the file is empty, damaged or truncated.
        ImageError: the file is not an image, has more than `max_pixels`, or NaN or infinite
            samples.
    """
    if not data and name == "-":
        raise DamagedError(
            "-: stdin is empty", "Check the command before the pipe: it wrote nothing."
        )
    if not data:
        raise DamagedError(f"{name}: the file is empty", "Get a complete copy of the file.")
    matching = (decoder for start, decoder in _DECODERS.items() if start.match(data))
    decoder = next(matching, pillow.decode)
    if decoder is tiff.decode and raw.is_raw(data, Path(name).suffix.lower()):
        decoder = raw.decode
    if decoder is raw.decode and kind == "dng":
        decoder = raw.decode_linear
    with named_errors(name):
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
            f"cannot encode as {kind} ({reason(error)})", "Write PNG or TIFF."
        ) from error
    return Encoded(data, remarks)


def check_start(start: bytes, name: str) -> None:
    """Raise ImageError if no decoder can read a file with this start of at least 1 MiB."""
    with named_errors(name):
        check_kind(start, name)
        if not any(s.match(start) for s in _DECODERS) and not pillow.accepts(start):
            raise PIL.UnidentifiedImageError


def _damage(error: BaseException) -> str:
    """Return the cause of damage; messages of `struct` say where our parser failed."""
    return CUT if isinstance(error, struct.error) else reason(error)


_saved_settings: list[tuple[int | None, int]] = []
_settings_lock = threading.Lock()


@contextmanager
def _library_checks_off() -> Iterator[None]:
    """Lift Pillow's pixel limit and silence the libraries, since `decode` makes its own checks.

    The limit and the level of OpenCV's log are global. The first thread to enter saves the original
    values, and the last to leave restores them. Pillow's warnings about contents, which name no
    file, stay off: filters that a thread restored would undo those of others.
    """
    silent = cv2.utils.logging.LOG_LEVEL_SILENT
    with _settings_lock:
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        _saved_settings.append((PIL.Image.MAX_IMAGE_PIXELS, cv2.utils.logging.setLogLevel(silent)))
        PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _settings_lock:
            PIL.Image.MAX_IMAGE_PIXELS, level = _saved_settings.pop()
            cv2.utils.logging.setLogLevel(level)


@contextmanager
def named_errors(name: str) -> Iterator[None]:
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
                f"{name}: not supported ({reason(error)})",
                f"Convert it, for example: magick {name} out.png",
            ) from error
        raise DamagedError(
            f"{name}: damaged or truncated ({_damage(error)})", "Get a complete copy of the file."
        ) from error


def _checked(sequence: ImageSequence, name: str, allow_damaged: bool) -> Iterator[Image]:
    """Decode the images one by one, check them and turn them upright."""
    for number in range(1, sequence.count + 1):
        with named_errors(name if sequence.count == 1 else f"{name}: {sequence.unit} {number}"):
            image = next(sequence.images)
            if image.damage is not None and not allow_damaged:
                rest = "" if image.damage.part == 1 else _WITH_DAMAGE
                raise DamagedError(
                    f"damaged: {image.damage}", f"Get a complete copy of the file{rest}."
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
