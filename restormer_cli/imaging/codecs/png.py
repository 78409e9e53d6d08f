"""PNG and animated PNG: OpenCV codes the pixels, and the other chunks are copied.

Section numbers are those of the PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from fractions import Fraction
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np

from ..image import (
    UNDECODED,
    Array,
    Image,
    ImageSequence,
    check_size,
    from_float,
    swap_red_blue,
    to_float,
)
from ..integrity import png as integrity
from ..integrity.fault import describe_rest
from ..integrity.messages import library_messages
from . import CODEC_ERRORS, INCH, STALE_CREDENTIALS
from .blocks import exif, photoshop, xmp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_Chunks: TypeAlias = integrity.Chunks
_Frames: TypeAlias = list[tuple[tuple[int, ...], _Chunks]]  # fields of fcTL, and IDAT chunks

SIGNATURE = integrity.SIGNATURE
_IHDR = ">IIBBBBB"
# Colour type, a sum of the three flags below -> depths (11.2, IHDR).
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE, _COLOUR, _ALPHA = 1, 2, 4
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # samples of a pixel -> colour type
# Chunks to keep although their names do not mark them as safe to copy (5.4).
_KEPT = frozenset([b"cHRM", b"gAMA", b"sRGB", b"mDCV", b"cLLI", b"sPLT", b"tIME"])
_PER_LAYOUT = frozenset([b"bKGD", b"sBIT"])  # depend on depth and colour type
_XMP_KEYWORD = "XML:com.adobe.xmp"
_TEXTS = frozenset([b"tEXt", b"zTXt", b"iTXt"])
_MAX_KEYWORD = 79  # bytes (11.3.3.2)
_MAX_TEXT = 2**26  # bytes of all texts, inflated
_MAX_PROFILE = 2**26  # bytes, which is more than any real one
# ImageMagick and ExifTool keep metadata in texts of hexadecimal digits: a name, the size, the data.
_RAW_PROFILE = "Raw profile type "
_PROFILES = frozenset(["exif", "app1", "icc", "icm", "xmp"])
_RESOURCES = frozenset(["iptc", "8bim"])
_DIGITS = 72  # in a line
# Bytes of a pixel -> type and samples to code them as. Compression and filters depend only on the
# number of bytes (9.2), so each layout is coded as one that OpenCV supports.
_STAND_IN = {1: ("u1", 1), 2: (">u2", 1), 3: ("u1", 3), 4: ("u1", 4), 6: (">u2", 3), 8: (">u2", 4)}
_ACTL, _FCTL, _FDAT = b"acTL", b"fcTL", b"fdAT"
_ACTL_FORM, _FCTL_FORM = ">II", ">IIIIIHHBB"  # 11.3.6.1, 11.3.6.2
_BACKGROUND, _PREVIOUS = 1, 2  # disposal of a frame; 0: keep it
_OVER = 1  # blending of a frame; 0: replace
_MAX_TERM = 65535  # of a duration's numerator and denominator


def decode(data: bytes, max_pixels: int) -> ImageSequence:
    """Decode one image, or the composed frames of an animation, at their own depth."""
    width, height = struct.unpack_from(">II", data, 16)
    check_size(width, height, max_pixels)
    chunks, cause, damaged, end = integrity.split(data)
    losses = [f"a damaged chunk, {kind!r}, is left out" for kind in damaged]
    losses += describe_rest(data, end)
    frames, still = _parse_frames(chunks, cause)
    if not frames:
        return ImageSequence.single(decode_still(chunks, max_pixels, cause, losses))
    for (_, across, down, left, top, *_), _ in frames:
        if left + across > width or top + down > height:
            raise ValueError("a frame lies outside the picture")
    images = _compose(chunks, frames, losses, max_pixels)
    omitted = ("a still picture for viewers without animation",) if still else ()
    return ImageSequence(images, "png", len(frames), "frame", omitted)


def encode(images: Iterable[Image], total: int, quality: int) -> bytes:
    """Encode one image, or whole frames of one size and type, with 8 or 16 bits."""
    if total == 1:
        (image,) = images
        return integrity.join(_encode_still(image))
    chunks: _Chunks = []
    number = 0  # of the next fcTL or fdAT
    for image in images:
        still = _encode_still(image)
        if first := not chunks:
            actl = (_ACTL, struct.pack(_ACTL_FORM, total, image.plays))
            common = (chunk for chunk in still[1:] if chunk[0] not in (b"IDAT", b"IEND"))
            chunks += [still[0], actl, *common]
        height, width = image.pixels.shape[:2]
        delay = _delay(image.duration or Fraction(0))
        control = (number, width, height, 0, 0, *delay, 0, 0)
        chunks.append((_FCTL, struct.pack(_FCTL_FORM, *control)))
        number += 1
        for kind, body in still:
            if kind == b"IDAT" and first:
                chunks.append((kind, body))
            elif kind == b"IDAT":
                chunks.append((_FDAT, struct.pack(">I", number) + body))
                number += 1
    return integrity.join([*chunks, (b"IEND", b"")])


def decode_still(
    chunks: _Chunks,
    max_pixels: int,
    cause: str | None = None,
    losses: Iterable[str] = (),
    *,
    corrupt: bool = False,
) -> Image:
    """Decode one image to 8 or 16 bits; a palette becomes RGB.

    Args:
        chunks: those of `integrity.split`.
        max_pixels: limit of the size.
        cause: of damage, by `integrity.split`.
        losses: of a file without damage.
        corrupt: True if decoding has failed: only then, the pixels are inflated a second time.
    """
    if not chunks or chunks[0][0] != b"IHDR":
        raise ValueError(cause or "its header is missing")
    file = chunks
    width, height, depth, colour_type, *methods = struct.unpack_from(_IHDR, chunks[0][1])
    check_size(width, height, max_pixels)
    depths = _DEPTHS[colour_type]
    colours = 3 if colour_type & _COLOUR else 1
    has_palette = bool(colour_type & _PALETTE)
    image = Image(UNDECODED, format="png")
    if depth in depths:
        chunks, image.damage = integrity.repair(chunks, cause, corrupt=corrupt)
    if image.damage is None:
        image.losses.extend(losses)
    bodies = dict(chunks)
    needed = {b"IHDR", b"IDAT"} | ({b"PLTE"} if has_palette else set())
    # Checked here, because libpng reports errors on stderr.
    if (
        not needed <= bodies.keys()
        or depth not in depths
        or methods not in ([0, 0, 0], [0, 0, 1])  # compression, filter, interlace
    ):
        raise ValueError("its header is invalid, or chunks are missing")
    key = None if has_palette else bodies.get(b"tRNS")
    coding = {b"IHDR", b"PLTE", b"IDAT", b"IEND"} | ({b"tRNS"} if has_palette else set())
    bare = integrity.join([chunk for chunk in chunks if chunk[0] in coding])
    with library_messages():  # the exception says enough
        decoded = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None and not corrupt:
        return decode_still(file, max_pixels, cause, corrupt=True)
    if decoded is None:
        raise ValueError("the pixels cannot be decoded")
    samples = swap_red_blue(decoded.reshape(height, width, -1))
    if colour_type == _ALPHA:
        samples = samples[..., 2:]  # OpenCV decodes grey and alpha as RGBA
    if key is not None:
        # One colour is transparent (11.3.1), which OpenCV ignores for grey.
        scale = 1 if depth == 16 else 255 // (2**depth - 1)
        transparent = np.array(struct.unpack(f">{colours}H", key)) * scale
        opaque = (samples != transparent).any(axis=2) * np.iinfo(samples.dtype).max
        samples = np.dstack([samples, opaque.astype(samples.dtype)])
    image.set_samples(samples, colours)
    _read_metadata(image, chunks, not has_palette and depth >= 8 and key is None)
    return image


def with_axes_exchanged(extras: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the kept chunks of a picture turned by 90 degrees: resolutions change places."""
    return tuple(
        (kind, body[4:8] + body[:4] + body[8:] if kind == b"pHYs" else body)
        for kind, body in extras
    )


