"""TIFF: samples of any type, compression and layout, and the tags."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import directory, encoded, exif, noise, rewritten


@pytest.mark.parametrize("orders", [("<", ">"), (">", "<")])
def test_byte_order_does_not_affect_samples(tmp_path, orders):
    """Big- and little-endian TIFFs give the same samples."""
    samples = noise(7, 9, 3, "uint16")
    both = [
        rewritten(
            Image(samples, format="tiff", exif=exif(order=order)),
            tmp_path / "a.tif",
        )
        for order in orders
    ]
    assert (tmp_path / "a.tif").read_bytes()[:2] == (b"II" if orders[1] == "<" else b"MM")
    for image in both:
        np.testing.assert_array_equal(image.pixels, samples)


@pytest.mark.parametrize("compression", ["LZW", "ADOBE_DEFLATE", "PACKBITS", "NONE"])
@pytest.mark.parametrize(
    ("dtype", "predictor"),
    [
        ("uint8", "NONE"),
        ("uint8", "HORIZONTAL"),
        ("uint16", "NONE"),
        ("uint16", "HORIZONTAL"),
        ("float32", "NONE"),
        ("float32", "HORIZONTAL"),
        ("float32", "FLOATINGPOINT"),
    ],
)
def test_tiffs_of_libtiff_are_read_exactly(dtype, compression, predictor):
    """Files by OpenCV's libtiff, with any compression and predictor, are read exactly."""
    samples = noise(21, 18, 3, dtype)
    options = [
        cv2.IMWRITE_TIFF_COMPRESSION,
        getattr(cv2, f"IMWRITE_TIFF_COMPRESSION_{compression}"),
    ]
    options += [cv2.IMWRITE_TIFF_PREDICTOR, getattr(cv2, f"IMWRITE_TIFF_PREDICTOR_{predictor}")]
    options += [cv2.IMWRITE_TIFF_ROWSPERSTRIP, 4]
    data = cv2.imencode(".tif", samples[..., ::-1].copy(), options)[1].tobytes()
    np.testing.assert_array_equal(image_io.read_image(data).pixels, samples)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("colours", [1, 3])
def test_libtiff_reads_our_tiff(dtype, colours):
    """OpenCV reads the samples from our TIFF."""
    samples = noise(300, 211, colours, dtype)
    data, _ = image_io.encode([Image(samples)], "tiff")
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(seen.reshape(300, 211, colours)[..., ::-1], samples)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_compressed_tiffs_are_read_as_pillow_decodes_them(mode):
    """Pillow decodes a TIFF whose compression is not bytewise."""
    picture = PIL.Image.fromarray(noise(32, 48, 3)).convert(mode)
    data = encoded(picture, "TIFF", compression="jpeg" if mode != "CMYK" else "raw")
    with PIL.Image.open(io.BytesIO(data)) as reference:
        expected = np.asarray(reference.convert("L" if mode == "L" else "RGB")).reshape(32, 48, -1)
    np.testing.assert_array_equal(image_io.read_image(data).pixels, expected)


@pytest.mark.parametrize("layout", ["tiles", "planes", "white is zero", "associated", "float64"])
def test_unusual_tiffs_are_read_exactly(layout):
    """Tiles, planes, inverted grey, associated alpha and float64 are read exactly."""
    samples = noise(20, 24, 2 if layout == "associated" else 1, "uint16")
    if layout == "planes":
        samples = noise(20, 24, 3, "uint16")
    stored = samples
    entries = {256: 24, 257: 20, 258: 16, 259: 1, 262: 1, 277: samples.shape[2], 284: 1}
    if layout == "tiles":
        padded = np.zeros((32, 32, 1), "uint16")
        padded[:20, :24] = samples
        pieces = [padded[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]
        entries |= {322: 16, 323: 16}
    elif layout == "planes":
        pieces = [samples[..., plane] for plane in range(3)]
        entries |= {262: 2, 284: 2}
    elif layout == "white is zero":
        pieces = [65535 - samples]
        entries[262] = 0
    elif layout == "float64":
        stored = noise(20, 24, 1, "float64")
        pieces = [stored]
        entries |= {258: 64, 339: 3}
    else:
        pieces = [samples]
        entries[338] = 1
    blocks = [piece.astype(piece.dtype.newbyteorder(">")).tobytes() for piece in pieces]
    starts = [8 + sum(map(len, blocks[:n])) for n in range(len(blocks))]
    where, sizes = (324, 325) if layout == "tiles" else (273, 279)
    rows = [(tag, 4, 1, struct.pack(">I", value)) for tag, value in entries.items()]
    for tag, values in ((where, starts), (sizes, map(len, blocks))):
        rows.append((tag, 4, len(blocks), struct.pack(f">{len(blocks)}I", *values)))
    body = b"".join(blocks)
    at = 8 + len(body)
    data = b"MM" + struct.pack(">HI", 42, at) + body + directory(">", at, sorted(rows))
    image = image_io.read_image(data)
    if layout == "float64":
        np.testing.assert_array_equal(image.pixels, stored.astype("float32"))
        assert image.losses == ["float64 samples are rounded to float32"]
        return
    np.testing.assert_array_equal(image.pixels, samples[..., : 3 if layout == "planes" else 1])
    if layout == "associated":
        np.testing.assert_array_equal(image.alpha, samples[..., 1])
        assert image.premultiplied


def test_layers_and_storage_tags_are_not_written(tmp_path):
    """Tags about the old pixels are dropped; private ones about the picture are kept."""
    block = b"II" + struct.pack("<HI", 42, 8)
    private, layers = (50000, 7, 6, b"secret"), (37724, 7, 6, b"layers")
    block += directory("<", 8, [(273, 4, 1, b"\1"), layers, private])
    image = rewritten(Image(noise(3, 4, 3), format="tiff", exif=block), tmp_path / "a.tif")
    assert b"secret" in image.exif
    assert b"layers" not in (tmp_path / "a.tif").read_bytes()
