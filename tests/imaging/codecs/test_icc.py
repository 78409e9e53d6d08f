"""ICC profiles: their pieces in a JPEG, and formats that cannot hold them."""

from __future__ import annotations

import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import noise, wide_gamut
from tests.support.metadata import PIXELS, converted, encode, jpeg, segment


def profile_segments(profile, numbers, count):
    """Divide a profile into pieces of 200 bytes, and return the named ones."""
    pieces = {i: profile[(i - 1) * 200 :][:200] for i in range(1, -(-len(profile) // 200) + 1)}
    return [segment(0xE2, b"ICC_PROFILE\0" + bytes([i, count]) + pieces[i]) for i in numbers]


@pytest.mark.parametrize("case", ["twice", "whole twice", "out of order", "wrong count"])
def test_a_profile_whose_pieces_are_unambiguous_is_kept(case):
    """Repeated or unordered pieces, and wrong counts, do not lose the profile."""
    icc = wide_gamut()
    size = -(-len(icc) // 200)
    order = list(range(1, size + 1))
    segments = {
        "twice": profile_segments(icc, order * 2, size),
        "whole twice": [segment(0xE2, b"ICC_PROFILE\0\1\1" + icc)] * 2,
        "out of order": profile_segments(icc, order[::-1], size),
        "wrong count": profile_segments(icc, order, 1),
    }
    _, image, notes = converted(jpeg(*segments[case]), "jpeg")
    assert (image.icc, notes) == (icc, [])


def test_an_ambiguous_profile_is_left_out():
    """Two different profiles, or a missing piece, are noted."""
    icc, other = wide_gamut(), wide_gamut()[:-1] + b"\1"
    size = -(-len(icc) // 200)
    both = [segment(0xE2, b"ICC_PROFILE\0\1\1" + profile) for profile in (icc, other)]
    for segments in (both, profile_segments(icc, range(2, size + 1), size)):
        image = image_io.read_image(jpeg(*segments))
        assert image.icc is None
        assert [*image.losses, *image.notes] == ["the ICC profile is damaged: it is left out"]


def test_a_profile_that_no_jpeg_can_hold_is_left_out():
    """A profile of more than 255 segments is noted, and the picture written."""
    image = Image(PIXELS, icc=wide_gamut() + bytes(2**24))
    data, (notes,) = encode([image], "jpeg")
    assert notes == ["jpeg holds no ICC profile over 16 MB: it is left out"]
    assert image_io.read_image(data).icc is None


@pytest.mark.parametrize("kind", ["avif", "heif", "webp"])
def test_a_grey_profile_does_not_stay_on_rgb(kind):
    """Grey with alpha becomes RGB in these formats, without its grey profile."""
    if kind == "heif":
        pytest.importorskip("pillow_heif")
    image = Image(noise(8, 8, 1), noise(8, 8, 1)[..., 0], icc=wide_gamut(b"GRAY"))
    data, (notes,) = encode([image], kind)
    assert "a grey ICC profile does not fit RGB: it is left out" in notes
    back = image_io.read_image(data)
    assert (back.icc, back.pixels.shape[2]) == (None, 3)