def resources(extras: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the resources of Photoshop's in kept raw profiles."""
    for kind, body in extras:
        keyword = body.partition(b"\0")[0].decode("latin-1").lower()
        if kind in _TEXTS and keyword in {_RAW_PROFILE.lower() + name for name in _RESOURCES}:
            return _parse_profile(_read_text(kind, body, _MAX_TEXT)) or b""
    return b""


def of_resources(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the raw profile of Photoshop's resources, by the name that most readers know."""
    return (_profile_chunk("iptc", data),)


def _read_metadata(image: Image, chunks: _Chunks, same_layout: bool) -> None:
    extras: _Chunks = []
    texts: list[tuple[str, str]] = []
    profiles: dict[str, bytes] = {}
    room = _MAX_TEXT
    for kind, body in chunks:
        if kind == b"eXIf":
            image.exif = body
        elif kind == b"iCCP":
            try:
                image.icc = _read_profile(body)
            except CODEC_ERRORS:
                image.losses.append("the ICC profile is damaged: it is left out")
        elif kind == b"cICP" and len(body) == 4:  # 11.3.2.6
            image.cicp = (body[0], body[1], body[2], body[3])
        elif kind == b"caBX":
            image.notes.append(STALE_CREDENTIALS)
        elif kind in _TEXTS:
            keyword = body.partition(b"\0")[0].decode("latin-1")
            try:
                text = _read_text(kind, body, room)
            except CODEC_ERRORS:
                name = keyword[:_MAX_KEYWORD]
                image.losses.append(f"the text {name!r} is damaged or too long: it is left out")
                continue
            room -= len(text)
            name = keyword.removeprefix(_RAW_PROFILE).lower()
            profile = _parse_profile(text) if keyword.startswith(_RAW_PROFILE) else None
            if keyword == _XMP_KEYWORD:
                image.xmp = text
            elif profile is not None and name in _PROFILES:
                profiles[name] = profile
            else:
                if profile is not None and name in _RESOURCES:
                    image.iptc = image.iptc or photoshop.iptc(profile)
                    bare = photoshop.without_thumbnails(profile)
                    kind, body = (kind, body) if bare == profile else _profile_chunk(name, bare)
                elif not keyword.startswith(_RAW_PROFILE):
                    encoding = "utf-8" if kind == b"iTXt" else "latin-1"
                    texts.append((keyword, text.decode(encoding, "replace")))
                extras.append((kind, body))
        elif (
            (kind[3:].islower() and kind != b"IDAT")
            or kind in _KEPT
            or (kind in _PER_LAYOUT and same_layout)
        ):
            extras.append((kind, body))
            if kind == b"pHYs" and body[8:] == b"\1":
                x, y = struct.unpack_from(">II", body)
                image.dpi = (_per_inch(x), _per_inch(y))
    image.texts, image.extras = tuple(texts), tuple(extras)
    _use_profiles(image, profiles)


def _per_inch(per_metre: int) -> float:
    """Convert dots per metre to whole dots per inch if they may have been rounded from these."""
    dots = per_metre * INCH
    return float(round(dots)) if round(round(dots) / INCH) == per_metre else dots


def _read_profile(body: bytes) -> bytes:
    """Return the profile of an iCCP chunk (11.3.2), or raise an error if its end is missing."""
    inflater = zlib.decompressobj()
    packed = body[body.index(b"\0") + 2 :]  # after the name and the method
    profile = inflater.decompress(packed, _MAX_PROFILE)
    # One of the length in its header is whole, even without a checksum (ICC.1:2022, 7.2.2).
    if not inflater.eof and len(profile) != int.from_bytes(profile[:4], "big"):
        raise ValueError("the profile is cut off, or too long")
    return profile


def _read_text(kind: bytes, body: bytes, limit: int) -> bytes:
    """Return the text of a text chunk (11.3.3), or raise an error if it is over the limit."""
    text = body.partition(b"\0")[2]
    packed = kind == b"zTXt"
    if packed:
        text = text[1:]  # after the method
    elif kind == b"iTXt":  # compression flag, method, language, translated keyword, text
        packed = text[0] == 1
        _, _, text = text[2:].split(b"\0", 2)
    if packed:
        inflater = zlib.decompressobj()
        text = inflater.decompress(text, limit + 1)
        if not inflater.eof:
            raise ValueError("the text is cut off, or too long")
    if len(text) > limit:
        raise ValueError("the text is too long")
    return text


def _text_chunk(keyword: str, text: str) -> tuple[bytes, bytes]:
    """Return a chunk that readers of all ages decode, or iTXt if Latin-1 is not enough."""
    name = keyword.encode("latin-1", "replace")[:_MAX_KEYWORD].strip() or b"Comment"
    text = text.replace("\0", "")
    try:
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", name + b"\0\0\0\0\0" + text.encode()


def _parse_profile(text: bytes) -> bytes | None:
    """Return the data of a raw profile, or None if it is damaged."""
    with suppress(ValueError):
        size, digits = text.lstrip().partition(b"\n")[2].split(None, 1)
        profile = bytes.fromhex(digits.decode("ascii"))
        return profile if len(profile) == int(size) else None
    return None


def _profile_chunk(name: str, data: bytes) -> tuple[bytes, bytes]:
    """Return a raw profile as a compressed text."""
    digits = data.hex()
    lines = (digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS))
    text = f"\n{name}\n{len(data):8d}\n" + "\n".join(lines) + "\n"
    keyword = (_RAW_PROFILE + name).encode()
    return b"zTXt", keyword + b"\0\0" + zlib.compress(text.encode())


def _use_profiles(image: Image, profiles: dict[str, bytes]) -> None:
    """Move raw profiles to the image's fields, unless chunks of their own are there."""
    for name, data in profiles.items():
        if name in ("icc", "icm"):
            image.icc = image.icc or data
        elif name == "xmp" or data.startswith(xmp.SEGMENT):
            image.xmp = image.xmp or data.removeprefix(xmp.SEGMENT)
        else:
            image.exif = image.exif or data.removeprefix(exif.SEGMENT)


def _encode_still(image: Image) -> _Chunks:
    samples = image.samples()
    height, width, channels = samples.shape
    raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    dtype, planes = _STAND_IN[channels * samples.itemsize]
    stand_in = raw.view(dtype).reshape(height, width, planes)
    native = swap_red_blue(stand_in.astype(stand_in.dtype.newbyteorder("=")))
    # A compression level would disable OpenCV's run-length strategy, which is faster and, with all
    # filters, smaller for photographs.
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    coded = integrity.split(cv2.imencode(".png", native, options)[1].tobytes()).chunks
    header = (width, height, samples.itemsize * 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", struct.pack(_IHDR, *header))]
    if image.icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(image.icc)))
    if image.cicp is not None:
        # Matrix and range of another format describe its coding: here, samples are full-range RGB.
        coding = image.cicp[2:] if image.format == "png" else (0, 1)
        chunks.append((b"cICP", bytes((*image.cicp[:2], *coding))))
    chunks += image.extras
    if image.dpi is not None and b"pHYs" not in dict(image.extras):
        x, y = (round(dots / INCH) for dots in image.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if image.exif is not None:
        chunks.append((b"eXIf", image.exif))
    if image.xmp is not None:
        chunks.append((b"iTXt", _XMP_KEYWORD.encode() + b"\0\0\0\0\0" + image.xmp))
    texts = [_text_chunk(*text) for text in image.texts]
    if image.iptc is not None and not resources(image.extras):
        texts.append(_profile_chunk("iptc", photoshop.of_iptc(image.iptc)))
    kept = {body.partition(b"\0")[0] for kind, body in image.extras if kind in _TEXTS}
    chunks += [chunk for chunk in texts if chunk[1].partition(b"\0")[0] not in kept]
    return chunks + [chunk for chunk in coded if chunk[0] in (b"IDAT", b"IEND")]


def _parse_frames(chunks: _Chunks, cause: str | None) -> tuple[_Frames, bool]:
    """Return the frames of an animation, and True if there is a separate still picture.

    Raises:
        ValueError: the animation is damaged, with this cause or because pieces are missing.
    """
    if _ACTL not in (kind for kind, _ in chunks):
        return [], False
    if cause is not None:
        raise ValueError(cause)
    frames: _Frames = []
    still = False
    numbers = count()
    for kind, body in chunks:
        if kind in (_FCTL, _FDAT) and struct.unpack_from(">I", body)[0] != next(numbers):
            raise ValueError("part of a frame is missing")
        if kind == _FCTL:
            frames.append((struct.unpack(_FCTL_FORM, body), []))
        elif kind == b"IDAT" and not frames:
            still = True
        elif kind in (b"IDAT", _FDAT):
            frames[-1][1].append((b"IDAT", body if kind == b"IDAT" else body[4:]))
    return frames, still


def _compose(
    chunks: _Chunks, frames: _Frames, losses: list[str], max_pixels: int
) -> Iterator[Image]:
    header = dict(chunks)[b"IHDR"]
    (plays,) = struct.unpack_from(">4xI", dict(chunks)[_ACTL])
    per_frame = (b"IHDR", b"IDAT", b"IEND", _ACTL, _FCTL, _FDAT)
    common = [chunk for chunk in chunks if chunk[0] not in per_frame]
    canvas: Array = UNDECODED
    for (number, across, down, left, top, delay, unit, dispose, blend), pixels in frames:
        size = struct.pack(">II", across, down)
        still = [(b"IHDR", size + header[8:]), *common, *pixels, (b"IEND", b"")]
        image = decode_still(still, max_pixels)
        samples, colours = image.samples(), image.pixels.shape[2]
        if canvas is UNDECODED:
            width, height = struct.unpack_from(">II", header)
            canvas = np.zeros((height, width, samples.shape[2]), samples.dtype)
        region = canvas[top : top + down, left : left + across]
        before = region.copy()
        over = blend == _OVER and image.alpha is not None
        region[:] = _blend_over(before, samples) if over else samples
        image.set_samples(canvas.copy(), colours)
        image.plays, image.duration = plays, Fraction(delay, unit or 100)
        image.losses = [*losses, *image.losses]
        yield image
        losses = []
        if dispose == _BACKGROUND or (dispose == _PREVIOUS and not number):
            region[:] = 0
        elif dispose == _PREVIOUS:
            region[:] = before


def _blend_over(below: Array, above: Array) -> Array:
    """Blend H W S samples with alpha over others, with Porter and Duff's "over" operator."""
    under, upper = to_float(below), to_float(above)
    opacity = upper[..., -1:]
    rest = under[..., -1:] * (1 - opacity)
    alpha = opacity + rest
    colour = upper[..., :-1] * opacity + under[..., :-1] * rest
    colour /= np.maximum(alpha, np.float32(1e-6))
    return from_float(np.concatenate([colour, alpha], axis=2), above.dtype)


def _delay(seconds: Fraction) -> tuple[int, int]:
    """Return the nearest fraction whose numerator and denominator fit fcTL."""
    nearest = seconds.limit_denominator(max(1, int(_MAX_TERM / max(seconds, Fraction(1)))))
    return min(nearest.numerator, _MAX_TERM), nearest.denominator
