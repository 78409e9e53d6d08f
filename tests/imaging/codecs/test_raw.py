"""Camera raw files: developed where their package is installed, and an error with its remedy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.batch import jobs
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs import raw
from tests.support.camera import dng, mosaic
from tests.support.image_files import tags
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


@pytest.fixture(name="rawpy")
def developer() -> None:
    pytest.importorskip("rawpy", reason="rawpy (the extra raw) is not installed")


def scene(height: int = 32, width: int = 48) -> np.ndarray:
    """A gradient in linear sRGB, so smooth that nothing is lost between the sensor's pixels."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    planes = [
        0.1 + 0.5 * rows + 0 * columns,
        0.15 + 0.4 * columns + 0 * rows,
        0.2 + 0.2 * rows * columns,
    ]
    return np.dstack(planes)


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light as sRGB values (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.usefixtures("rawpy")
def test_a_raw_file_is_developed_to_16_bit_srgb(restormer: Callable[..., Outcome]) -> None:
    """With the camera's white balance and exposure, and what the camera says of the photograph."""
    Path("a.dng").write_bytes(dng(mosaic(scene())))
    outcome = restormer("denoise", "a.dng", "--json", *EXACT)
    assert outcome.status == 0
    assert tree() == ["a.dng", "a.restored.png"]
    image = image_io.read_image(Path("a.restored.png"))
    assert image.pixels.dtype == np.uint16
    inside = (slice(3, -3), slice(3, -3))
    assert np.abs(image.pixels / 65535 - encoded(scene()))[inside].max() < 0.005
    main, _, _ = tags(image.exif or b"")
    assert main == {271: "Kamera", 272: "One"}
    notes = outcome.events[-2]["notes"]
    assert notes == ["a camera's raw file: developed to 16-bit sRGB"]


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("target", ["b.tif", "b.png", "b.jpg"])
def test_any_format_takes_a_developed_file(target: str, restormer: Callable[..., Outcome]) -> None:
    """TIFF in 16 bits, too; JPEG in 8, with a note."""
    Path("a.dng").write_bytes(dng(mosaic(scene())))
    outcome = restormer("denoise", "a.dng", "-o", target, *EXACT)
    assert outcome.status == 0
    deep = image_io.read_image(Path(target)).pixels.dtype == np.uint16
    assert deep == (target != "b.jpg")
    assert ("rounded to uint8" in outcome.stderr) == (not deep)


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize(("orientation", "shape"), [(1, (32, 48)), (3, (32, 48)), (6, (48, 32))])
def test_a_raw_file_comes_out_upright(orientation: int, shape: tuple[int, int]) -> None:
    """Turned once: no orientation is left to be applied again."""
    straight = image_io.read_image(dng(mosaic(scene()))).pixels
    image = image_io.read_image(dng(mosaic(scene()), orientation=orientation))
    assert image.pixels.shape[:2] == shape
    turns = {1: 0, 3: 2, 6: 3}[orientation]
    assert np.array_equal(image.pixels, np.rot90(straight, turns))
    assert b"\x12\x01\x03\0" not in (image.exif or b"")


@pytest.mark.usefixtures("rawpy")
def test_two_exposures_stay_two_exposures() -> None:
    """Half the light gives half the light: no picture is stretched to what it has."""
    bright, dark = (
        image_io.read_image(dng(mosaic(scene() * factor))).pixels for factor in (1, 0.5)
    )
    wanted = encoded(scene() * 0.5)[8:-8, 8:-8]
    assert np.abs(dark[8:-8, 8:-8] / 65535 - wanted).max() < 0.005
    assert bright.mean() > 1.2 * dark.mean()


@pytest.mark.usefixtures("rawpy")
def test_the_size_of_a_raw_file_is_known_before_it_is_developed(
    restormer: Callable[..., Outcome],
) -> None:
    """And the limit on pixels is for it as well, with a header that says more than there is."""
    data = dng(np.zeros((8, 8), np.uint16))
    for tag in (256, 257):
        before = tag.to_bytes(2, "little") + b"\4\0\1\0\0\0"
        data = data.replace(before + b"\x08\0\0\0", before + (60000).to_bytes(4, "little"))
    Path("a.dng").write_bytes(data)
    outcome = restormer("denoise", "a.dng")
    assert outcome.status == 1
    assert "60000 x 60000 pixels, over the limit of 300000000" in outcome.stderr


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_damaged_raw_file_is_said(keep: float, restormer: Callable[..., Outcome]) -> None:
    """Cut in its directory, or in its samples; the others go on."""
    whole = dng(mosaic(scene()))
    Path("f").mkdir()
    Path("f/a.dng").write_bytes(whole[: int(len(whole) * keep)])
    Path("f/b.dng").write_bytes(whole)
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert "error: f/a.dng: damaged or truncated" in outcome.stderr
    assert tree() == ["f/a.dng", "f/b.dng", "out/b.png"]


def test_without_the_package_it_is_said_how_to_have_it(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder, too, raw files are found: each is an error of its own, and the others go on."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    Path("f").mkdir()
    Path("f/a.dng").write_bytes(dng(mosaic(scene())))
    Path("f/b.NEF").write_bytes(dng(mosaic(scene())))
    Path("f/c.cr3").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(99))
    picture("f/d.png")
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert outcome.stderr.count("a package that is not installed") == 3
    assert outcome.stderr.count("hint: pip install 'restormer-cli[raw]'") == 3
    assert outcome.stderr.splitlines()[-1].startswith("1 restored, 3 failed")


@pytest.mark.parametrize("suffix", sorted(raw.SUFFIXES))
def test_an_output_never_has_a_raw_suffix(suffix: str) -> None:
    """It is a PNG, unless another format is asked for."""
    assert jobs.with_format(Path(f"a{suffix}"), None) == Path("a.png")
    assert jobs.with_format(Path(f"a{suffix}"), "tiff") == Path("a.tif")


def test_a_tiff_that_is_called_a_raw_file_is_taken_for_one() -> None:
    """Of a TIFF the name decides; what says itself that it is a JPEG is one."""
    assert raw.is_raw(b"II*\0\x08\0\0\0" + bytes(6), ".nef")
    assert not raw.is_raw(b"II*\0\x08\0\0\0" + bytes(6), ".tif")
    picture("a.jpg")
    assert image_io.decode(Path("a.jpg").read_bytes(), name="a.nef").format == "jpeg"
