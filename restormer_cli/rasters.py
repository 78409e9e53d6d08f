"""WebP, BMP, and the formats that are only read: what Pillow decodes to arrays."""

from __future__ import annotations

import io
import math
import re
import struct

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from .errors import ImageError
from .pixels import UNDECODED, Image, check_size, swapped

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
# Pillow cuts colour of these formats to 8 bits; the patterns match headers that announce more.
_DEEP = {
    "avif": re.compile(rb"av1C..[\x40-\x7f\xc0-\xff]", re.DOTALL),
    "jpeg2000": re.compile(rb"\xff\x4f\xff\x51.{38}[\x08-\x7e]", re.DOTALL),
    "sgi": re.compile(rb"\A\x01\xda.\x02", re.DOTALL),
}
_PPM_HEADER = re.compile(rb"P[56](?:\s+(?:#[^\n]*\n\s*)*(\d+)){3}\s")


def decode(data: bytes, max_pixels: int) -> Image:
    """Decode the first frame with Pillow."""
    with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        check_size(picture.width, picture.height, max_pixels)
        image = Image(UNDECODED, format=(picture.format or "").lower())
        if image.format == "webp":
            image.lossless = _webp_is_lossless(data)
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            image.more = f"{frames} frames: only the first is restored"
        image.icc, image.exif, image.xmp = (
            value if isinstance(value := picture.info.get(key), bytes) and value else None
            for key in ("icc_profile", "exif", "xmp")
        )
        image.dpi = dpi(picture)
        header = _PPM_HEADER.match(data)
        if header and int(header[1]) > 255:  # the last number is the highest value
            colours = len(picture.getbands())
            deep = np.frombuffer(data, ">u2", math.prod(picture.size) * colours, header.end())
            deep = np.rint(deep * (65535 / int(header[1]))).astype(np.uint16)
            image.put(deep.reshape(picture.height, picture.width, colours), colours)
        else:
            fill(image, picture)
    deep_header = _DEEP.get(image.format)
    if image.pixels.dtype == np.uint8 and deep_header and deep_header.search(data):
        image.notes.append(f"{image.format} of more than 8 bits is read as 8 bits")
    return image


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
        mode = {"L": "LA"}.get(mode, "RGBA")
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
        at += 8 + length + length % 2
    return False


def encode_webp(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode RGB or RGBA, without loss at quality 100 or if the source was so coded."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.samples()).save(
        buffer,
        "WEBP",
        lossless=quality == 100 or (image.lossless and image.format == "webp"),
        quality=quality,
        exact=True,  # colour under full transparency too
        icc_profile=image.icc or b"",
        exif=image.exif or b"",
        xmp=image.xmp or b"",
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
