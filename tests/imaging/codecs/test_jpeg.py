"""JPEG: samples, segments and CMYK."""

from __future__ import annotations

import io
import re

import numpy as np
import PIL.Image
import pytest

from restormer_cli.errors import DamagedError
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import XMP, encoded, exif, noise, rewritten, wide_gamut


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read_as_pillow_decodes_it_and_keeps_its_metadata(tmp_path, mode):
    """The samples match Pillow's, and ICC, EXIF, XMP, comment and density are kept."""
    picture = PIL.Image.fromarray(noise(30, 40, 3)).convert(mode)
    icc = wide_gamut(b"GRAY" if mode == "L" else b"RGB ") * 40  # several segments
    options = {"icc_profile": icc, "exif": b"Exif\0\0" + exif(), "xmp": XMP % 1}
    data = encoded(picture, "JPEG", comment=b"gr\xfc\xdf", dpi=(72, 300), **options)
    image = image_io.read_image(data)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(image.pixels.squeeze(), np.asarray(reference))
    assert (image.icc, image.exif, image.xmp) == (icc, exif(), XMP % 1)
    back = rewritten(image, tmp_path / "a.jpg")
    assert (back.icc, back.exif, back.xmp) == (image.icc, image.exif, image.xmp)
    assert set(back.extras) == set(image.extras)
    with PIL.Image.open(tmp_path / "a.jpg") as written:
        assert (written.info["comment"], written.info["dpi"]) == (b"gr\xfc\xdf", (72, 300))
        assert mode == "L" or written.layer[0][1:3] == written.layer[1][1:3] == (1, 1)


def test_a_jpeg_keeps_exif_over_64_kb(tmp_path):
    """A long EXIF block is split over segments and joined again."""
    block = exif(maker_note=bytes(range(256)) * 600)
    back = rewritten(Image(noise(8, 8, 3), format="jpeg", exif=block), tmp_path / "a.jpg")
    assert back.exif == block


@pytest.mark.parametrize("profile", [True, False])
def test_cmyk_jpegs_become_rgb(profile):
    """CMYK is converted with a note, and its profile is dropped."""
    picture = PIL.Image.fromarray(noise(16, 16, 3)).convert("CMYK")
    data = encoded(picture, "JPEG", **({"icc_profile": wide_gamut(b"CMYK")} if profile else {}))
    image = image_io.read_image(data)
    assert image.pixels.shape == (16, 16, 3)
    assert image.icc is None
    assert image.losses[0] == "CMYK is converted to RGB"


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (b"\xff\xc0", "the header of its frame is cut off"),
        (b"\xff\xda", "the header of a scan is cut off"),
    ],
)
@pytest.mark.parametrize("size", [0, 3])
def test_a_header_that_is_cut_off_is_named(marker, message, size):
    """A frame or scan header that is too short for its fields is damage with a cause."""
    whole = encoded(PIL.Image.fromarray(noise(16, 16, 3)), "JPEG")
    at = whole.index(marker)
    length = int.from_bytes(whole[at + 2 : at + 4], "big")
    body = whole[at + 4 : at + 2 + length][:size]
    cut = whole[: at + 2] + (2 + size).to_bytes(2, "big") + body + whole[at + 2 + length :]
    with pytest.raises(DamagedError, match=re.escape(message)):
        image_io.read_image(cut)
