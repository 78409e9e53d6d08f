"""Linear DNGs: what raw developers find in them, and what the network does to them."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from restormer_cli.errors import ImageError
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.codecs.blocks import exif
from restormer_cli.imaging.codecs.blocks.exif import Directory, Tag, integer_tag
from restormer_cli.imaging.image import Image, to_float
from restormer_cli.imaging.linear import WHITE
from restormer_cli.imaging.network_view import prepare
from tests.support import image_files
from tests.support.camera import BALANCE, BLACK, dng, mosaic, nef
from tests.support.camera import MATRIX as CAMERA_MATRIX
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")
UNCHANGED = (*EXACT, "--strength", "0")
VERSION, BACKWARD, CAMERA, MATRIX, NEUTRAL, ILLUMINANT = 50706, 50707, 50708, 50721, 50728, 50778
SUBDIRECTORIES, PRIVATE, OPCODES = 330, 50740, 51009
NOTE = b"\xff\xffmaker\x00note"  # no directory to LibRaw, which looks for one

rawpy: Any = pytest.importorskip("rawpy", reason="rawpy (the extra raw) is not installed")


def scene(height: int = 32, width: int = 48, noise: float = 0.03) -> np.ndarray:
    """Return a noisy gradient in linear sRGB, from dark to bright."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    planes = [0.02 + 0.7 * rows + 0 * columns, 0.05 + 0.6 * columns * rows, 0.3 - 0.2 * columns]
    planes = [np.broadcast_to(plane, (height, width)) for plane in planes]
    return np.clip(
        np.dstack(planes) + noise * np.random.default_rng(0).normal(size=(height, width, 3)), 0, 1
    )


def sensor(linear: np.ndarray) -> np.ndarray:
    """Return sensor samples of an exposure that may clip."""
    return mosaic(np.minimum(linear, BALANCE))


def photo(samples: np.ndarray, order: str = "<", **more: Tag) -> bytes:
    """Encode a raw file with EXIF and a maker note; `more` has names like t50730."""
    camera = exif.in_order(exif.parse(dng(samples)), order)
    described = exif.parse(image_files.exif(order=order, maker_note=NOTE))
    tags = {**camera.tags, **described.tags, **{int(name[1:]): tag for name, tag in more.items()}}
    tags[273] = integer_tag(order, exif.LONG, 8)
    return exif.build(order, tags, samples.astype(order + "u2").tobytes())


def develop(data: bytes, **options: Any) -> np.ndarray:
    """Develop a file with LibRaw as usual."""
    settings = {"gamma": (2.4, 12.92), "use_camera_wb": True, "no_auto_bright": True}
    with rawpy.imread(io.BytesIO(data)) as opened:
        return opened.postprocess(**{**settings, "output_bps": 16, **options}).astype(int)


def linear(name: str) -> Image:
    """Read the linear samples of a file."""
    data = Path(name).read_bytes()
    return next(image_io.decode(data, name=name, kind="dng").images)


def directories(name: str) -> tuple[Directory, Directory]:
    """Return the first directory of a file and the one below it."""
    data = Path(name).read_bytes()
    first = exif.parse(data)
    return first, exif.parse(data, first.integer(SUBDIRECTORIES))


def numbers(tag: Tag, order: str = "<") -> list[float]:
    """Return the values of a tag of fractions."""
    assert isinstance(tag.value, bytes)
    values = np.frombuffer(tag.value, f"{order}{'i' if tag.kind == 10 else 'u'}4")
    return list(values[::2] / values[1::2])


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("noise", "exposure"), [(0, 1), (0.03, 1), (0.2, 0.45)])
def test_an_unchanged_dng_is_developed_like_its_raw_file(
    noise: float, exposure: float, orientation: int, restormer: Callable[..., Outcome]
) -> None:
    """Colours, exposure and orientation equal those of the raw file, within a level of 16 bits."""
    data = dng(sensor(exposure * scene(noise=noise)), orientation=orientation)
    Path("a.NEF").write_bytes(data)
    assert restormer("denoise", "a.NEF", "-o", "b.dng", *UNCHANGED).status == 0
    result = Path("b.dng").read_bytes()
    expected, developed = (develop(each, gamma=(1, 1)) for each in (data, result))
    assert developed.shape == expected.shape
    assert np.abs(developed - expected).max() <= 1
    assert np.abs(develop(result) - develop(data)).max() <= 13  # sRGB's slope at black


