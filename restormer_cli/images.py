"""Image files to arrays and back, with nothing lost on the way."""

from __future__ import annotations

import os
import re
import threading
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
import PIL.Image

from . import exif, jpeg, png, rasters, tiff
from .errors import ImageError
from .files import write_whole
from .pixels import Array, Image, from_float, to_float

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FORMATS",
    "Container",
    "Image",
    "from_float",
    "load",
    "read",
    "readable_suffixes",
    "to_float",
    "write",
]


@dataclass(frozen=True)
class Container:
    """What a file format that we write can hold."""

    suffixes: tuple[str, ...]
    depths: tuple[str, ...]  # sample types, the deepest last
    alpha: bool
    grey: bool
    carries: frozenset[str]  # of icc, exif, xmp
    max_side: int


ALL = frozenset({"icc", "exif", "xmp"})
FORMATS = {
    "png": Container((".png", ".apng"), ("uint8", "uint16"), True, True, ALL, 2**31 - 1),
    "jpeg": Container(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), ("uint8",), False, True, ALL, 65500
    ),
    "tiff": Container((".tif", ".tiff"), ("uint8", "uint16", "float32"), True, True, ALL, 2**31),
    "webp": Container((".webp",), ("uint8",), True, False, ALL, 16383),
    "bmp": Container((".bmp", ".dib"), ("uint8",), True, True, frozenset(), 2**31 - 1),
}
# Pictures that we read and, having no encoder for them, write as PNG.
READ_ONLY_SUFFIXES = frozenset(
    [".avif", ".gif", ".j2k", ".jp2", ".jpx", ".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"]
)
# First bytes -> decoder; what has none of these goes to Pillow.
_DECODERS: dict[bytes, Callable[[bytes, int], Image]] = {
    png.SIGNATURE: png.decode,
    jpeg.SIGNATURE: jpeg.decode,
    **dict.fromkeys(tiff.SIGNATURES, tiff.decode),
}
_ENCODERS: dict[str, Callable[[Image, int, list[str]], bytes]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "tiff": tiff.encode,
    "webp": rasters.encode_webp,
    "bmp": rasters.encode_bmp,
}


def readable_suffixes() -> set[str]:
    """Suffixes, lower case with their dot, of the files that a folder run picks up."""
    return set(READ_ONLY_SUFFIXES).union(*(held.suffixes for held in FORMATS.values()))


def read(
    source: Path | BinaryIO | bytes, *, max_pixels: int = 300_000_000, name: str = "<bytes>"
) -> Image:
    """Decode one image, upright, of at most `max_pixels` pixels; threads may do so at once.

    `name` is what errors call an image that is given as bytes. Of several pages or frames the
    first is read: `more` says so. `notes` says whatever else the array does not hold.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged or truncated, is too
            large by its header, or has NaN or infinite samples.
    """
    if not isinstance(source, bytes):
        name, source = load(source)
    data = source
    if not data:
        raise ImageError(f"{name}: the file is empty", "Get a complete copy of the file.")
    decoders = (decode for start, decode in _DECODERS.items() if data.startswith(start))
    decode = next(decoders, rasters.decode)
    try:
        with _OWN_CHECKS:
            image = decode(data, max_pixels)
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", error.hint) from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image, or of a kind that is not supported",
            "Supported are " + ", ".join(sorted(readable_suffixes())),
        ) from error
    except _DAMAGE as error:
        raise ImageError(
            f"{name}: damaged or truncated ({_cause(error)})", "Get a complete copy of the file."
        ) from error
    planes = [image.pixels] if image.alpha is None else [image.pixels, image.alpha]
    if image.pixels.dtype == np.float32 and not all(np.isfinite(plane).all() for plane in planes):
        raise ImageError(
            f"{name}: some samples are NaN or infinite", "Replace them before restoring."
        )
    if image.icc is not None and image.icc[36:40] != b"acsp":  # ICC.1:2022, 7.2.9
        image.notes.append("the ICC profile is damaged: kept as it is")
    _turn_upright(image)
    return image


