"""WebP, AVIF, BMP, and the other formats that Pillow decodes."""

from __future__ import annotations

import io
import math
import re
import struct
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
from PIL import ImageCms

from ...text import counted
from ..image import UNDECODED, Array, Image, ImageSequence, check_size, rescale, swap_red_blue
from ..integrity import gif, isobmff, jpeg2000, webp
from ..integrity.fault import CORRUPT, CUT, Damage, Fault, describe_rest, fill_up, sound_length
from . import CODEC_ERRORS, INCH, OTHER_MAPS, bmp, decode_text
from .blocks import exif
from .blocks.tags import ORIENTATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Without icons, vector graphics, EPS, which runs Ghostscript, and formats whose plugins emit
# warnings: these cannot be caught in a single thread.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "FITS", "GIF", "JPEG2000", "PCX"),
    *("PSD", "QOI", "SGI", "SUN", "TGA", "WEBP"),
)
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# Pillow's mode -> mode to convert it to; all others become RGB.
_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_INTEGER_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# Headers of files of more than 8 bits, of which Pillow decodes 8. The last byte of the AVIF pattern
# has bit 32 for 12 bits instead of 10.
_DEEP = {
    "avif": re.compile(rb"av1C..([\x40-\x7f\xc0-\xff])", re.DOTALL),
    "jpeg2000": re.compile(rb"\xff\x4f\xff\x51.{38}[\x08-\x7e]", re.DOTALL),
    "sgi": re.compile(rb"\A\x01\xda.\x02", re.DOTALL),
}
# Colour space of an AVIF (ISO/IEC 14496-12, 12.1.5), which Pillow does not report.
_NCLX = re.compile(rb"colrnclx(.{7})", re.DOTALL)
# Animated format -> number of plays, 0: for ever. A GIF stores repetitions. Pillow does not
# report the number of an AVIF.
_PLAYS: dict[str, Callable[[PIL.Image.Image], int]] = {
    "gif": lambda p: int(p.info["loop"] and p.info["loop"] + 1) if "loop" in p.info else 1,
    "webp": lambda p: int(p.info.get("loop", 0)),
    "avif": lambda p: 0,
}
# Marks of maps among an AVIF's items (ISO/IEC 23008-12, 6.6.2 and 6.8)
_MAPS = re.compile(rb"tmap|auxiliary:depth|aux:hdrgainmap")
# Start and end of a QOI, and bytes of its longest code ("The Quite OK Image Format", 2022).
_QOI, _QOI_END, _QOI_LONGEST = b"qoif", bytes(7) + b"\1", 5
_TEXT_KEYS = ("comment", "id_section")  # of Pillow, for JPEG 2000 and TGA
# Numbers of Photoshop's image resources, and UUIDs of JPEG 2000 boxes -> fields of the image.
_PSD_FIELDS = {1028: "iptc", 1058: "exif", 1060: "xmp"}
_JP2_FIELDS = {
    b"JpgTiffExif->JP2": "exif",
    bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"): "iptc",
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp",
}


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode with Pillow, which composes the frames of an animation, to one mode for all frames."""

    def open_picture(data: bytes) -> PIL.Image.Image:
        picture = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
        check_size(picture.width, picture.height, max_pixels)
        return picture

    if (fields := bmp.decode_fields(data, max_pixels)) is not None:
        return ImageSequence.single(fields)
    rest = describe_rest(data, webp.end(data)) if webp.SIGNATURE.match(data) else []
    data, damage = _repaired(data, open_picture)
    picture = open_picture(data)
    kind = (picture.format or "").lower()
    texts = [decode_text(picture.info[key]) for key in _TEXT_KEYS if key in picture.info]
    frame_damage = {0: damage}
    profiles: dict[str, bytes] = {}
    if kind == "gif":
        data, frame_damage, comments, profiles = gif.check(data, picture.width, picture.height)
        texts = [decode_text(comment) for comment in comments]
        picture = open_picture(data)
    available = getattr(picture, "n_frames", 1)
    count = available if kind in _PLAYS else 1
    mode = _animation_mode(picture, count) if count > 1 else None
    plays = _PLAYS[kind](picture) if count > 1 else 0
    others = counted(available - count, "more layer or picture", "more layers or pictures")
    omitted = (others,) if available > count else ()
    if kind == "avif" and _MAPS.search(data, 0, data.find(b"mdat")):
        omitted = (*omitted, OTHER_MAPS)

    def frames() -> Iterator[Image]:
        for number in range(count):
            if count > 1:
                picture.seek(number)
            try:
                image = _decode_frame(picture, data, mode)
                image.damage = frame_damage.get(number)
            except CODEC_ERRORS:
                if count > 1:
                    raise
                image = _decode_damaged(data, kind, open_picture)
            image.texts = tuple(("Comment", text) for text in texts if text)
            for name, value in profiles.items():
                setattr(image, name, value)
            image.plays = plays
            image.losses += [] if number else rest
            yield image

    return ImageSequence(frames(), kind, count, "frame", omitted)


def accepts(start: bytes) -> bool:
    """Return False if no format that `decode` reads has files with this start."""
    PIL.Image.init()
    checks = {name: PIL.Image.OPEN[name][1] for name in _FORMATS if name in PIL.Image.OPEN}
    if any(check(start[:16]) for check in checks.values() if check):
        return True
    try:  # the others, which have no signature
        PIL.Image.open(io.BytesIO(start), formats=[n for n, check in checks.items() if not check])
    except PIL.UnidentifiedImageError:
        return False
    return True


def _repaired(
    data: bytes, open_picture: Callable[[bytes], PIL.Image.Image]
) -> tuple[bytes, Damage | None]:
    """Check a WebP, AVIF or JPEG 2000: return a file that can be decoded, and its damage."""
    if webp.SIGNATURE.match(data):
        if webp.is_cut(data):
            fault = Fault(CUT, sound_length(data))
            return webp.repair(data, fault, lambda data: np.asarray(open_picture(data)))
        open_picture(data).close()  # checks the size
        if (fault_within := webp.find_fault(data)) is not None:
            return webp.repair(data, fault_within, lambda data: np.asarray(open_picture(data)))
    elif isobmff.SIGNATURE.match(data) and (cause := isobmff.find_fault(data)):
        if cause == CUT:
            raise ValueError(cause)
        return data, Damage(cause)
    elif jpeg2000.SIGNATURE.match(data) and (cause := jpeg2000.find_fault(data)):
        if cause == CUT:
            return data, None  # decoding fails, or finds how much is missing
        return data, Damage(cause)
    elif data.startswith(_QOI) and not _is_whole_qoi(data, open_picture):
        return data, Damage(CORRUPT)
    return data, None


def _is_whole_qoi(data: bytes, open_picture: Callable[[bytes], PIL.Image.Image]) -> bool:
    """Return True if all data up to the end marker, which must be there, is needed.

    A file that is cut is True as well: decoding fails.
    """
    end = data.rfind(_QOI_END)
    with suppress(*CODEC_ERRORS):
        open_picture(data).load()
        if end < 0:
            return False
        open_picture(data[: end - _QOI_LONGEST]).load()
        return False
    return True


def _decode_damaged(
    data: bytes, kind: str, open_picture: Callable[[bytes], PIL.Image.Image]
) -> Image:
    """Decode the intact part of a single image that Pillow refuses."""

    def load(data: bytes) -> Array:
        return np.asarray(open_picture(data))

    if kind == "webp":
        data, damage = webp.repair(data, Fault(CORRUPT, len(data)), load)
    else:
        # No coded row is twice as long as its samples; decoders written in Python are slow.
        with open_picture(data) as picture:
            most = 2 * picture.width * picture.height * len(picture.getbands())
        filled = fill_up(data, load, most)
        if filled is None:
            load(data)  # raises the first error again
            raise ValueError(CORRUPT)
        data, damage = data + bytes(filled.size), Damage(CUT, filled.part)
    image = _decode_frame(open_picture(data), data, None)
    image.damage = damage
    return image


def encode_webp(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode RGB or RGBA frames, losslessly at quality 100 or for a lossless WebP."""
    frames = _Frames(images, count)
    lossless = quality == 100 or (frames.first.lossless and frames.first.format == "webp")
    # `exact` keeps the colour of fully transparent pixels.
    options = {"lossless": lossless, "exact": True, "loop": frames.first.plays}
    return frames.encode("WEBP", quality, options)


