"""WebP, AVIF, BMP, and the formats that are only read: what Pillow decodes to arrays."""

from __future__ import annotations

import io
import math
import re
import struct
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from ...errors import ImageError
from ..image import UNDECODED, Array, Image, ImageSequence, check_size, rescaled, swapped
from . import exif

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


# --- gif -----------------------------------------------------------------------------------------

_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B  # what a block begins with (20, 23, 27)


def check(data: bytes, width: int, height: int) -> None:
    """Refuse a file that ends too early, or draws outside the picture, which has this size.

    Raises:
        ValueError, struct.error: it does so.
    """
    at = 13 + _table(data[10])
    while (kind := _byte(data, at)) != _TRAILER:
        at += 1
        if kind == _IMAGE:
            left, top, across, down, flags = struct.unpack_from("<4HB", data, at)
            if left + across > width or top + down > height:
                raise ValueError("a frame lies outside the picture")
            at += 10 + _table(flags)  # and the first code size
        elif kind == _EXTENSION:
            at += 1  # its label
        else:  # no block: the next one is looked for, as Pillow does
            continue
        while size := _byte(data, at):  # sub-blocks, the last of which is empty (15)
            at += 1 + size
        at += 1


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise ValueError("its end is missing")
    return data[at]


def _table(flags: int) -> int:
    """The size of the colour table that flags announce (18, 20)."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# --- rasters -------------------------------------------------------------------------------------

# The photographic ones. Of Pillow's others some are icons or vector graphics, one runs Ghostscript
# on the file, and some warn, which a thread cannot catch without disturbing the rest.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "FITS", "GIF", "JPEG2000", "PCX"),
    *("PPM", "PSD", "QOI", "SGI", "SUN", "TGA", "WEBP"),
)
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# Pillow's mode -> the mode whose samples are ours; any other becomes RGB.
_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_INTEGER_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# Pillow cuts colour of these formats to 8 bits; the patterns match headers that announce more. An
# AVIF says by a bit, 32, of what is matched last that it has 12, not 10.
_DEEP = {
    "avif": re.compile(rb"av1C..([\x40-\x7f\xc0-\xff])", re.DOTALL),
    "jpeg2000": re.compile(rb"\xff\x4f\xff\x51.{38}[\x08-\x7e]", re.DOTALL),
    "sgi": re.compile(rb"\A\x01\xda.\x02", re.DOTALL),
}
# The colour of an AVIF as four numbers (ISO/IEC 14496-12, 12.1.5), which Pillow does not tell.
_NCLX = re.compile(rb"colrnclx(.{7})", re.DOTALL)
# Format of animations -> how often one runs; 0: for ever. A GIF says how often it is repeated, and
# one that says nothing runs once; Pillow does not tell of an AVIF.
_ANIMATED: dict[str, Callable[[PIL.Image.Image], int]] = {
    "gif": lambda p: int(p.info["loop"] and p.info["loop"] + 1) if "loop" in p.info else 1,
    "webp": lambda p: int(p.info.get("loop", 0)),
    "avif": lambda p: 0,
}
_PPM_HEADER = re.compile(rb"P[56](?:\s+(?:#[^\n]*\n\s*)*(\d+)){3}\s")


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode with Pillow; the frames of an animation are composed, and all alike."""
    picture = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    check_size(picture.width, picture.height, max_pixels)
    kind = (picture.format or "").lower()
    if kind == "gif":
        check(data, picture.width, picture.height)
    count = getattr(picture, "n_frames", 1) if kind in _ANIMATED else 1
    mode = _frame_mode(picture, count) if count > 1 else None
    plays = _ANIMATED[kind](picture) if count > 1 else 0
    notes = []
    if count == 1 and (others := getattr(picture, "n_frames", 1) - 1) > 0:
        notes.append(f"{others} more layers or pictures in the file are left out")

    def frames() -> Iterator[Image]:
        for number in range(count):
            if count > 1:
                picture.seek(number)
            image = _frame(picture, data, mode)
            yield replace(image, plays=plays, notes=[*notes, *image.notes])

    return ImageSequence(frames(), kind, count, "frame")