def test_without_clipping_no_highlight_is_lost(restormer: Callable[..., Outcome]) -> None:
    """Red that is white after balancing, but not on the sensor, keeps its structure."""
    light = scene(noise=0)
    light[..., 0] = np.linspace(0.2, 1.9, 48)  # the sensor clips at 2
    Path("a.dng").write_bytes(dng(sensor(light)))
    assert restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED).status == 0
    stored = linear("b.dng").pixels[4:-4, 4:-4, 0] / WHITE
    assert np.abs(stored - light[4:-4, 4:-4, 0] / BALANCE[0]).max() < 0.01


def test_the_network_restores_balanced_colours_and_no_clipped_ones(
    restormer: Callable[..., Outcome], tiny: Callable[..., Path]
) -> None:
    """Clipped pixels stay as they are; of the others, a part of the change is applied."""
    light = scene()
    light[8:16, 8:24] = 3
    Path("a.dng").write_bytes(dng(sensor(light)))
    for strength in ("0", "0.5", "1"):
        command = ("-o", f"{strength}.dng", "--strength", strength, "--weights", tiny())
        outcome = restormer("denoise", "a.dng", *command, "--json", *EXACT)
        assert outcome.status == 0
        assert "highlights: they stay as they are" in json.dumps(outcome.events)
    before, half, after = (linear(f"{strength}.dng") for strength in ("0", "0.5", "1"))
    clipped = before.pixels.max(axis=2) == WHITE
    assert clipped[10:14, 10:22].all()
    assert np.array_equal(after.pixels[clipped], before.pixels[clipped])
    changed = (after.pixels != before.pixels).any(axis=2)
    assert changed[~clipped].mean() > 0.9
    first, middle, last = (image.display_pixels() for image in (before, half, after))
    inside = (after.pixels > 0) & (after.pixels < WHITE) & (half.pixels < WHITE)
    assert np.abs((first + last) / 2 - middle)[inside].max() < 1e-3


def test_the_network_sees_the_colours_of_a_developed_photograph() -> None:
    """The view is balanced, has sRGB's curve, and is not darkened for the highlights."""
    light = scene(noise=0)
    Path("a.dng").write_bytes(dng(sensor(light)))
    image = linear("a.dng")
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    view = prepare(image)
    assert np.abs(view.network_input - expected)[4:-4, 4:-4].max() < 0.01
    unchanged = view.encode(view.merge(view.network_input + 0))
    assert np.array_equal(unchanged, image.pixels)


@pytest.mark.parametrize("level", [0, 1, 100, 20000, WHITE])
def test_flat_frames_stay_flat(level: int, restormer: Callable[..., Outcome]) -> None:
    """Black, grey and clipped frames pass without a change or a warning."""
    Path("a.dng").write_bytes(dng(np.full((32, 48), level, np.uint16)))
    outcome = restormer("denoise", "a.dng", "-o", "b.dng", *EXACT)
    assert outcome.status == 0
    assert np.array_equal(linear("b.dng").pixels, linear("a.dng").pixels)


def test_without_a_white_balance_that_for_daylight_is_written(
    restormer: Callable[..., Outcome],
) -> None:
    """A raw file whose white balance is unknown has that of D65."""
    data = dng(sensor(scene()))
    without = exif.without_tag(data, NEUTRAL)
    Path("a.dng").write_bytes(without)
    assert restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED).status == 0
    assert np.allclose(numbers(directories("b.dng")[0].tags[NEUTRAL]), 1, atol=1e-4)


def test_sensors_without_colours_cannot_become_dng(restormer: Callable[..., Outcome]) -> None:
    """The error names the cause, and other formats work."""
    samples = sensor(scene())
    linear_raw = integer_tag("<", exif.SHORT, 34892)
    Path("a.dng").write_bytes(photo(samples, t262=linear_raw))
    outcome = restormer("denoise", "a.dng", "-o", "b.dng", *EXACT)
    assert outcome.status == 1
    assert "its sensor has no colours: only raw files of red, green and blue" in outcome.stderr
    assert restormer("denoise", "a.dng", "-o", "b.tif", *EXACT).status == 0


