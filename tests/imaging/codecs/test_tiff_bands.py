"""TIFF: the meaning of extra samples, and types that other formats lack."""

from __future__ import annotations

import numpy as np
import pytest

from restormer_cli.imaging.io import encode, read_image
from tests.support.image_files import noise
from tests.support.tiff_files import EXTRA_SAMPLES, extra_samples, tiff

RGB, GREY = 2, 1


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16", "uint32", "float16"])
@pytest.mark.parametrize(
    ("photometric", "codes", "alpha"),
    [
        (RGB, [0], None),
        (RGB, [], None),
        (RGB, [2], 3),
        (RGB, [1], 3),
        (RGB, [0, 2], 4),
        (RGB, [2, 0], 3),
        (RGB, [0, 1, 0], 4),
        (GREY, [], None),
        (GREY, [0, 0, 0], None),
        (GREY, [0, 2], 2),
        (GREY, [0] * 11, None),
    ],
)
def test_extra_samples_keep_meaning_and_place(photometric, codes, alpha, dtype, planar):
    """ExtraSamples alone decides what is alpha; other bands are written back in their place."""
    colours = 3 if photometric == RGB else 1
    count = colours + max(len(codes), 1)
    samples = noise(6, 7, count, "uint8").astype(dtype)
    tags = {EXTRA_SAMPLES: codes} if codes else {}
    image = read_image(tiff(samples, photometric, tags, planar=planar))
    assert (image.alpha is None) == (alpha is None)
    assert image.losses == []
    assert image.premultiplied == (1 in codes)
    data = encode([image], "tiff")[0]
    assert extra_samples(data) == (codes or [0])
    again = read_image(data)
    np.testing.assert_array_equal(again.pixels, samples[..., :colours])
    places = [n for n in range(colours, count) if n != alpha]
    if places:
        np.testing.assert_array_equal(again.bands, samples[..., places])
    if alpha is not None and image.pixels.dtype == dtype:
        np.testing.assert_array_equal(again.alpha, samples[..., alpha])


def test_a_second_alpha_is_carried():
    """Only the first alpha is that of the image; the meaning of the other is written back."""
    samples = noise(6, 7, 5)
    image = read_image(tiff(samples, RGB, {EXTRA_SAMPLES: [2, 2]}))
    data = encode([image], "tiff")[0]
    assert extra_samples(data) == [2, 2]
    np.testing.assert_array_equal(read_image(data).bands, samples[..., 4:])


@pytest.mark.parametrize(("kind", "lost"), [("tiff", False), ("png", True), ("jpeg", True)])
def test_bands_are_named(kind, lost):
    """A remark says that bands are carried, or left out in formats without bands."""
    image = read_image(tiff(noise(6, 7, 5), RGB, {EXTRA_SAMPLES: [0, 0]}))
    (remarks,) = encode([image], kind)[1]
    text = " ".join(str(remark) for remark in remarks)
    assert ("left out" if lost else "2 bands of unspecified meaning are carried unchanged") in text


@pytest.mark.parametrize(
    ("value", "dtype", "lost"),
    [
        (2**24, "uint32", False),
        (2**24 + 1, "uint32", True),
        (-32768, "int16", False),
        (-(2**31) + 1, "int32", True),
        (0.5, "float64", False),
        (0.1, "float64", True),
        (65504, "float16", False),
    ],
)
def test_other_types_become_float_of_the_same_values(value, dtype, lost):
    """Values are not scaled; those that float32 cannot hold are a loss."""
    image = read_image(tiff(np.full((4, 5, 1), value, dtype), GREY))
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels, np.float32(value))
    assert image.losses == ([f"{dtype} samples are rounded to float32"] if lost else [])
    assert image.notes == ([] if lost else [f"{dtype} samples are read as float32"])


def test_alpha_of_integers_becomes_a_fraction():
    """With uint32 samples, alpha is 0..1 as in other float files."""
    samples = np.full((4, 5, 4), 2**32 - 1, np.uint32)
    image = read_image(tiff(samples, RGB, {EXTRA_SAMPLES: [2]}))
    assert image.alpha.dtype == np.float32
    assert (image.alpha == 1).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_white_is_zero_concerns_grey_only(dtype):
    """Inverted grey is turned over, its bands are not."""
    samples = np.zeros((4, 5, 2), dtype)
    samples[0, 0] = 1
    image = read_image(tiff(samples, 0))
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    np.testing.assert_array_equal(image.pixels, top - samples[..., :1])
    np.testing.assert_array_equal(image.bands, samples[..., 1:])


def test_undefined_samples_are_unsigned():
    """SampleFormat 4 is read as unsigned, as libtiff does."""
    samples = noise(6, 7, 1)
    image = read_image(tiff(samples, GREY, {339: [4]}))
    np.testing.assert_array_equal(image.pixels, samples)


@pytest.mark.parametrize("tags", [{339: [6]}, {258: [8, 16]}, {339: [1, 3]}])
def test_unsupported_types_are_named(tags):
    """Complex numbers and mixed types are not taken for damage."""
    with pytest.raises(Exception, match=r"bits and format .* are not supported"):
        read_image(tiff(noise(6, 7, 2), GREY, tags))
