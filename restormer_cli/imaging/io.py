"""Image files to arrays and back, with nothing lost on the way."""

from __future__ import annotations

import os
import re
import threading
import zlib
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
from .codecs import exif, heif, jpeg, pillow, png, raw, tiff
from .formats import FORMATS, Container, fit, readable_suffixes
from .image import Array, Image, ImageSequence, from_float, to_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


# --- damage --------------------------------------------------------------------------------------

DAMAGE = (
    *exif.DAMAGE,
    ArithmeticError,
    AssertionError,  # Pillow's
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    Warning,
    cv2.error,
    zlib.error,
)
"""What they raise on bytes that are not what they say; `python -W error` adds Warning."""


class _OwnChecks:
    """Lifts Pillow's limit, of 89 megapixels, and silences OpenCV: our checks come before theirs.

    Both settings are the process's. The first thread to enter changes them and the last to leave
    puts them back, so that nobody waits for anybody's decoding.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
                self._level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                PIL.Image.MAX_IMAGE_PIXELS = self._limit
                cv2.utils.logging.setLogLevel(self._level)


OWN_CHECKS = _OwnChecks()


def cause(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


# --- images --------------------------------------------------------------------------------------


__all__ = [
    "FORMATS",
    "Container",
    "Image",
    "ImageSequence",
    "decode",
    "encode",
    "from_float",
    "output_format",
    "read_bytes",
    "read_image",
    "readable_suffixes",
    "to_float",
    "write_encoded",
    "write_image",
]

# First bytes -> decoder; what has none of these goes to Pillow.
_DECODERS: dict[re.Pattern[bytes], Callable[[bytes, int], ImageSequence]] = {
    re.compile(start, re.DOTALL): decode
    for start, decode in (
        (re.escape(png.SIGNATURE), png.decode_animation),
        (re.escape(jpeg.SIGNATURE), jpeg.decode),
        (raw.SIGNATURE, raw.decode),
        (b"|".join(map(re.escape, tiff.SIGNATURES)), tiff.decode),
        (heif.SIGNATURE, heif.decode),
    )
}
# What encodes one image, and what encodes several, each before it asks for the next.
_ENCODERS: dict[str, Callable[[Image, int, list[str]], bytes]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "tiff": tiff.encode,
    "webp": pillow.encode_webp,
    "bmp": pillow.encode_bmp,
    "avif": pillow.encode_avif,
    "heif": heif.encode,
}
_ENCODERS_OF_SEVERAL: dict[str, Callable[[Iterable[Image], int, int], bytes]] = {
    "png": png.encode_all,
    "tiff": tiff.encode_all,
    "webp": pillow.encode_webp_frames,
    "avif": pillow.encode_avif_frames,
}


def read_image(
    source: Path | BinaryIO | bytes, *, max_pixels: int = 300_000_000, name: str = "<bytes>"
) -> Image:
    """Decode one image, upright; of several pages or frames the first. See `pictures`."""
    if not isinstance(source, bytes):
        name, source = read_bytes(source)
    return next(decode(source, max_pixels=max_pixels, name=name).images)


def decode(data: bytes, *, max_pixels: int = 300_000_000, name: str = "<bytes>") -> ImageSequence:
    """All pictures of a file, each upright and of at most `max_pixels` pixels.

    Sizes are checked here, by the headers; each picture is decoded when it is asked for. Threads
    may read at once. `name` is what errors call the file, and `notes` of each image say what the
    array does not hold.

    Raises:
        DamagedError: the file is empty, damaged or truncated.
        ImageError: the file is not an image, is too large by its header, or has NaN or infinite
            samples. All of them here, or when the picture is asked for.
    """
    if not data:
        raise DamagedError(f"{name}: the file is empty", "Get a complete copy of the file.")
    decoders = (decode for start, decode in _DECODERS.items() if start.match(data))
    decode = next(decoders, pillow.decode)
    if decode is tiff.decode and raw.is_raw(data, Path(name).suffix.lower()):
        decode = raw.decode
    with _told(name):
        found = decode(data, max_pixels)
    return replace(found, images=_checked(found, name))


def _checked(found: ImageSequence, name: str) -> Iterator[Image]:
    """The pictures one by one, upright, and whatever is wrong with one said of it."""
    for number in range(1, found.count + 1):
        with _told(name if found.count == 1 else f"{name}: {found.unit} {number}"):
            image = next(found.images)
            planes = [p for p in (image.pixels, image.alpha) if p is not None]
            if image.pixels.dtype == np.float32 and not all(np.isfinite(p).all() for p in planes):
                raise ImageError(
                    "some samples are NaN or infinite", "Replace them before restoring."
                )
            if image.icc is not None and image.icc[36:40] != b"acsp":  # ICC.1:2022, 7.2.9
                image.notes.append("the ICC profile is damaged: kept as it is")
            if number == 1:
                image.notes += [f"{thing}: left out" for thing in found.besides]
            _turn_upright(image)
        yield image


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say what the decoders raise in our words, and of what."""
    try:
        with OWN_CHECKS:
            yield
    except ImageError as error:
        raise type(error)(f"{name}: {error.message}", error.hint) from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image, or of a kind that is not supported",
            "Supported are PNG, JPEG, TIFF, WebP, AVIF, HEIF, GIF, BMP, JPEG 2000, PNM, QOI, TGA "
            "and raw files of cameras.",
        ) from error
    except DAMAGE as error:
        raise DamagedError(
            f"{name}: damaged or truncated ({cause(error)})", "Get a complete copy of the file."
        ) from error