def test_a_dual_pixel_pair_becomes_a_dng(
    restormer: Callable[..., Outcome], identity: Callable[..., Path]
) -> None:
    """Both views are shown to the network in the same way."""
    network = identity("pair.pth", in_channels=6, dual_pixel=True)
    for name in ("l.dng", "r.dng"):
        Path(name).write_bytes(dng(sensor(scene())))
    views = ("l.dng", "--right", "r.dng", "-o", "b.dng", "--weights", network)
    assert restormer("defocus", *views, *EXACT).status == 0
    assert linear("b.dng").pixels.shape == (32, 48, 3)


def test_the_matrix_of_a_known_camera_is_written(restormer: Callable[..., Outcome]) -> None:
    """A raw file that is no DNG gets LibRaw's matrix; its black and white become 0 and 65535."""
    data = nef(BLACK + sensor(scene(noise=0.01) * 0.8) // 2)
    Path("a.nef").write_bytes(data)
    assert restormer("denoise", "a.nef", "-o", "b.dng", *UNCHANGED).status == 0
    first, _ = directories("b.dng")
    assert np.allclose(numbers(first.tags[MATRIX]), np.ravel(CAMERA_MATRIX), atol=1e-6)
    assert first.integer(ILLUMINANT) == 21
    assert first.raw(CAMERA) == b"NIKON D750\0"
    options = {"gamma": (1, 1), "use_camera_wb": False}  # without: daylight, as in the DNG
    expected = develop(data, **options)
    developed = develop(Path("b.dng").read_bytes(), gamma=(1, 1))
    assert np.abs(developed - expected).max() <= 3  # the matrix sums up three roundings


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_dng_has_the_tags_of_camera_and_photograph(
    order: str, restormer: Callable[..., Outcome]
) -> None:
    """Raw developers find colours, levels and EXIF, in both byte orders."""
    Path("a.dng").write_bytes(photo(sensor(scene()), order))
    outcome = restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED)
    assert outcome.status == 0
    first, below = directories("b.dng")
    assert first.order == order
    assert first.raw(VERSION) == b"\1\4\0\0"
    assert first.raw(BACKWARD) == b"\1\1\0\0"
    assert first.raw(CAMERA) == b"Kamera One\0"
    assert first.integer(274) == 1
    expected = np.array(numbers(exif.parse(dng(sensor(scene()))).tags[MATRIX]))
    assert np.allclose(numbers(first.tags[MATRIX], order), expected, atol=1e-4)
    assert first.integer(ILLUMINANT) == 21
    assert np.allclose(numbers(first.tags[NEUTRAL], order), 1 / np.array(BALANCE), atol=1e-5)
    assert below.integers(258) == (16, 16, 16)
    assert below.integer(262) == 34892
    assert below.integers(50714) == (0, 0, 0)
    assert below.integers(50717) == (WHITE,) * 3
    assert below.integers(50720) == (48, 32)
    main, details, position = image_files.tags(Path("b.dng").read_bytes())
    assert main[315] == "Jane"
    assert details[36867] == "2024:02:29 12:34:56"
    assert position[1] == "N"
    assert np.array_equal(linear("b.dng").pixels, linear("a.dng").pixels)


def test_the_maker_note_goes_to_the_private_data(restormer: Callable[..., Outcome]) -> None:
    """The note has its old offset, and stays when the DNG is restored again."""
    data = photo(sensor(scene()))
    Path("a.dng").write_bytes(data)
    assert restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED).status == 0
    assert restormer("denoise", "b.dng", "-o", "c.dng", *UNCHANGED).status == 0
    offset = struct.pack(">I", data.index(NOTE))
    expected = b"Adobe\0MakN" + struct.pack(">I", 6 + len(NOTE)) + b"II" + offset + NOTE
    for name in ("b.dng", "c.dng"):
        first, _ = directories(name)
        assert first.raw(PRIVATE) == expected
        assert 37500 not in image_files.tags(Path(name).read_bytes())[1]


