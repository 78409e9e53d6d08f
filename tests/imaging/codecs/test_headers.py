"""Sizes from headers: those that decoding gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from restormer_cli import imaging
from restormer_cli.imaging.codecs.headers import Size
from tests.support import camera
from tests.support.program import picture


@pytest.mark.parametrize(
    "suffix", ["png", "jpg", "webp", "tif", "bmp", "ppm", "gif", "jp2", "avif", "qoi", "tga"]
)
def test_the_header_has_the_size(suffix, tmp_path):
    """In every format, height and width are those of the decoded image."""
    path = tmp_path / f"image.{suffix}"
    pixels = np.zeros((22, 34, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    assert imaging.read_size(path) == Size(22, 34)


def test_heif_has_the_size(tmp_path):
    """HEIF is read by its own library."""
    pytest.importorskip("pillow_heif")
    picture(str(tmp_path / "image.heic"), (64, 96, 3))
    assert imaging.read_size(tmp_path / "image.heic") == Size(64, 96)


@pytest.mark.parametrize(("suffix", "write"), [("dng", camera.dng), ("nef", camera.nef)])
def test_a_raw_file_has_the_size_of_its_sensor(suffix, write, tmp_path):
    """The size is that of the developed image, not that of a preview."""
    pytest.importorskip("rawpy")
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes(write(np.full((64, 96), 1000, np.uint16)))
    decoded = imaging.read_image(path).pixels.shape[:2]
    assert imaging.read_size(path) == Size(*decoded)


def test_all_pages_count(tmp_path):
    """A TIFF of several pages has their number."""
    pages = [PIL.Image.new("L", (8, 4)) for _ in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    assert imaging.read_size(tmp_path / "stack.tif") == Size(4, 8, 3)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0"])
@pytest.mark.parametrize("suffix", ["png", "tif", "nef", "heic"])
def test_unknown_sizes_are_none(content, suffix, tmp_path):
    """A file without a readable header has no size, and raises nothing."""
    path = tmp_path / f"image.{suffix}"
    path.write_bytes(content)
    assert imaging.read_size(path) is None


def test_headers_of_truncated_files_cause_no_warnings(tmp_path, recwarn):
    """Pillow's warnings would name no file."""
    warnings.simplefilter("always")
    path = tmp_path / "stack.tif"
    pages = [PIL.Image.new("L", (8, 4)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    whole = path.read_bytes()
    for part in range(40, 100, 5):
        path.write_bytes(whole[: len(whole) * part // 100])
        imaging.read_size(path)
    assert [str(warning.message) for warning in recwarn] == []


def test_missing_files_have_no_size():
    """A file that is gone has no size."""
    assert imaging.read_size(Path("missing.png")) is None


def test_large_images_have_a_size(tmp_path):
    """Sizes over the limit of Pillow are read, since the limit of the run is another one."""
    path = tmp_path / "large.png"
    PIL.Image.new("1", (20_000, 10_000)).save(path)
    assert imaging.read_size(path) == Size(10_000, 20_000)