def write_image(
    image: Image,
    target: Path | BinaryIO,
    *,
    format: str | None = None,  # noqa: A002 - Pillow's name for it, too
    quality: int = 95,
    ready: Callable[[bytes, os.stat_result], None] | None = None,
) -> list[str]:
    """Encode `image` to a file, which appears whole or not at all, or to a stream.

    See `format_for`, `encode` and `save`. Returns notes on what the format could not hold.

    Raises:
        ImageError: the format cannot be written or cannot hold so large an image, or the target
            cannot be written; then it is as it was, and no temporary file is left.
    """
    kind, notes = output_format(target, format, image.format)
    data, (told,) = encode([image], kind, quality=quality)
    write_encoded(data, target, ready=ready)
    return [*notes, *told]


def output_format(
    target: Path | BinaryIO | None, wanted: str | None, own: str
) -> tuple[str, list[str]]:
    """Which format an image is written in, a key of FORMATS, and a note if that is a surprise.

    It is the one that is wanted, or that of the target's suffix, or else its own; PNG if that
    cannot be written.

    Raises:
        ImageError: it cannot be written.
    """
    kind = wanted or (_format_of(target) if isinstance(target, Path) else "") or own
    if wanted is None and kind == own and kind not in FORMATS:
        return "png", [f"{kind} cannot be written: PNG instead"]
    if kind not in FORMATS:
        raise ImageError(
            f"{_name_of(target)}: cannot write the format {kind}",
            "Choose one of " + ", ".join(FORMATS),
        )
    return kind, []


def encode(
    images: Iterable[Image], kind: str, *, count: int = 1, quality: int = 95
) -> tuple[bytes, list[list[str]]]:
    """A file of `count` images, and for each the notes on what the format could not hold.

    `kind` is a key of FORMATS whose `several` fits if there are several; each of them is encoded
    before the next is asked for. `quality` 1..100 is for JPEG, AVIF, HEIF and lossy WebP; WebP is
    without loss at 100 or if the source was, HEIF at 100.

    Raises:
        ImageError: it cannot hold so large an image, or cannot be encoded.
    """
    notes: list[list[str]] = []
    foreign: list[BaseException] = []  # not the encoder's, but of who makes the images

    def fitted() -> Iterator[Image]:
        try:
            for image in images:
                notes.append([])
                yield fit(replace(image, notes=notes[-1]), kind, notes[-1])
        except BaseException as error:
            foreign.append(error)
            raise

    try:
        if count > 1:
            return _ENCODERS_OF_SEVERAL[kind](fitted(), count, quality), notes
        (image,) = fitted()
        return _ENCODERS[kind](image, quality, image.notes), notes
    except DAMAGE as error:
        if error in foreign:
            raise
        raise ImageError(f"cannot encode as {kind} ({cause(error)})") from error


def write_encoded(
    data: bytes,
    target: Path | BinaryIO,
    *,
    ready: Callable[[bytes, os.stat_result], None] | None = None,
) -> None:
    """Put an encoded file in its place, where it appears whole or not at all, or into a stream.

    `ready` is called with its bytes and what its status will be, just before it appears.

    Raises:
        ImageError: it cannot be written; then the target is as it was, and no temporary is left.
    """
    try:
        if isinstance(target, Path):
            write_atomic(target, data, ready and partial(ready, data))
        else:
            target.write(data)
            target.flush()
    except BrokenPipeError:  # whoever reads has had enough: no fault of the image's
        raise
    except OSError as error:
        raise ImageError(
            f"{_name_of(target)}: cannot write ({cause(error)})",
            "Check that the folder exists, is writable, and has room.",
        ) from error


def make_folder(path: Path) -> None:
    """Make the folder that outputs go to, and those above it.

    Raises:
        ImageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be made ({error.strerror})", "Name another folder."
        ) from error


# Files


def _name_of(place: object, role: str = "output") -> str:
    name = place if isinstance(place, Path) else getattr(place, "name", None)
    return str(name) if isinstance(name, str | Path) else f"<{role}>"


def read_bytes(source: Path | BinaryIO) -> tuple[str, bytes]:
    """The name and the bytes of a file or stream.

    Raises:
        ImageError: it cannot be read.
    """
    name = _name_of(source, "input")
    try:
        return name, source.read_bytes() if isinstance(source, Path) else source.read()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", "Check the path.") from error
    except (OSError, MemoryError) as error:
        if isinstance(source, Path) and source.is_dir():
            raise ImageError(f"{name}: a folder, not an image", "Name a file.") from error
        raise ImageError(
            f"{name}: cannot read ({cause(error)})", "Check its permissions."
        ) from error


def _format_of(target: Path) -> str:
    suffix = target.suffix.lower()
    return next((kind for kind, held in FORMATS.items() if suffix in held.suffixes), suffix[1:])


# What every decoder leaves to do

# EXIF orientation (2.32, 4.6.4) -> what makes the picture upright.
_UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]")


def _turn_upright(image: Image) -> None:
    """Apply the EXIF orientation, which is then 1, and make the arrays contiguous."""
    orientation = 1
    if image.exif is not None:
        image.exif = image.exif.removeprefix(b"Exif\0\0")
        try:
            orientation, image.exif = exif.take_orientation(image.exif)
        except exif.DAMAGE:
            image.notes.append("EXIF is damaged: kept as it is, orientation not applied")
    turn = _UPRIGHT[orientation]
    image.pixels = np.ascontiguousarray(turn(image.pixels))
    image.alpha = None if image.alpha is None else np.ascontiguousarray(turn(image.alpha))
    # HEIF and raw files were turned by their readers, by what they say themselves.
    if image.xmp is not None and (orientation != 1 or image.format in ("heif", "raw")):
        image.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", image.xmp)
