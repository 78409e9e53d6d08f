"""EXIF: orientation and damage, in every format."""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import XMP, assert_same_image, exif, noise, rewritten, tags


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_applied_once(tmp_path, kind, orientation, order):
    """The picture is turned upright, the tags reset, and every other tag kept."""
    samples = noise(6, 9, 3 if kind == "jpeg" else 4)
    alpha = None if kind == "jpeg" else samples[..., 3]
    block = exif(orientation, order)
    xmp = XMP % orientation
    lying = Image(samples[..., :3], alpha, kind, exif=block, xmp=xmp, lossless=True)
    assert image_io.write_image(lying, tmp_path / "a") == []
    image = image_io.read_image(tmp_path / "a")
    with PIL.Image.open(tmp_path / "a") as stored:
        stored = (
            stored.copy() if kind == "tiff" else stored.convert("RGB" if alpha is None else "RGBA")
        )
        if kind != "tiff":  # which Pillow has turned already
            turned = PIL.Image.Exif()
            turned[274] = orientation
            stored.info["exif"] = turned.tobytes()
            stored.getexif()[274] = orientation
            stored = PIL.ImageOps.exif_transpose(stored)
        upright = np.asarray(stored)
    np.testing.assert_array_equal(image.pixels, upright[..., :3])
    if alpha is not None:
        np.testing.assert_array_equal(image.alpha, upright[..., 3])
    if kind == "tiff":
        assert tags(image.exif) == tags(block)
    else:
        assert image.exif == exif(1, order)
    assert image.xmp == XMP % 1
    back = rewritten(image, tmp_path / "b")
    if kind != "jpeg":
        assert_same_image(image, back)
    assert back.exif == image.exif


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_damaged_metadata_does_not_stop_the_image(tmp_path, kind):
    """Damaged EXIF and ICC are noted, and the pixels are read and written."""
    image = Image(noise(5, 4, 3), format=kind, icc=b"no profile" * 20, exif=b"II*\0junk")
    notes = image_io.write_image(image, tmp_path / "a")
    assert len(notes) == (kind == "tiff")
    back = image_io.read_image(tmp_path / "a")
    assert "the ICC profile is damaged: kept unchanged" in back.notes
    assert any("EXIF is damaged" in note for note in back.notes) == (kind != "tiff")
    assert back.pixels.shape == (5, 4, 3)
