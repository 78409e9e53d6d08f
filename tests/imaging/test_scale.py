"""The choice of black and white for float samples."""

from __future__ import annotations

import numpy as np
import pytest

from restormer_cli.imaging.scale import find_scale
from tests.support.scenes import smooth_picture


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05, 0.2])
def test_noise_does_not_change_the_scale(noise):
    """Values slightly outside 0..1 are noise of an image in 0..1."""
    assert find_scale(smooth_picture(noise)) == (0, 1)
    assert find_scale(np.abs(1 - 0.01 * smooth_picture(noise))) == (0, 1)  # a white page


def test_dark_images_keep_their_scale():
    """An image in 0..1 is not brightened."""
    assert find_scale(smooth_picture() * 0.001) == (0, 1)


@pytest.mark.parametrize("full", [255, 1023, 4095, 16383, 65535, 2**32 - 1])
@pytest.mark.parametrize("brightness", [1, 0.5])
def test_full_scales_are_recognised(full, brightness):
    """Also with noise and at half the brightness, whose brightest value is over the lower scale."""
    image = smooth_picture(0.02) * np.float32(full * brightness)
    expected = 65535 if (full, brightness) == (65535, 0.5) else full
    assert find_scale(image) == (0, expected)


def test_counts_are_on_a_full_scale():
    """Numbers without fractions are levels, however dark the image is."""
    assert find_scale(np.rint(smooth_picture() * 12)) == (0, 255)
    assert find_scale(np.rint(smooth_picture() * 400)) == (0, 1023)


@pytest.mark.parametrize("most", [100_000, 250_000, 10**8])
def test_large_counts_have_their_own_scale(most):
    """Sums of exposures in whole numbers would be nearly black on the scale of 32 bits."""
    low, high = find_scale(np.rint(smooth_picture(0.02) * most))
    assert low == 0
    assert 0.9 * most <= high <= 1.1 * most


@pytest.mark.parametrize("light", [10, 100, 10_000])
def test_highlights_do_not_darken_an_image(light):
    """Radiance that is mostly below 1 is on the scale 0..1."""
    image = smooth_picture(0.01)
    image[10:22, 30:42] = light
    assert find_scale(image) == (0, 1)


def test_many_moderate_values_above_1_are_included():
    """If much of the image is somewhat above 1, all of it is on the scale."""
    low, high = find_scale(smooth_picture() * 2.4)
    assert low == 0
    assert 2.2 <= high <= 2.5


def test_offsets_are_subtracted():
    """Hounsfield units are on a scale of their robust range, signed images on -1..1."""
    scan = np.full((80, 96, 1), -1000, np.float32)
    scan[20:60, 20:80] = 40 + 100 * smooth_picture(channels=1)[20:60, 20:80]
    scan[30:40, 30:40] = 1500
    low, high = find_scale(scan)
    assert -1200 <= low <= -1000
    assert 1400 <= high <= 1700
    scan[50, 50] = 30_000  # a single sample
    assert find_scale(scan) == (low, high)
    assert find_scale(2 * smooth_picture(0.02) - 1) == (-1, 1)


@pytest.mark.parametrize("value", [-1e30, -5.0, 1.5, 300.0, 1e30])
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 3, 3)])
def test_constant_images_have_a_scale(value, shape):
    """The range is never empty, and holds the value."""
    low, high = find_scale(np.full(shape, value, np.float32))
    assert low < high
    assert low <= np.float32(value) <= high * 2


def test_hidden_samples_do_not_count():
    """A value that stands for missing data under alpha 0 has no influence."""
    image, alpha = smooth_picture(0.02) * 255, np.ones((80, 96), np.float32)
    image[:40], alpha[:40] = -99_999, 0
    assert find_scale(image, alpha) == (0, 255)
    assert find_scale(image) != (0, 255)


@pytest.mark.parametrize(("low", "high"), [(250, 320), (1000, 1010)])
def test_quantities_with_an_offset_have_their_own_scale(low, high):
    """Temperatures in kelvin would have nearly no contrast on the scale 0..1023."""
    black, white = find_scale(low + (high - low) * smooth_picture(0.02))
    assert abs(black - low) < 0.2 * (high - low)
    assert abs(white - high) < 0.2 * (high - low)


def test_a_flat_image_keeps_a_full_scale():
    """A picture without any contrast does not say that its values have an offset."""
    assert find_scale(np.full((40, 48, 3), 30_000.5, np.float32)) == (0, 65535)


def test_fine_signed_texture_is_not_clipped_at_0():
    """Samples on both sides of 0 whose means are near 0 are not on a scale that begins at 0."""
    samples = np.random.default_rng(0).integers(-128, 128, (80, 96, 3))
    assert find_scale(samples.astype(np.float32))[0] < -100
