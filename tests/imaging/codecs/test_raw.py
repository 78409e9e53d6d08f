"""Camera raw files: developed, or an error if their package is missing."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from restormer_cli.batch import jobs
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs import raw
from restormer_cli.imaging.codecs.blocks import exif
from restormer_cli.imaging.codecs.blocks.exif import Directory
from tests.support import image_files
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
    """Return a gradient in linear sRGB that demosaicking reproduces."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    planes = [
        0.1 + 0.5 * rows + 0 * columns,
        0.15 + 0.4 * columns + 0 * rows,
        0.2 + 0.2 * rows * columns,
    ]
    return np.dstack(planes)


def encoded(linear: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.usefixtures("rawpy")
def test_a_raw_file_is_developed_to_16_bit_srgb(restormer: Callable[..., Outcome]) -> None:
    """The camera's white balance, exposure and metadata of the photograph are kept."""
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
    assert notes == ["camera raw file: developed to 16-bit sRGB"]


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize("target", ["b.tif", "b.png", "b.jpg"])
def test_a_developed_file_can_be_written_to_any_format(
    target: str, restormer: Callable[..., Outcome]
) -> None:
    """A TIFF or PNG gets 16 bits, a JPEG 8 with a note."""
    Path("a.dng").write_bytes(dng(mosaic(scene())))
    outcome = restormer("denoise", "a.dng", "-o", target, *EXACT)
    assert outcome.status == 0
    deep = image_io.read_image(Path(target)).pixels.dtype == np.uint16
    assert deep == (target != "b.jpg")
    assert ("rounded to uint8" in outcome.stderr) == (not deep)


@pytest.mark.usefixtures("rawpy")
@pytest.mark.parametrize(("orientation", "shape"), [(1, (32, 48)), (3, (32, 48)), (6, (48, 32))])
def test_a_raw_file_is_turned_upright(orientation: int, shape: tuple[int, int]) -> None:
    """The orientation is applied once and removed from the EXIF."""
    straight = image_io.read_image(dng(mosaic(scene()))).pixels
    image = image_io.read_image(dng(mosaic(scene()), orientation=orientation))
    assert image.pixels.shape[:2] == shape
    turns = {1: 0, 3: 2, 6: 3}[orientation]
    assert np.array_equal(image.pixels, np.rot90(straight, turns))
    assert b"\x12\x01\x03\0" not in (image.exif or b"")


@pytest.mark.usefixtures("rawpy")
def test_exposure_is_not_normalized() -> None:
    """Half the light gives half the brightness, without stretching to the full range."""
    bright, dark = (
        image_io.read_image(dng(mosaic(scene() * factor))).pixels for factor in (1, 0.5)
    )
    expected = encoded(scene() * 0.5)[8:-8, 8:-8]
    assert np.abs(dark[8:-8, 8:-8] / 65535 - expected).max() < 0.005
    assert bright.mean() > 1.2 * dark.mean()


@pytest.mark.usefixtures("rawpy")
def test_the_size_of_a_raw_file_is_known_before_it_is_developed(
    restormer: Callable[..., Outcome],
) -> None:
    """A raw file with a huge size in its header is refused."""
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
def test_a_truncated_raw_file_is_an_error(keep: float, restormer: Callable[..., Outcome]) -> None:
    """A file cut in its directory or its samples is an error; the other files are restored."""
    whole = dng(mosaic(scene()))
    Path("f").mkdir()
    Path("f/a.dng").write_bytes(whole[: int(len(whole) * keep)])
    Path("f/b.dng").write_bytes(whole)
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert "error: f/a.dng: damaged or truncated" in outcome.stderr
    assert tree() == ["f/a.dng", "f/b.dng", "out/b.png"]


def test_without_the_package_a_raw_file_names_the_remedy(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each raw file in a folder is an error with a remedy; the other files are restored."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    Path("f").mkdir()
    Path("f/a.dng").write_bytes(dng(mosaic(scene())))
    Path("f/b.NEF").write_bytes(dng(mosaic(scene())))
    Path("f/c.cr3").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(99))
    picture("f/d.png")
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert outcome.stderr.count("a camera raw file needs rawpy") == 3
    assert outcome.stderr.count("hint: Install it: pip install 'restormer-cli[raw]'") == 3
    assert outcome.stderr.splitlines()[-1].startswith("1 restored, 3 failed")


@pytest.mark.parametrize("suffix", sorted(raw.SUFFIXES))
def test_an_output_never_has_a_raw_suffix(suffix: str) -> None:
    """The output is a PNG, unless another format is requested."""
    assert jobs.with_format(Path(f"a{suffix}"), None) == Path("a.png")
    assert jobs.with_format(Path(f"a{suffix}"), "tiff") == Path("a.tif")


def test_a_tiff_with_a_raw_suffix_is_a_raw_file() -> None:
    """The suffix matters for files with a TIFF signature only."""
    assert raw.is_raw(b"II*\0\x08\0\0\0" + bytes(6), ".nef")
    assert not raw.is_raw(b"II*\0\x08\0\0\0" + bytes(6), ".tif")
    picture("a.jpg")
    assert image_io.decode(Path("a.jpg").read_bytes(), name="a.nef").format == "jpeg"


def fujifilm(block: bytes) -> bytes:
    """Return the start of a Fujifilm file, whose EXIF is in a JPEG."""
    jpeg = b"\xff\xd8\xff\xe1" + struct.pack(">H", 8 + len(block)) + b"Exif\0\0" + block
    return (
        b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 100, len(jpeg)) + bytes(8) + jpeg
    )


def canon(block: bytes) -> bytes:
    """Return the start of a CR3, whose directories are in blocks of their own."""
    first = exif.parse(block)
    parts = {b"CMT1": {t: v for t, v in first.tags.items() if t not in (34665, 34853)}}
    for name, tag in ((b"CMT2", 34665), (b"CMT4", 34853)):
        nested = first.tags[tag].value
        assert isinstance(nested, Directory)
        parts[name] = nested.tags
    blocks = [(name, exif.build(first.order, tags)) for name, tags in parts.items()]
    boxes = b"".join(struct.pack(">I", 8 + len(body)) + name + body for name, body in blocks)
    return b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + boxes


@pytest.mark.parametrize(
    "wrap",
    [
        lambda block: block,
        lambda block: b"IIRO" + block[4:],
        lambda block: b"IIU\0" + block[4:],
        fujifilm,
        canon,
    ],
)
def test_the_exif_of_every_kind_of_raw_file_is_found(wrap: Callable[[bytes], bytes]) -> None:
    """Olympus, Panasonic, Fujifilm and Canon keep EXIF in their own places."""
    directory = raw.photo_tags(wrap(image_files.exif()))
    assert directory is not None
    main, details, position = image_files.tags(exif.build(directory.order, directory.tags))
    assert main[271] == "Kamera"
    assert details[36867] == "2024:02:29 12:34:56"
    assert position[1] == "N"
