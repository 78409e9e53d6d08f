"""The input of a network for an image, and its output converted back to samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.imaging.image import Image
from restormer_cli.imaging.linear import RawDescription
from restormer_cli.imaging.network_view import NetworkView, prepare
from restormer_cli.imaging.scale import find_scale
from tests.support.image_files import noise
from tests.support.scenes import smooth_picture

RANGES = ((0, 1), (-0.3, 1.4), (0, 255), (-3, 300), (-1024, 3071), (0, 60), (-1e30, 1e30))


def restored(view: NetworkView, network=lambda x: x, strength: float = 1) -> np.ndarray:
    """Return the pixels after this network."""
    assert view.network_input.dtype == np.float32
    assert view.network_input.min() >= 0
    assert view.network_input.max() <= 1
    return view.encode(view.merge(network(view.network_input)), strength)


def as_float(pixels, alpha=None, **fields):
    return Image(pixels, alpha, scale=find_scale(pixels, alpha), **fields)


@st.composite
def images(draw):
    """Draw images of any type, range, number of channels and kind of alpha."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    colours, neutral = draw(st.sampled_from([(1, False), (3, False), (3, True)]))
    pixels = noise(*shape, 1 if neutral else colours, "uint16", draw(st.integers(0, 99)))
    low, high = draw(st.sampled_from(RANGES))
    if dtype == "float32":
        pixels = (low + (high - low) * (pixels / 65535)).astype(dtype)
    pixels = np.repeat(pixels, 3, axis=2) if neutral else pixels
    alpha = draw(st.sampled_from(["none", "opaque", "random", "hidden"]))
    planes = {"random": noise(*shape, 1, "uint16", 3)[..., 0]}
    planes |= {"opaque": np.full(shape, 65535, "uint16"), "hidden": np.zeros(shape, "uint16")}
    plane = planes.get(alpha)
    if plane is not None:
        plane[0] = 0 if alpha != "opaque" else plane[0]
        plane = plane / np.float32(65535) if dtype == "float32" else plane.astype(dtype)
    pixels = pixels.astype(dtype)
    scale = find_scale(pixels, plane) if dtype == "float32" else (0.0, 1.0)
    return Image(pixels, plane, scale=scale, premultiplied=draw(st.booleans()))


@given(images(), st.sampled_from([0, 8]))
@settings(max_examples=150)
def test_a_network_without_effect_changes_no_bit(image, margin):
    """Identity, with rounding errors or without, gives exactly the input."""
    for error in (0, 1e-7):
        result = restored(prepare(image, margin=margin), lambda x, e=error: x + np.float32(e))
        assert result.dtype == image.pixels.dtype
        np.testing.assert_array_equal(result, image.pixels)


@given(images(), st.sampled_from([0.0, 1.0]), st.sampled_from([0.3, 1.0]), st.integers(0, 9))
@settings(max_examples=150)
def test_pixels_that_are_black_in_the_mask_keep_every_bit(image, share, strength, seed):
    """This holds for every type, scale, alpha and strength; white ones are as without a mask."""

    def restore(mask):
        view = prepare(image)
        output = view.merge(view.network_input * np.float32(0.5) + np.float32(0.2))
        output = view.return_detail(output, share)
        output = output if mask is None else view.blend(output, mask)
        return view.encode(output, strength, mask)

    shape = image.pixels.shape[:2]
    mask = np.random.default_rng(seed).choice(np.float32([0, 0.5, 1]), shape)
    whole, result = restore(None), restore(mask)
    np.testing.assert_array_equal(result[mask == 0], image.pixels[mask == 0])
    np.testing.assert_array_equal(result[mask == 1], whole[mask == 1])


