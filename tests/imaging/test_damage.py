"""Damaged files: each is an ImageError of one line."""

from __future__ import annotations

import importlib.util
import struct

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restormer_cli.errors import ImageError
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.camera import dng, mosaic
from tests.support.image_files import XMP, chunk, directory, encoded, exif, noise, png, wide_gamut


def bad_files():
    """Yield name, bytes and the expected message."""
    photo = noise(40, 50, 3)
    whole = {
        "png": png(photo, 2, 8),
        "deep.png": png(photo.astype("uint16") * 257, 2, 16),
        "jpg": encoded(PIL.Image.fromarray(photo), "JPEG"),
        "webp": encoded(PIL.Image.fromarray(photo), "WEBP"),
        "tif": encoded(PIL.Image.fromarray(photo), "TIFF", compression="tiff_lzw"),
        "bmp": encoded(PIL.Image.fromarray(photo), "BMP"),
    }
    for name, data in whole.items():
        yield f"half.{name}", data[: len(data) // 2], "damaged|not an image"
    yield "empty.png", b"", "empty"
    yield "text.png", b"hello, world", "not an image"
    yield (
        "short.png",
        png(photo[:20], 2, 8).replace(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 20, 8, 2, 0, 0, 0)),
            chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 40, 8, 2, 0, 0, 0)),
        ),
        "damaged",
    )
    yield (
        "zero.png",
        whole["png"].replace(struct.pack(">II", 50, 40), struct.pack(">II", 0, 40)),
        "nothing to restore",
    )
    bomb = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    yield "bomb.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bomb), "over the limit"
    wide = struct.pack("<iiHH", 40000, 40000, 1, 24)
    yield "bomb.bmp", whole["bmp"][:18] + wide + whole["bmp"][30:], "over the limit"
    entries = [(256, 4, 1, b"\0\0\1\0"), (257, 4, 1, b"\0\0\1\0")]
    bomb = b"II" + struct.pack("<HI", 42, 8) + directory("<", 8, entries)
    yield "bomb.tif", bomb, "over the limit"
    raw = [(50706, 1, 4, b"\1\4\0\0"), (256, 4, 1, b"\1"), (257, 4, 1, b"\1")]
    yield "raw.dng", b"II" + struct.pack("<HI", 42, 8) + directory("<", 8, sorted(raw)), "raw"


@pytest.mark.parametrize(
    ("name", "data", "message"), [pytest.param(*bad, id=bad[0]) for bad in bad_files()]
)
def test_a_damaged_file_is_an_error_of_one_line(tmp_path, name, data, message):
    """The error of a damaged file has one line with the file and the cause."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        image_io.read_image(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 3])
def test_nan_and_infinity_are_refused(value, channel):
    """A float image with NaN or infinity, in colour or alpha, is refused."""
    samples = noise(5, 4, 4, "float32")
    samples[2, 1, channel] = value
    data, _ = image_io.encode([Image(samples[..., :3], samples[..., 3])], "tiff")
    with pytest.raises(ImageError, match="NaN or infinite"):
        image_io.read_image(data)


def fuzzed():
    """Yield small intact files of each kind."""
    picture = PIL.Image.fromarray(noise(9, 8, 3))
    info = {"exif": exif(6), "icc_profile": wide_gamut()}
    yield png(noise(9, 8, 4, "uint16"), 6, 16, chunk(b"eXIf", exif(6)))
    yield png(noise(9, 8, 1) % 4, 3, 8, chunk(b"PLTE", bytes(range(12))))
    yield encoded(picture, "JPEG", exif=b"Exif\0\0" + exif(6), xmp=XMP % 6)
    yield encoded(picture, "WEBP", lossless=True, **info)
    yield encoded(picture, "TIFF", compression="tiff_lzw")
    for dtype in ("uint16", "float32"):
        samples = noise(9, 8, 4, dtype)
        image = Image(samples[..., :3], samples[..., 3], exif=exif())
        yield image_io.encode([image], "tiff")[0]
    yield encoded(picture, "BMP")
    for kind in ("GIF", "WEBP", "AVIF"):
        others = [PIL.Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in (1, 2)]
        yield encoded(picture, kind, save_all=True, append_images=others, duration=70, loop=2)
    pages = [Image(noise(9, 8, 3, seed=seed), exif=exif()) for seed in range(3)]
    for kind in ("tiff", "png"):
        yield image_io.encode(pages, kind, count=3)[0]
    if importlib.util.find_spec("pillow_heif"):
        yield image_io.encode([Image(noise(9, 8, 3), exif=exif())], "heif")[0]
    if importlib.util.find_spec("rawpy"):
        yield dng(mosaic(np.full((24, 32, 3), 0.5)))


WHOLE = list(fuzzed())


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_raises_only_image_errors(data):
    """A file with flipped bits or a missing end is read or is an ImageError."""
    whole = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    try:
        images = list(image_io.decode(bytes(whole[:cut]), max_pixels=100_000).images)
    except ImageError as error:
        assert error.message  # noqa: PT017 - both outcomes are valid
    else:
        assert all(image.pixels.ndim == 3 and image.pixels.size > 0 for image in images)
