"""PNM, PAM and PFM in full depth."""

from __future__ import annotations

import numpy as np
import pytest

from restormer_cli.errors import DamagedError
from restormer_cli.imaging.io import decode, encode, read_image
from tests.support.image_files import noise

FLOATS = (noise(5, 7, 3, "float32"), noise(5, 7, 1, "float32"))


def text(samples: np.ndarray) -> bytes:
    return b"\n".join(
        b" ".join(b"%d" % v for v in row) for row in samples.reshape(len(samples), -1)
    )


def pam(samples: np.ndarray, maximum: int, kind: bytes | None) -> bytes:
    height, width, depth = samples.shape
    lines = [b"P7", b"# comment", b"WIDTH %d" % width, b"HEIGHT %d" % height]
    lines += [b"DEPTH %d" % depth, b"MAXVAL %d" % maximum]
    lines += [b"TUPLTYPE " + kind] if kind else []
    raw = samples.astype(">u2" if maximum > 255 else "u1").tobytes()
    return b"\n".join([*lines, b"ENDHDR", raw])


@pytest.mark.parametrize("maximum", [1, 3, 100, 255, 256, 1023, 65535])
@pytest.mark.parametrize("form", [b"P2", b"P3", b"P5", b"P6", b"P7"])
def test_every_maximum_is_scaled_to_the_full_range(form, maximum):
    """Up to 255 gives 8 bits and more gives 16, in text and in binary."""
    colours = 3 if form in (b"P3", b"P6", b"P7") else 1
    samples = noise(5, 7, colours, "uint16").astype(int) % (maximum + 1)
    samples[0, 0], samples[0, 1] = 0, maximum
    header = form + b"#a\n7 # b\n5\t%d\n" % maximum
    if form == b"P7":
        data = pam(samples, maximum, b"RGB")
    elif form in (b"P2", b"P3"):
        data = header + b"# comment\n" + text(samples) + b"\n"
    else:
        data = header + samples.astype(">u2" if maximum > 255 else "u1").tobytes()
    image = read_image(data)
    top = 255 if maximum <= 255 else 65535
    assert image.pixels.dtype == ("uint8" if maximum <= 255 else "uint16")
    np.testing.assert_array_equal(image.pixels, np.rint(samples * (top / maximum)))


@pytest.mark.parametrize("form", ["P1", "P1 without spaces", "P4"])
def test_bitmaps_are_black_where_they_are_1(form):
    """Rows of a binary bitmap are padded to bytes."""
    bits = noise(5, 11, 1) % 2
    if form == "P4":
        data = b"P4 11 5\n" + np.packbits(bits[..., 0], axis=1).tobytes()
    else:
        plain = text(bits)
        data = b"P1\n11 5\n" + (plain if form == "P1" else plain.replace(b" ", b""))
    np.testing.assert_array_equal(read_image(data).pixels, 255 * (1 - bits))


@pytest.mark.parametrize(
    ("kind", "depth", "colours", "alpha"),
    [
        (b"GRAYSCALE", 1, 1, False),
        (b"GRAYSCALE_ALPHA", 2, 1, True),
        (b"RGB", 3, 3, False),
        (b"RGB_ALPHA", 4, 3, True),
        (b"BLACKANDWHITE_ALPHA", 2, 1, True),
        (None, 4, 3, False),
        (b"INFRARED", 2, 1, False),
    ],
)
def test_a_pam_has_the_channels_of_its_type(kind, depth, colours, alpha):
    """Samples that the type does not name are bands of unspecified meaning."""
    samples = noise(5, 7, depth)
    image = read_image(pam(samples, 255, kind))
    np.testing.assert_array_equal(image.pixels, samples[..., :colours])
    assert (image.alpha is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(image.alpha, samples[..., colours])
    bands = samples[..., colours + alpha :]
    assert (image.bands is None) == (bands.size == 0)
    if bands.size:
        np.testing.assert_array_equal(image.bands, bands)


@pytest.mark.parametrize("samples", FLOATS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_pfm_is_read_exactly(samples, order):
    """Rows run upwards, and the sign of the scale gives the byte order."""
    form = b"PF" if samples.shape[2] == 3 else b"Pf"
    scale = b"-1.0" if order == "<" else b"1.0"
    data = form + b"\n7 5\n" + scale + b"\n" + samples[::-1].astype(order + "f4").tobytes()
    image = read_image(data)
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels, samples)


def test_all_images_of_a_file_are_pages():
    """Binary images may follow one another; a plain image is the last."""
    first, second = noise(4, 6, 3), noise(3, 5, 1)
    data = b"P6 6 4 255\n" + first.tobytes() + b"P5 5 3 255\n" + second.tobytes()
    sequence = decode(data)
    assert (sequence.count, sequence.unit) == (2, "page")
    for image, samples in zip(sequence.images, (first, second), strict=True):
        np.testing.assert_array_equal(image.pixels, samples)


@pytest.mark.parametrize(
    "data",
    [
        b"P5 7 5 255\n",
        b"P5 7 5 255\n" + bytes(34),
        b"P6 7 5 65535\n" + bytes(209),
        b"P4 11 5\n" + bytes(9),
        b"P2 7 5 255\n" + b"1 " * 34,
        b"P2 7 5 255\n" + b"1 " * 20 + b"x" + b" 1" * 30,
        b"P2 2 1 255\n1 256",
        b"P5 2 1 100\n\1\x65",
        b"P5 7 5 0\n" + bytes(35),
        b"P5 7 5 70000\n" + bytes(70),
        b"P5 7 -5 255\n" + bytes(35),
        b"P5 7",
        b"Pf\n7 5\n0\n" + bytes(140),
        b"Pf\n7 5\n-1\n" + bytes(100),
        b"P7\nWIDTH 7\nHEIGHT 5\nMAXVAL 255\nENDHDR\n" + bytes(35),
        b"P7\nWIDTH 7\nHEIGHT 5\nDEPTH 2\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(70),
    ],
)
def test_damage_is_an_error(data):
    """Truncated samples, samples over the maximum and incomplete headers are damage."""
    with pytest.raises(DamagedError):
        read_image(data)


def test_the_rows_of_a_truncated_file_can_be_read():
    """With `allow_damaged`, the rest is black."""
    samples = noise(5, 7, 1)
    (image,) = decode(b"P5 7 5 255\n" + samples.tobytes()[:25], allow_damaged=True).images
    np.testing.assert_array_equal(image.pixels[:3], samples[:3])
    assert str(image.damage) == "its end is missing, 40 % of the image could not be decoded"
    assert not image.pixels[4].any()


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize(
    "data",
    [
        b"P6\n# from slide 12\n#x\n2 1\n255\nabcdef",
        b"P2 # from slide 12\n#x\n2 1 255 1 2",
        b"P7\n# from slide 12\n#x\nWIDTH 2\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\nab",
    ],
)
def test_comments_are_kept(data, kind):
    """Lines of the header that begin with # cross formats like the comments of a JPEG."""
    (image,) = decode(data).images
    assert image.texts == (("Comment", "from slide 12\nx"),)
    assert b"from slide 12" in encode([image], kind).data