def encode_avif(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode grey, RGB or RGBA frames in 4:4:4."""
    frames = _Frames(images, count)
    if frames.first.plays:
        frames.first.losses.append("avif cannot hold the number of plays: it is left out")
    if frames.first.exif is not None:
        # An AVIF has another field for the orientation; for this tag, Pillow would rebuild EXIF.
        with suppress(*CODEC_ERRORS):
            frames.first.exif = exif.without_tag(frames.first.exif, ORIENTATION)
    subsampling = "4:0:0" if frames.mode == "L" else "4:4:4"
    return frames.encode("AVIF", quality, {"subsampling": subsampling})


def encode_bmp(images: Iterable[Image], count: int, quality: int) -> bytes:
    """Encode one image, grey, RGB or RGBA, with OpenCV: Pillow would not declare the alpha."""
    (image,) = images
    samples = image.samples()
    encoded = cv2.imencode(".bmp", swap_red_blue(samples))[1].tobytes()
    if image.dpi is None:
        return encoded
    # Dots per metre are at 38 in a BITMAPINFOHEADER and its successors.
    metres = struct.pack("<ii", *(round(dots / INCH) for dots in image.dpi))
    return encoded[:38] + metres + encoded[46:]


def dpi(picture: PIL.Image.Image) -> tuple[float, float] | None:
    """Return the dots per inch, or None if missing or invalid."""
    dots = tuple(map(float, picture.info.get("dpi", ())))
    valid = len(dots) == 2 and all(math.isfinite(each) and each > 0 for each in dots)
    return (dots[0], dots[1]) if valid else None


def from_samples(samples: Array) -> PIL.Image.Image:
    """Return H W S samples as a picture."""
    return PIL.Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)


def read_samples(image: Image, picture: PIL.Image.Image) -> None:
    """Decode `picture` into `image`, without its profile if it is converted to RGB."""
    picture.load()
    if picture.mode == "F" or picture.mode in _INTEGER_MODES:
        samples = np.asarray(picture)[..., None]
        if picture.mode != "F" and samples.min() >= 0 and samples.max() <= 65535:
            samples = samples.astype(np.uint16)
        image.set_samples(samples, 1)
        return
    mode = _MODES.get(picture.mode, "RGB")
    if picture.mode in ("CMYK", "LAB"):
        image.losses.append(f"{picture.mode} is converted to RGB")
        if image.icc is not None:
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            try:
                picture = to_srgb(picture, image.icc, intent, ImageCms.Flags.BLACKPOINTCOMPENSATION)
            except (ImageCms.PyCMSError, OSError) as error:
                image.losses.append(f"without its ICC profile ({error})")
            image.icc = None
    elif picture.has_transparency_data:
        mode = "LA" if mode.startswith("L") else "RGBA"
    samples = np.asarray(picture.convert(mode))
    image.set_samples(samples.reshape(*samples.shape[:2], -1), 1 if mode.startswith("L") else 3)


def to_srgb(
    picture: PIL.Image.Image,
    icc: bytes,
    intent: ImageCms.Intent = ImageCms.Intent.PERCEPTUAL,
    flags: ImageCms.Flags = ImageCms.Flags.NONE,
) -> PIL.Image.Image:
    """Convert the colours of a picture through its ICC profile to sRGB.

    Raises:
        ImageCms.PyCMSError, OSError: the profile is damaged or for other colours.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    converted = ImageCms.profileToProfile(
        picture, profile, _SRGB, renderingIntent=intent, outputMode="RGB", flags=flags
    )
    return converted or picture  # None only for a conversion in place


def _animation_mode(picture: PIL.Image.Image, count: int) -> str:
    """Return RGBA if any frame has transparency, else RGB; frames differ only in a GIF."""
    for number in range(count if picture.format == "GIF" else 1):
        picture.seek(number)
        picture.load()
        if picture.has_transparency_data:
            return "RGBA"
    return "RGB"


def _decode_frame(picture: PIL.Image.Image, data: bytes, mode: str | None) -> Image:
    image = Image(UNDECODED, format=(picture.format or "").lower(), dpi=dpi(picture))
    if image.format == "webp":
        first = next(webp.pixel_chunks(data), None)
        image.lossless = first is not None and first.kind == b"VP8L"
    image.icc, image.exif, image.xmp = (
        value if isinstance(value := picture.info.get(key), bytes) and value else None
        for key in ("icc_profile", "exif", "xmp")
    )
    for field, value in _further_fields(picture, data):
        setattr(image, field, value)
    if image.format == "bmp":
        image.icc = _bmp_profile(data)
    if image.format == "avif" and image.icc is None and (colour := _NCLX.search(data)):
        primaries, transfer, matrix, full = struct.unpack(">3HB", colour[1])
        image.cicp = (primaries, transfer, matrix, full >> 7)
    if mode is not None:
        picture.load()
        image.set_samples(np.asarray(picture.convert(mode)), 3)
        image.duration = Fraction(picture.info.get("duration", 0)) / 1000
    elif (deep := _deep_samples(picture, data)) is not None:
        image.set_samples(deep, 1 if deep.shape[2] == 1 else 3)
    else:
        read_samples(image, picture)
    deep_header = _DEEP.get(image.format)
    if image.pixels.dtype == np.uint8 and deep_header and deep_header.search(data):
        image.losses.append(f"{image.format} of more than 8 bits is read as 8 bits")
    return image


def _deep_samples(picture: PIL.Image.Image, data: bytes) -> Array | None:
    """Decode an AVIF of more than 8 bits to H W S of 16 bits; None for other files."""
    shape = (picture.height, picture.width)
    depth = _DEEP["avif"].search(data) if picture.format == "AVIF" else None
    if depth is not None:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is not None and decoded.dtype == np.uint16 and decoded.shape[:2] == shape:
            top = 4095 if depth[1][0] & 32 else 1023
            return rescale(swap_red_blue(decoded.reshape(*shape, -1)), top, 65535)
    return None


def _bmp_profile(data: bytes) -> bytes | None:
    """Return the ICC profile in a BITMAPV5HEADER, which begins at offset 14."""
    with suppress(struct.error):
        size, space, start, length = struct.unpack_from("<I52x4s52xII", data, 14)
        if size >= 124 and space == b"DEBM":
            return data[14 + start : 14 + start + length] or None
    return None


def _further_fields(picture: PIL.Image.Image, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names and values of fields that Pillow does not report."""
    for number, _, body in getattr(picture, "resources", ()):  # of Photoshop
        if number in _PSD_FIELDS:
            yield _PSD_FIELDS[number], body
    if data.startswith(jpeg2000.FILE):
        for kind, start, end in isobmff.boxes(data):
            if kind == b"uuid" and (field := _JP2_FIELDS.get(data[start : start + 16])):
                yield field, data[start + 16 : end]


class _Frames(PIL.Image.Image):
    """Lazy frames for Pillow's encoders: each is requested after the last one was encoded."""

    def __init__(self, images: Iterable[Image], count: int) -> None:
        super().__init__()
        self._images = iter(images)
        self._position = -1
        self.n_frames = count
        self.is_animated = count > 1
        self.durations: list[int] = []  # milliseconds, of the frames so far
        self._remainder = Fraction(0)
        self.first = self._advance()

    def _advance(self) -> Image:
        image = next(self._images)
        picture = from_samples(image.samples())
        self.im, self._mode, self._size = picture.im, picture.mode, picture.size
        # Carry the rounding error over to keep the total duration.
        self._remainder += 1000 * (image.duration or 0)
        self.durations.append(round(self._remainder))
        self._remainder -= self.durations[-1]
        self._position += 1
        return image

    def tell(self) -> int:
        return max(self._position, 0)

    def seek(self, frame: int) -> None:
        if frame >= self.n_frames:
            raise EOFError
        while self._position < frame:  # forwards only: no encoder goes back
            self._advance()

    def encode(self, kind: str, quality: int, options: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        self.save(
            buffer,
            kind,
            save_all=self.is_animated,
            duration=self.durations,
            icc_profile=self.first.icc or b"",
            exif=self.first.exif or b"",
            xmp=self.first.xmp or b"",
            quality=quality,
            **options,
        )
        return buffer.getvalue()
