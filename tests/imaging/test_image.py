"""Conversion of samples between integers and floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.imaging.image import from_float, to_float


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integers_are_restored_exactly_from_floats(dtype):
    """`to_float` and `from_float` are exact inverses over the whole range."""
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    floats = to_float(values)
    assert (floats.dtype, floats.min(), floats.max()) == (np.float32, 0, 1)
    back = from_float(floats, dtype)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1), st.sampled_from(["uint8", "uint16"]))
@settings(max_examples=50, deadline=None)
def test_floats_are_clamped_and_rounded_to_even(values, dtype):
    """`from_float` returns the nearest step of the clamped value."""
    array = np.array(values, np.float32)
    top = np.iinfo(dtype).max
    expected = np.rint(np.clip(array, 0, 1) * np.float32(top))
    np.testing.assert_array_equal(from_float(array, dtype), expected)


def test_halves_round_to_even():
    """A value midway between two steps is rounded to the even one."""
    steps = from_float(np.array([0.5, 1.5, 2.5]) / 255, "uint8")
    assert steps.tolist() == [0, 2, 2]


def test_float_images_keep_values_outside_the_range():
    """Both conversions return float32 unchanged."""
    array = np.array([[-2.0, 0.5, 7.0]], np.float32)
    assert to_float(array) is array
    np.testing.assert_array_equal(from_float(array, np.float32), array)