def _frame_mode(picture: PIL.Image.Image, count: int) -> str:
    """RGBA if there is any transparency in an animation, else RGB; each frame of a GIF is asked."""
    size = picture.size
    for number in range(count if picture.format == "GIF" else 1):
        picture.seek(number)
        if picture.size != size:
            raise ValueError("a frame lies outside the picture")
        picture.load()
        if picture.has_transparency_data:
            return "RGBA"
    return "RGB"


def _frame(picture: PIL.Image.Image, data: bytes, mode: str | None) -> Image:
    image = Image(UNDECODED, format=(picture.format or "").lower())
    if image.format == "webp":
        image.lossless = _webp_is_lossless(data)
    image.icc, image.exif, image.xmp = (
        value if isinstance(value := picture.info.get(key), bytes) and value else None
        for key in ("icc_profile", "exif", "xmp")
    )
    image.dpi = dpi(picture)
    if image.format == "avif" and image.icc is None and (colour := _NCLX.search(data)):
        primaries, transfer, matrix, full = struct.unpack(">3HB", colour[1])
        image.cicp = (primaries, transfer, matrix, full >> 7)
    if mode is None and (deep := _deep_samples(picture, data)) is not None:
        image.put(deep, 1 if deep.shape[2] == 1 else 3)
    elif mode is None:
        fill(image, picture)
    else:
        picture.load()
        image.put(np.asarray(picture.convert(mode)), 3)
        image.duration = Fraction(picture.info.get("duration", 0)) / 1000
    deep_header = _DEEP.get(image.format)
    if image.pixels.dtype == np.uint8 and deep_header and deep_header.search(data):
        image.notes.append(f"{image.format} of more than 8 bits is read as 8 bits")
    return image


def _deep_samples(picture: PIL.Image.Image, data: bytes) -> Array | None:
    """H W S in the full range of 16 bits, where there are more than 8 that Pillow would cut."""
    shape = (picture.height, picture.width)
    header = _PPM_HEADER.match(data)
    if header and int(header[1]) > 255:  # the last number is the highest value
        count = math.prod(shape) * len(picture.getbands())
        found = np.frombuffer(data, ">u2", count, header.end())
        return rescaled(found, int(header[1]), 65535).reshape(*shape, -1)
    depth = _DEEP["avif"].search(data) if picture.format == "AVIF" else None
    if depth is not None:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is not None and decoded.dtype == np.uint16 and decoded.shape[:2] == shape:
            top = 4095 if depth[1][0] & 32 else 1023
            return rescaled(swapped(decoded.reshape(*shape, -1)), top, 65535)
    return None


def dpi(picture: PIL.Image.Image) -> tuple[float, float] | None:
    """Dots per inch as Pillow knows them, None if they make no sense."""
    dots = tuple(map(float, picture.info.get("dpi", ())))
    sensible = len(dots) == 2 and all(math.isfinite(each) and each > 0 for each in dots)
    return (dots[0], dots[1]) if sensible else None


def fill(image: Image, picture: PIL.Image.Image) -> None:
    """Give `image` the samples of `picture`, and take from it a profile that no longer fits."""
    picture.load()
    if picture.mode == "F":
        image.put(np.asarray(picture)[..., None], 1)
        return
    if picture.mode in _INTEGER_MODES:
        samples = np.asarray(picture)[..., None]
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError("32-bit integer samples are not supported", "Convert it to 16 bits.")
        image.put(samples.astype(np.uint16), 1)
        return
    mode = _MODES.get(picture.mode, "RGB")
    if picture.mode in ("CMYK", "LAB"):
        image.notes.append(f"{picture.mode} is converted to RGB")
        if image.icc is not None:
            picture = _through_profile(picture, image.icc, image.notes)
            image.icc = None
    elif picture.has_transparency_data:
        mode = "LA" if mode.startswith("L") else "RGBA"
    samples = np.asarray(picture.convert(mode))
    image.put(samples.reshape(*samples.shape[:2], -1), 1 if mode.startswith("L") else 3)


