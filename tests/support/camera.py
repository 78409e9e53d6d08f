"""Small camera raw files (DNG and NEF) that LibRaw can read."""

from __future__ import annotations

import struct

import numpy as np

from restormer_cli.imaging.codecs.blocks import exif

# XYZ (D65) to the colours of a camera whose sensor measures linear sRGB.
_XYZ_TO_CAMERA = [
    *(3.2404542, -1.5371385, -0.4985314),
    *(-0.9692660, 1.8760108, 0.0415560),
    *(0.0556434, -0.2040259, 1.0572252),
]
BALANCE = (2.0, 1.0, 1.5)
"""Factors of the camera's white balance for red, green and blue."""


MATRIX = ((0.902, -0.289, -0.0715), (-0.4535, 1.2436, 0.2348), (-0.0934, 0.1919, 0.7086))
"""XYZ (D65) to the colours of the camera of `nef`, in LibRaw's table."""
BLACK = 600
"""Black of that camera, in LibRaw's table."""


def mosaic(linear: np.ndarray) -> np.ndarray:
    """Return sensor samples (Bayer pattern RGGB, 16 bits) for linear sRGB, H W 3 in 0..1."""
    unbalanced = linear / np.array(BALANCE)
    planes = np.empty(linear.shape[:2])
    for (row, column), colour in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
        planes[row::2, column::2] = unbalanced[row::2, column::2, colour]
    return np.rint(planes * 65535).astype(np.uint16)


def dng(sensor: np.ndarray, *, orientation: int = 1) -> bytes:
    """Encode sensor samples, H W of 16 bits, as a DNG with the required tags only."""
    height, width = sensor.shape

    def pack(form: str, *numbers: int) -> bytes:
        return struct.pack("<" + form, *numbers)

    def short(*numbers: int) -> tuple[int, int, bytes]:
        return 3, len(numbers), pack(f"{len(numbers)}H", *numbers)

    def long(number: int) -> tuple[int, int, bytes]:
        return 4, 1, pack("I", number)

    def text(value: str) -> tuple[int, int, bytes]:
        return 2, len(value) + 1, value.encode() + b"\0"

    def ratios(kind: int, *values: float) -> tuple[int, int, bytes]:
        form = "ii" if kind == 10 else "II"
        return kind, len(values), b"".join(pack(form, round(v * 10**6), 10**6) for v in values)

    tags = {
        254: long(0),  # the full picture, not a preview
        256: long(width),
        257: long(height),
        258: short(16),
        259: short(1),
        262: short(32803),  # colour filters
        271: text("Kamera"),
        272: text("One"),
        273: long(0),
        274: short(orientation),
        277: short(1),
        278: long(height),
        279: long(2 * height * width),
        33421: short(2, 2),
        33422: (1, 4, b"\0\1\1\2"),
        50706: (1, 4, b"\1\4\0\0"),
        50708: text("Kamera One"),
        50714: long(0),  # black
        50717: long(65535),  # white
        50721: ratios(10, *_XYZ_TO_CAMERA),
        50728: ratios(5, *(1 / factor for factor in BALANCE)),
        50778: short(21),  # D65
    }
    values = {tag: value for tag, (_, _, value) in tags.items() if len(value) > 4}
    position = 8 + 2 + 12 * len(tags) + 4
    offsets = {}
    for tag, value in values.items():
        offsets[tag] = position
        position += len(value) + len(value) % 2
    tags[273] = long(position)  # offset of the samples, at the end
    entries = b"".join(
        pack("HHI", tag, kind, count)
        + (pack("I", offsets[tag]) if tag in offsets else value[:4].ljust(4, b"\0"))
        for tag, (kind, count, value) in tags.items()
    )
    heap = b"".join(value + b"\0" * (len(value) % 2) for value in values.values())
    directory = pack("H", len(tags)) + entries + pack("I", 0) + heap
    return b"II*\0" + pack("I", 8) + directory + sensor.astype("<u2").tobytes()


def nef(sensor: np.ndarray) -> bytes:
    """Encode sensor samples, H W of 16 bits, as the file of a camera that LibRaw knows."""
    tags = {tag: value for tag, value in exif.parse(dng(sensor)).tags.items() if tag < 50000}
    for tag, text in ((271, b"NIKON CORPORATION\0"), (272, b"NIKON D750\0")):
        tags[tag] = exif.Tag(exif.ASCII, len(text), text)
    tags[273] = exif.integer_tag("<", exif.LONG, 8)
    return exif.build("<", tags, sensor.astype("<u2").tobytes())
