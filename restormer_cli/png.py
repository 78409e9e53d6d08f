"""PNG: OpenCV codes the pixels, 16 bits included; the chunks are ours, so that all of them survive.

Sections are those of the PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from .pixels import UNDECODED, Image, check_size, swapped

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # 5.2


class _Layout(NamedTuple):
    """What a colour type stands for."""

    colours: int
    alpha: bool
    depths: tuple[int, ...]


# Colour type -> layout (11.2, IHDR).
_LAYOUTS = {
    0: _Layout(1, False, (1, 2, 4, 8, 16)),
    2: _Layout(3, False, (8, 16)),
    3: _Layout(3, False, (1, 2, 4, 8)),
    4: _Layout(1, True, (8, 16)),
    6: _Layout(3, True, (8, 16)),
}
_PALETTE = 3
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of samples, grey or RGB, with or without alpha
_IHDR = ">IIBBBBB"
# Chunks that a lower-case last letter does not mark as safe to copy (5.4), and yet are.
_KEPT = frozenset([b"cHRM", b"gAMA", b"sRGB", b"mDCV", b"cLLI", b"sPLT", b"tIME"])
_PER_LAYOUT = frozenset([b"bKGD", b"sBIT"])  # their form depends on depth and colour type
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_INCH = 0.0254  # in metres, which pHYs counts in
# A PNG's compressed data know bytes per pixel only, not which samples they make up (9.2). So each
# layout can be coded as another of the same width, which OpenCV does know.
_STAND_IN = {1: ("u1", 1), 2: (">u2", 1), 3: ("u1", 3), 4: ("u1", 4), 6: (">u2", 3), 8: (">u2", 4)}


def decode(data: bytes, max_pixels: int) -> Image:
    """Decode to 8 or 16 bits, whichever it has; a palette becomes RGB."""
    width, height, depth, colour_type, *methods = struct.unpack_from(_IHDR, data, 16)
    check_size(width, height, max_pixels)
    layout = _LAYOUTS[colour_type]
    image = Image(UNDECODED, format="png")
    chunks = split(data, image.notes)
    single = dict(chunks)
    needed = {b"IHDR", b"IDAT"} | ({b"PLTE"} if colour_type == _PALETTE else set())
    # libpng would find this out, too, and say so on stderr.
    if (
        chunks[0][0] != b"IHDR"
        or not needed <= single.keys()
        or depth not in layout.depths
        or methods not in ([0, 0, 0], [0, 0, 1])  # compression, filter, interlace
    ):
        raise ValueError("its header makes no sense, or chunks are missing")
    key = single.get(b"tRNS")
    coding = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
    if colour_type == _PALETTE:
        coding.add(b"tRNS")
    bare = join([chunk for chunk in chunks if chunk[0] in coding])
    decoded = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("the pixels cannot be decoded")
    samples = swapped(decoded.reshape(height, width, -1))
    if layout.alpha and layout.colours == 1:
        samples = samples[..., 2:]  # grey comes as RGB and alpha
    if key is not None and colour_type != _PALETTE:
        # One colour is transparent (11.3.1). OpenCV leaves this out for grey.
        scale = 1 if depth == 16 else 255 // (2**depth - 1)
        transparent = np.array(struct.unpack(f">{layout.colours}H", key)) * scale
        opaque = (samples != transparent).any(axis=2) * np.iinfo(samples.dtype).max
        samples = np.dstack([samples, opaque.astype(samples.dtype)])
    image.put(samples, layout.colours)
    _read_metadata(image, chunks, colour_type != _PALETTE and depth >= 8 and key is None)
    return image


def _read_metadata(image: Image, chunks: list[tuple[bytes, bytes]], same_layout: bool) -> None:
    extras = []
    for kind, body in chunks:
        if kind == b"eXIf":
            image.exif = body
        elif kind == b"iCCP":  # name, NUL, method, profile (11.3.2)
            try:
                # 64 MiB is far beyond any profile, and bounds what a hostile one can unfold to.
                packed = body[body.index(b"\0") + 2 :]
                image.icc = zlib.decompressobj().decompress(packed, 2**26)
            except (ValueError, zlib.error):
                image.notes.append("the ICC profile is damaged: it is left out")
        elif kind == b"cICP" and len(body) == 4:  # 11.3.2.6
            primaries, transfer, matrix, full = body
            image.cicp = (primaries, transfer, matrix, full)
        elif kind == b"iTXt" and body.startswith(_XMP_KEYWORD):
            # Keyword, whether compressed, method, language, translated keyword, text (11.3.3).
            head, text = body[len(_XMP_KEYWORD) :][:2], body[len(_XMP_KEYWORD) + 2 :]
            text = text.split(b"\0", 2)[2]
            image.xmp = zlib.decompressobj().decompress(text, 2**28) if head[0] else text
        elif (
            (kind[3:].islower() and kind != b"IDAT")
            or kind in _KEPT
            or (kind in _PER_LAYOUT and same_layout)
        ):
            extras.append((kind, body))
            if kind == b"pHYs" and body[8:] == b"\1":
                x, y = struct.unpack_from(">II", body)
                image.dpi = (x * _INCH, y * _INCH)
    image.extras = tuple(extras)


def encode(image: Image, quality: int, notes: list[str]) -> bytes:
    """Encode 8 or 16 bits, with alpha or without."""
    samples = image.samples()
    height, width, count = samples.shape
    raw = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    dtype, planes = _STAND_IN[count * samples.itemsize]
    stand_in = raw.view(dtype).reshape(height, width, planes)
    # Naming a compression level would lose OpenCV's run-length strategy, which is both faster and
    # smaller on photographs once every filter is tried.
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    native = swapped(stand_in.astype(stand_in.dtype.newbyteorder("=")))
    coded = split(cv2.imencode(".png", native, options)[1].tobytes(), notes)
    header = (width, height, samples.itemsize * 8, _COLOUR_TYPES[count], 0, 0, 0)
    chunks = [(b"IHDR", struct.pack(_IHDR, *header))]
    if image.icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(image.icc)))
    if image.cicp is not None:
        # Of another format, matrix and range are those of its coding; what is decoded is full RGB.
        how = image.cicp[2:] if image.format == "png" else (0, 1)
        chunks.append((b"cICP", bytes((*image.cicp[:2], *how))))
    chunks += image.extras
    if image.dpi is not None and b"pHYs" not in dict(image.extras):
        x, y = (round(dots / _INCH) for dots in image.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if image.exif is not None:
        chunks.append((b"eXIf", image.exif))
    if image.xmp is not None:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0" + image.xmp))
    chunks += [chunk for chunk in coded if chunk[0] in (b"IDAT", b"IEND")]
    return join(chunks)


def split(data: bytes, notes: list[str]) -> list[tuple[bytes, bytes]]:
    """Kinds and bodies of the chunks (5.3), checked before a decoder sees them."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        at += 12 + length
        if zlib.crc32(body, zlib.crc32(kind)) == checksum:
            chunks.append((kind, body))
        elif kind[:1].isupper():  # critical (5.4)
            raise ValueError(f"wrong checksum of {kind!r}")
        else:
            notes.append(f"a damaged chunk, {kind!r}, is left out")
    return chunks


def join(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The inverse of `split`."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        checksum = zlib.crc32(body, zlib.crc32(kind))
        parts += [struct.pack(">I4s", len(body), kind), body, struct.pack(">I", checksum)]
    return b"".join(parts)
