"""BMP with bit fields that Pillow does not decode, such as 10 bits a channel."""

from __future__ import annotations

import struct

import numpy as np

from ..image import UNDECODED, Image, check_size, rescale

_BIT_FIELDS = (3, 6)  # compressions with masks of three and four channels
_COMMON = (8, 5, 6)  # bits of a channel that Pillow decodes


def decode_fields(data: bytes, max_pixels: int) -> Image | None:
    """Decode channels of unusual widths to 8 or 16 bits; None for all other files.

    Raises:
        ValueError: the end of the file is missing.
    """
    if data[:2] != b"BM" or len(data) < 70:
        return None
    (start,) = struct.unpack_from("<I", data, 10)
    size, width, height, _, depth, compression = struct.unpack_from("<IiiHHI", data, 14)
    if size < 40 or compression not in _BIT_FIELDS or depth not in (16, 32):
        return None
    masks = list(struct.unpack_from("<IIII", data, 54))
    if size < 56 and compression == _BIT_FIELDS[0]:
        masks[3] = 0
    widths = [bin(mask).count("1") for mask in masks]
    if not all(widths[:3]) or {*widths[:3]} <= {*_COMMON}:
        return None
    check_size(width, abs(height), max_pixels)
    stride = -(-width * depth // 32) * 4
    rows = np.frombuffer(data, np.uint8, stride * abs(height), start).reshape(abs(height), stride)
    pixels = rows[:, : width * depth // 8].view(f"<u{depth // 8}")[:: -1 if height > 0 else 1]
    deep = max(widths) > 8
    channels = []
    for mask, bits in zip(masks, widths, strict=True):
        if bits:
            shift = (mask & -mask).bit_length() - 1
            values = rescale((pixels & mask) >> shift, (1 << bits) - 1, 65535 if deep else 255)
            channels.append(values if deep else values.astype(np.uint8))
    image = Image(UNDECODED, format="bmp")
    image.set_samples(np.dstack(channels), 3)
    return image