def test_linear_camera_colours_that_are_black_in_the_mask_keep_every_bit():
    """A raw file in a DNG keeps its samples there, and only there."""
    raw = RawDescription((2.0, 1.0, 1.5), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    image = Image(noise(20, 30, 3, "uint16", 1), raw=raw)
    view = prepare(image)
    mask = np.zeros((20, 30), np.float32)
    mask[:, 15:] = 1
    output = view.return_detail(view.merge(view.network_input * np.float32(0.5)), 0.5)
    result = view.encode(view.blend(output, mask), 0.7, mask)
    np.testing.assert_array_equal(result[:, :15], image.pixels[:, :15])
    assert not np.array_equal(result[:, 15:], image.pixels[:, 15:])


@given(images())
@settings(max_examples=60)
def test_strength_0_changes_no_bit(image):
    """At strength 0 the network has no effect."""
    result = restored(prepare(image), lambda x: x * np.float32(0.5), 0)
    np.testing.assert_array_equal(result, image.pixels)


@given(images())
@settings(max_examples=60)
def test_hidden_samples_are_never_changed(image):
    """Where alpha is 0, any network leaves the colour as it is."""
    result = restored(prepare(image), lambda x: np.float32(1) - x)
    if image.alpha is not None:
        hidden = image.alpha == 0
        np.testing.assert_array_equal(result[hidden], image.pixels[hidden])


@pytest.mark.parametrize("full", [255, 1023, 65535])
def test_a_float_image_is_restored_like_the_same_integers(full):
    """The network sees the same as for the integers of that range."""
    levels = np.rint(smooth_picture() * full)
    view = prepare(as_float(levels.astype(np.float32)))
    np.testing.assert_allclose(view.network_input, levels / full, atol=1e-6)
    result = restored(view, lambda x: x / 2)
    np.testing.assert_allclose(result, levels / 2, atol=1e-3)
    assert view.notes == [
        f"samples range from {levels.min():g} to {levels.max():g}: restored on the scale 0..{full}"
    ]


def test_noise_beyond_the_scale_is_removed():
    """The network's output replaces samples slightly outside 0..1; nothing is added back."""
    noisy = smooth_picture(0.08)
    assert noisy.min() < -0.05
    assert noisy.max() > 1.05
    result = restored(prepare(as_float(noisy)), lambda _: smooth_picture())
    np.testing.assert_allclose(result, smooth_picture(), atol=0.02)


def test_highlights_stay():
    """Radiance above the scale is not changed, also single samples; the rest is restored."""
    radiance = smooth_picture(0.01)
    radiance[10:30, 20:50] = 12.5
    radiance[60, 60] = 90
    view = prepare(as_float(radiance))
    result = restored(view, lambda x: x * np.float32(0.9))
    above = radiance > 2
    np.testing.assert_array_equal(result[above], radiance[above])
    inside = radiance < 0.9
    np.testing.assert_allclose(result[inside], 0.9 * radiance[inside], atol=1e-6)
    assert "restored on the scale 0..1; 7.8 % of them" in view.notes[0]


def test_highlights_blend():
    """Across the edge of the scale, the result has no step."""
    ramp = np.linspace(0.5, 2, 400, dtype=np.float32)[None, :, None].repeat(20, axis=0)
    image = Image(ramp, scale=(0.0, 1.0))
    result = restored(prepare(image), lambda x: x - np.float32(0.02))[10, :, 0]
    assert np.diff(result).min() >= 0
    assert np.diff(result).max() < 0.02


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_hidden_colour_is_not_seen(dtype, premultiplied):
    """Two images that look the same look the same to the network."""
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    colours = (smooth_picture() * top).astype(dtype)
    alpha = np.zeros((80, 96), dtype)
    alpha[20:60, 20:70] = top
    views = []
    for hidden in (0, top):
        pixels = np.where(alpha[..., None] > 0, colours, np.dtype(dtype).type(hidden))
        views.append(prepare(Image(pixels, alpha, premultiplied=premultiplied)).network_input)
    np.testing.assert_array_equal(*views)
    filled = views[0]
    visible = filled[20:60, 20:70]
    assert visible.min() - 0.01 <= filled.min()
    assert filled.max() <= visible.max() + 0.01
    assert np.abs(filled[19, 20:70] - filled[20, 20:70]).max() < 0.1  # continues beyond the edge


def test_nearly_transparent_colour_hardly_counts():
    """At an opacity of 1 of 255, the network sees mostly the neighbours."""
    pixels, alpha = np.full((40, 40, 3), 128, np.uint8), np.full((40, 40), 255, np.uint8)
    pixels[10:30, 10:30], alpha[10:30, 10:30] = (0, 255, 0), 1
    view = prepare(Image(pixels, alpha))
    assert np.abs(view.network_input - 128 / 255).max() < 0.1  # the difference is 0.5
    np.testing.assert_array_equal(view.network_input[:10], np.float32(128 / 255))


def test_premultiplied_colour_is_divided():
    """The network sees colour without alpha, and its change is multiplied by it."""
    alpha = np.full((30, 30), 0.5, np.float32)
    image = Image(np.full((30, 30, 3), (0.4, 0.2, 0.1), np.float32), alpha, premultiplied=True)
    view = prepare(image)
    np.testing.assert_allclose(view.network_input[0, 0], (0.8, 0.4, 0.2), rtol=1e-6)
    result = restored(view, lambda x: x - np.float32(0.1))
    np.testing.assert_allclose(result[0, 0], (0.35, 0.15, 0.05), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_neutral_images_are_restored_as_grey(dtype, with_alpha):
    """Equal channels give one channel to the network, and the grey image's result in all three."""
    top = 200 if dtype == "float32" else np.iinfo(dtype).max
    grey = (smooth_picture(channels=1) * top).astype(dtype)
    alpha = None
    if with_alpha:
        alpha = np.full((80, 96), 1 if dtype == "float32" else top, dtype)
        alpha[:20] = 0
    scale = find_scale(grey) if dtype == "float32" else (0.0, 1.0)
    colour = np.repeat(grey, 3, axis=2)
    if with_alpha:
        colour[:20] = noise(20, 96, 3, "uint8").astype(dtype)  # hidden
    network = lambda x: x * np.float32(0.7)  # noqa: E731
    view = prepare(Image(colour, alpha, scale=scale))
    assert view.network_input.shape[2] == 1
    result = restored(view, network)
    expected = restored(prepare(Image(grey, alpha, scale=scale)), network)
    start = 20 if with_alpha else 0
    np.testing.assert_array_equal(result[start:], np.repeat(expected, 3, axis=2)[start:])
    np.testing.assert_array_equal(result[:start], colour[:start])


def test_the_rounding_of_ycbcr_is_neutral():
    """Channels that differ by one level are restored as equal ones."""
    grey = (40 + 150 * smooth_picture(channels=1)).astype(np.uint8)
    colour = np.repeat(grey, 3, axis=2)
    colour[::3, ::2, 0] += 1
    view = prepare(Image(colour))
    assert view.network_input.shape[2] == 1
    result = restored(view, lambda x: x * np.float32(0.5))
    assert (result == result[..., :1]).all()
    colour[5, 5, 2] += 4
    assert prepare(Image(colour)).network_input.shape[2] == 3


def test_a_colour_in_the_right_view_is_seen():
    """A pair is neutral only if both views are."""
    grey = np.full((20, 20, 3), 99, np.uint8)
    right = grey.copy()
    assert prepare(Image(grey), right).network_input.shape[2] == 1
    right[3, 3] = (0, 50, 99)
    view = prepare(Image(grey), right)
    assert view.network_input.shape == view.right.shape == (20, 20, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 30)])