def write(
    image: Image,
    target: Path | BinaryIO,
    *,
    format: str | None = None,  # noqa: A002 - Pillow's name for it, too
    quality: int = 95,
    ready: Callable[[bytes, os.stat_result], None] | None = None,
) -> list[str]:
    """Encode `image` to a file, which appears whole or not at all, or to a stream.

    `format` is a key of FORMATS; None means that of the target's suffix, or else the image's own
    (PNG if it cannot be written). `quality` 1..100 is for JPEG and lossy WebP; WebP is lossless
    at 100 or if the source was. `ready` is called with a file's bytes and what its status will be,
    just before it appears. Returns notes on what the format could not hold.

    Raises:
        ImageError: the format cannot be written or cannot hold so large an image, or the target
            cannot be written; then it is as it was, and no temporary file is left.
    """
    name = str(target) if isinstance(target, Path) else _stream_name(target, "output")
    kind = format or (_format_of(target) if isinstance(target, Path) else "") or image.format
    notes = []
    if format is None and kind == image.format and kind not in FORMATS:
        notes.append(f"{kind} cannot be written: PNG instead")
        kind = "png"
    if kind not in FORMATS:
        raise ImageError(
            f"{name}: cannot write the format {kind}", "Choose one of " + ", ".join(FORMATS)
        )
    side = max(image.pixels.shape[:2])
    if side > FORMATS[kind].max_side:
        raise ImageError(
            f"{name}: {side} pixels a side, {kind} holds {FORMATS[kind].max_side}",
            "Write PNG or TIFF.",
        )
    image = _fit(image, kind, notes)
    try:
        data = _ENCODERS[kind](image, quality, notes)
    except _DAMAGE as error:
        raise ImageError(f"{name}: cannot encode as {kind} ({_cause(error)})") from error
    try:
        if isinstance(target, Path):
            write_whole(target, data, ready and partial(ready, data))
        else:
            target.write(data)
            target.flush()
    except OSError as error:
        raise ImageError(
            f"{name}: cannot write ({_cause(error)})",
            "Check that the folder exists, is writable, and has room.",
        ) from error
    return notes


# Errors, and what the libraries keep for the whole process

# What the decoders raise on bytes that are not what they say; `python -W error` adds Warning.
_DAMAGE = (
    *exif.DAMAGE,
    ArithmeticError,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    Warning,
    cv2.error,
    zlib.error,
)


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


_OWN_CHECKS = _OwnChecks()


def _cause(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


# Files


def _stream_name(stream: object, role: str) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else f"<{role}>"


def load(source: Path | BinaryIO) -> tuple[str, bytes]:
    """The name and the bytes of a file or stream.

    Raises:
        ImageError: it cannot be read.
    """
    name = str(source) if isinstance(source, Path) else _stream_name(source, "input")
    try:
        return name, source.read_bytes() if isinstance(source, Path) else source.read()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", "Check the path.") from error
    except (OSError, MemoryError) as error:
        if isinstance(source, Path) and source.is_dir():
            raise ImageError(f"{name}: a folder, not an image", "Name a file.") from error
        raise ImageError(
            f"{name}: cannot read ({_cause(error)})", "Check its permissions."
        ) from error


def _format_of(target: Path) -> str:
    suffix = target.suffix.lower()
    return next((kind for kind, held in FORMATS.items() if suffix in held.suffixes), suffix[1:])


# What every decoder leaves to do, and what every encoder can rely on

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
    if orientation != 1 and image.xmp is not None:
        image.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", image.xmp)


def _fit(image: Image, kind: str, notes: list[str]) -> Image:
    """`image` as the format can hold it; `notes` gets what had to go."""
    held = FORMATS[kind]
    pixels, alpha = image.pixels, image.alpha
    if alpha is not None and image.premultiplied and kind != "tiff":
        opacity = np.maximum(to_float(alpha), np.float32(1e-6))[..., None]
        pixels = from_float(to_float(pixels) / opacity, pixels.dtype)
        notes.append("colour was divided by the alpha it had been multiplied with")
    if alpha is not None and not held.alpha:
        alpha = None
        notes.append(f"{kind} has no alpha: it is left out")
    if pixels.dtype.name not in held.depths:
        if pixels.dtype == np.float32 and (pixels.min() < 0 or pixels.max() > 1):
            notes.append("values outside 0..1 are clipped")
        depth = np.dtype(held.depths[-1])
        notes.append(f"{kind} holds no {pixels.dtype} samples: rounded to {depth}")
        pixels = from_float(to_float(pixels), depth)
        alpha = None if alpha is None else from_float(to_float(alpha), depth)
    kept: dict[str, bytes | None] = {piece: getattr(image, piece) for piece in sorted(ALL)}
    for piece in sorted(ALL - held.carries):
        if kept[piece] is not None:
            notes.append(f"{kind} has no {piece.upper()}: it is left out")
            kept[piece] = None
    if pixels.shape[2] == 1 and not held.grey:
        pixels = np.repeat(pixels, 3, axis=2)
        notes.append(f"{kind} has no grey: written as RGB")
        if (icc := kept["icc"]) is not None and icc[16:20] == b"GRAY":
            kept["icc"] = None
            notes.append("a grey ICC profile does not fit RGB: it is left out")
    return replace(
        image,
        pixels=pixels,
        alpha=alpha,
        icc=kept["icc"],
        exif=kept["exif"],
        xmp=kept["xmp"],
        extras=image.extras if kind == image.format else (),
        premultiplied=image.premultiplied and kind == "tiff",
    )
