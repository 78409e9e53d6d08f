"""Linear camera colours: the way to the network and back, and to a developed picture."""

from __future__ import annotations

import io

import numpy as np
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.linear import WHITE, RawDescription
from tests.support.camera import MATRIX, nef


def test_every_sample_survives_the_way_to_the_network_and_back() -> None:
    """All levels of all channels come back exactly, also far above white."""
    description = RawDescription((2.3, 1.0, 1.61803), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    levels = np.arange(WHITE + 1, dtype=np.uint16)
    pixels = np.dstack([levels.reshape(256, 256)] * 3)
    assert np.array_equal(description.linear(description.balanced(pixels)), pixels)


def test_colours_beyond_the_range_are_clipped() -> None:
    """The network may return values outside of 0..1."""
    description = RawDescription((2.0, 1.0, 1.5), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    colours = np.array([[[-0.1, 1.2, 0.5]]], np.float32)
    red, green, blue = description.linear(colours)[0, 0]
    assert (red, green) == (0, WHITE)
    assert 0 < blue < WHITE / 2


def test_developed_colours_are_those_of_libraw() -> None:
    """The camera's matrix is applied as LibRaw does."""
    rawpy = pytest.importorskip("rawpy", reason="rawpy (the extra raw) is not installed")
    rng = np.random.default_rng(0)
    data = nef(np.repeat(np.repeat(rng.integers(600, 20000, (8, 8)), 8, 0), 8, 1))
    image = next(image_io.decode(data, name="a.nef", kind="dng").images)
    assert image.raw is not None
    assert np.allclose(image.raw.from_xyz, MATRIX, atol=1e-6)
    with rawpy.imread(io.BytesIO(data)) as opened:
        expected = opened.postprocess(gamma=(2.4, 12.92), no_auto_bright=True, output_bps=16)
    assert np.abs(image.raw.developed(image.pixels) - expected / WHITE).max() < 0.002