def test_margins_are_reflected_and_removed(shape):
    """Also of images that are smaller than the margin."""
    image = Image(noise(*shape, 3))
    view = prepare(image, margin=8)
    assert view.network_input.shape == (shape[0] + 16, shape[1] + 16, 3)
    np.testing.assert_array_equal(view.network_input[8, 8], view.colours[0, 0])
    result = restored(view, lambda x: 1 - x)
    np.testing.assert_array_equal(result, 255 - image.pixels)


def test_bands_beside_grey_are_a_warning():
    """A file of several bands without colour has only the first one restored."""
    image = Image(noise(5, 6, 1), bands=noise(5, 6, 4))
    assert "only the first of 5 bands is restored" in prepare(image).warnings[0]
    assert prepare(Image(noise(5, 6, 3), bands=noise(5, 6, 4))).warnings == []


@pytest.mark.parametrize(("factor", "warned"), [(0.0, False), (0.005, True), (0.05, False)])
def test_an_almost_black_image_is_reported(factor, warned):
    """A network cannot tell noise from detail in two of 255 levels; a black image has neither."""
    pixels = smooth_picture(0.02).clip(0, 1) * np.float32(factor)
    view = prepare(Image(pixels))
    assert [w.startswith("almost black") for w in view.warnings] == [True] * warned