def test_the_preview_shows_the_restored_photograph(restormer: Callable[..., Outcome]) -> None:
    """The JPEG in the first directory is the developed picture at half its size."""
    Path("a.dng").write_bytes(dng(sensor(scene(64, 96, noise=0)), orientation=6))
    assert restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED).status == 0
    data = Path("b.dng").read_bytes()
    first = exif.parse(data)
    start, size = first.integer(273), first.integer(279)
    preview = cv2.imdecode(np.frombuffer(data[start : start + size], np.uint8), cv2.IMREAD_COLOR)
    assert preview.shape == (48, 32, 3)
    assert (first.integer(256), first.integer(257)) == (32, 48)
    developed = develop(data).astype(np.float32) / WHITE
    expected = cv2.resize(developed, (32, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(preview[..., ::-1] / 255 - expected).mean() < 0.02


def test_a_linear_dng_becomes_a_linear_dng(restormer: Callable[..., Outcome]) -> None:
    """Our own output as input is read without a change of its samples and tags."""
    Path("a.dng").write_bytes(
        photo(sensor(scene() * 1.5), t50730=Tag(10, 1, struct.pack("<ii", 1, 2)))
    )
    assert restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED).status == 0
    assert restormer("denoise", "b.dng", "-o", "c.dng", *UNCHANGED).status == 0
    assert Path("b.dng").read_bytes() == Path("c.dng").read_bytes()
    assert numbers(directories("c.dng")[0].tags[50730]) == [0.5]


def test_a_linear_dng_is_developed_for_other_formats(restormer: Callable[..., Outcome]) -> None:
    """A DNG as input becomes a PNG unless a DNG is requested."""
    Path("a.dng").write_bytes(dng(sensor(scene())))
    assert restormer("denoise", "a.dng", "-o", "b.dng", *UNCHANGED).status == 0
    assert restormer("denoise", "b.dng", *UNCHANGED).status == 0
    stored = image_io.read_image(Path("b.restored.png")).pixels
    assert np.array_equal(stored, develop(Path("b.dng").read_bytes()))


def test_a_folder_becomes_dngs(restormer: Callable[..., Outcome]) -> None:
    """Raw files become DNG, also beside JPEGs of the same name, which fail like all others."""
    Path("f").mkdir()
    Path("f/a.NEF").write_bytes(dng(sensor(scene())))
    Path("f/b.dng").write_bytes(dng(sensor(scene())))
    for name in ("f/a.jpg", "f/c.tif"):
        picture(name)
    command = ("denoise", "f", "-o", "out", "--format", "dng", "--json", *EXACT)
    outcome = restormer(*command)
    assert outcome.status == 1
    assert [name for name in tree() if name.startswith("out")] == ["out/a.dng", "out/b.dng"]
    errors = {e["input"]: e["error"] for e in outcome.events if e["event"] == "failed"}
    assert errors == dict.fromkeys(("f/a.jpg", "f/c.tif"), "only camera raw files can become DNG")
    outcome = restormer(*command, "--skip-existing")
    skipped = [e["input"] for e in outcome.events if e["event"] == "skipped"]
    assert sorted(skipped) == ["f/a.NEF", "f/b.dng"]


def test_workers_write_dngs(restormer: Callable[..., Outcome]) -> None:
    """A pool of processes writes the same files."""
    Path("f").mkdir()
    for name in ("a", "b"):
        Path(f"f/{name}.nef").write_bytes(dng(sensor(scene())))
    command = ("denoise", "f", "--format", "dng", *EXACT)
    assert restormer(*command, "-o", "one").status == 0
    assert restormer(*command, "-o", "two", "--device", "cpu,cpu").status == 0
    for name in ("a", "b"):
        assert Path(f"one/{name}.dng").read_bytes() == Path(f"two/{name}.dng").read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "-"])