def _through_profile(picture: PIL.Image.Image, icc: bytes, notes: list[str]) -> PIL.Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            _SRGB,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"without its ICC profile ({error})")
        return picture
    return converted or picture  # None is for conversion in place


def _webp_is_lossless(data: bytes) -> bool:
    """Whether the first picture's chunk is VP8L; RIFF chunks have even lengths."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"VP8 ", b"VP8L"):
            return bool(kind == b"VP8L")
        # A frame's chunk has its picture's chunks in it, after 16 bytes of its own.
        at += 8 + (16 if kind == b"ANMF" else length + length % 2)
    return False


class _Frames(PIL.Image.Image):
    """Frames as Pillow's encoders take them: one at a time, each made when it is asked for."""

    def __init__(self, images: Iterable[Image], count: int) -> None:
        super().__init__()
        self._images = iter(images)
        self._at = -1
        self.n_frames = count
        self.is_animated = count > 1
        self.durations: list[int] = []  # milliseconds, of the frames so far
        self._owed = Fraction(0)
        self.first = self._take()

    def _take(self) -> Image:
        image = next(self._images)
        samples = image.samples()
        picture = PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)
        self.im, self._mode, self._size = picture.im, picture.mode, picture.size
        # Rounded are the times at which frames change, so that the whole keeps its length.
        self._owed += 1000 * (image.duration or 0)
        self.durations.append(round(self._owed))
        self._owed -= self.durations[-1]
        self._at += 1
        return image

    def tell(self) -> int:
        return max(self._at, 0)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        while self._at < frame:  # there is no way back, and no encoder that needs one
            self._take()


def encode_webp(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode RGB or RGBA, without loss at quality 100 or if the source was so coded."""
    return encode_webp_frames([image], 1, quality)


def encode_webp_frames(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode frames likewise, each before the next is asked for."""
    frames = _Frames(images, count)
    return _saved(
        frames,
        "WEBP",
        lossless=quality == 100 or (frames.first.lossless and frames.first.format == "webp"),
        quality=quality,
        exact=True,  # colour under full transparency too
        loop=frames.first.plays,
    )


def encode_avif(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode grey, RGB or RGBA, with its colour at full resolution."""
    return encode_avif_frames([image], 1, quality)


def encode_avif_frames(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode frames likewise, each before the next is asked for."""
    frames = _Frames(images, count)
    if frames.first.plays:
        frames.first.notes.append("avif does not say how often it runs: this is left out")
    grey = {"subsampling": "4:0:0"} if frames.mode == "L" else {"subsampling": "4:4:4"}
    return _saved(frames, "AVIF", quality=quality, **grey)


def _saved(frames: _Frames, kind: str, **options: Any) -> bytes:
    buffer, block = io.BytesIO(), frames.first.exif
    if kind == "AVIF" and block is not None:
        # Its orientation, which is 1, is kept elsewhere; Pillow would build the block anew.
        with suppress(*exif.DAMAGE):
            block = exif.without(block, exif.ORIENTATION)
    frames.save(
        buffer,
        kind,
        save_all=frames.is_animated,
        duration=frames.durations,
        icc_profile=frames.first.icc or b"",
        exif=block or b"",
        xmp=frames.first.xmp or b"",
        **options,
    )
    return buffer.getvalue()


def encode_bmp(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode grey, RGB or RGBA; Pillow would not tell readers of the alpha."""
    samples = image.samples()
    if samples.shape[2] == 2:
        samples = samples[..., [0, 0, 0, 1]]
        notes.append("bmp has no grey with alpha: written as RGB")
    encoded = cv2.imencode(".bmp", swapped(samples))[1].tobytes()
    if image.dpi is None:
        return encoded
    # Dots per metre are at 38, in every BITMAPINFOHEADER and its successors.
    metres = struct.pack("<ii", *(round(dots / 0.0254) for dots in image.dpi))
    return encoded[:38] + metres + encoded[46:]