def test_only_raw_files_can_become_dng(name: str, restormer: Callable[..., Outcome]) -> None:
    """Other files fail before the network runs, from files and from stdin."""
    picture("a.png")
    picture("a.tif")
    data = Path("a.png").read_bytes() if name == "-" else b""
    outcome = restormer("denoise", name, "-o", "b.dng", stdin=data)
    assert outcome.status in (1, 2)
    assert "only camera raw files can become DNG" in outcome.stderr
    assert not Path("b.dng").exists()
    with pytest.raises(ImageError, match="only camera raw files can become DNG"):
        image_io.write_image(Image(np.zeros((4, 4, 3), np.uint16)), Path("b.dng"))


def test_a_dng_goes_through_pipes(restormer: Callable[..., Outcome]) -> None:
    """A raw file on stdin becomes a DNG on stdout if the format is requested."""
    data = dng(sensor(scene()))
    Path("a.dng").write_bytes(data)
    assert restormer("denoise", "a.dng", "-o", "b.dng", *EXACT).status == 0
    outcome = restormer("denoise", "-", "-o", "-", "--format", "dng", *EXACT, stdin=data)
    assert outcome.status == 0
    assert outcome.stdout == Path("b.dng").read_bytes()


@pytest.mark.parametrize(
    "options", [("--in-place",), ("--in-place", "--format", "dng"), ("--in-place", "-o", "a.dng")]
)
def test_a_raw_file_is_not_replaced_by_a_linear_dng(
    options: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """In place would lose the samples of the sensor."""
    data = dng(sensor(scene()))
    Path("a.dng").write_bytes(data)
    outcome = restormer("denoise", "a.dng", *options)
    assert outcome.status in (1, 2)
    assert Path("a.dng").read_bytes() == data
    assert tree() == ["a.dng"]


def test_a_dry_run_and_a_sheet_work_with_dngs(restormer: Callable[..., Outcome]) -> None:
    """The plan names the DNG, and the sheet shows developed pictures."""
    Path("a.nef").write_bytes(dng(sensor(scene(160, 200))))
    planned = restormer("denoise", "a.nef", "-o", "b.dng", "--dry-run", "--json")
    assert planned.events[0]["output"] == "b.dng"
    outcome = restormer("denoise", "a.nef", "-o", "b.dng", "--compare", "s.png", *EXACT)
    assert outcome.status == 0
    sheet = to_float(image_io.read_image(Path("s.png")).pixels)
    assert tree() == ["a.nef", "b.dng", "s.png"]
    developed = develop(Path("a.nef").read_bytes())[4, 4] / WHITE
    assert np.abs(sheet - developed).max(axis=2).min() < 0.05


def test_corrections_of_the_lens_are_named(restormer: Callable[..., Outcome]) -> None:
    """Opcodes describe the samples of the sensor: the output lacks them, and a note says so."""
    opcodes = Tag(exif.UNDEFINED, 4, bytes(4))
    Path("a.dng").write_bytes(photo(sensor(scene()), **{f"t{OPCODES}": opcodes}))
    outcome = restormer("denoise", "a.dng", "-o", "b.dng", *EXACT)
    assert "note: a.dng: corrections of the lens (opcodes of the DNG): left out" in outcome.stderr
    assert OPCODES not in directories("b.dng")[0].tags


def test_without_the_package_a_dng_names_the_remedy(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    Path("a.nef").write_bytes(dng(sensor(scene())))
    outcome = restormer("denoise", "a.nef", "-o", "b.dng")
    assert outcome.status == 1
    assert "pip install 'restormer-cli[raw]'" in outcome.stderr


@pytest.mark.skipif(not shutil.which("exiv2"), reason="exiv2 is not installed")
def test_exiv2_reads_the_dng_without_a_complaint(restormer: Callable[..., Outcome]) -> None:
    """Tags and preview are valid for an independent reader."""
    Path("a.dng").write_bytes(photo(sensor(scene(160, 200))))
    assert restormer("denoise", "a.dng", "-o", "b.dng", *EXACT).status == 0
    read = subprocess.run(["exiv2", "-pa", "b.dng"], capture_output=True, check=True)  # noqa: S607
    assert read.stderr == b""
    for text in (b"Linear Raw", b"2024:02:29 12:34:56", b"Kamera One", b"D65"):
        assert text in read.stdout
