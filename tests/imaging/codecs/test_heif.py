"""HEIF and AVIF: read and written with all that is said of the picture, or a remedy named."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from restormer_cli.imaging import io as image_io
from tests.support.image_files import XMP, exif, noise, tags, wide_gamut
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


@pytest.fixture(name="heif")
def library() -> Any:
    return pytest.importorskip("pillow_heif", reason="pillow-heif (the extra heif) is missing")


def smooth(height: int = 40, width: int = 56, samples: int = 3) -> np.ndarray:
    """A picture that lossy coding hardly changes."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    planes = [rows * columns, rows + 0 * columns, 0 * rows + columns, 0.5 + 0.5 * rows * columns]
    return np.dstack(planes[:samples])


def heic(library: Any, samples: np.ndarray, *, quality: int = -1, **info: Any) -> bytes:
    """What another program writes; without loss, unless a quality is given."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[samples.shape[2]] + ";16" * (samples.dtype.itemsize == 2)
    file = library.from_bytes(mode, samples.shape[1::-1], samples.tobytes())
    buffer = io.BytesIO()
    matrix = 0 if samples.shape[2] > 1 else 1
    file.save(buffer, quality=quality, chroma=444, matrix_coefficients=matrix, **info)
    return buffer.getvalue()


def near(one: np.ndarray, other: np.ndarray, by: float) -> bool:
    return bool(np.abs(image_io.to_float(one) - image_io.to_float(other)).max() < by)


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".heic", ".heif", ".hif"])
def test_a_phones_picture_comes_back_as_one(
    suffix: str, samples: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """In its format, with alpha or grey kept, and exactly so at quality 100."""
    given = noise(40, 56, samples)
    Path("f").mkdir()
    Path(f"f/a{suffix}").write_bytes(heic(heif, given))
    assert restormer("denoise", "f", "--quality", 100, *EXACT).status == 0
    assert tree() == [f"f-restored/a{suffix}", f"f/a{suffix}"]
    image = image_io.read_image(Path(f"f-restored/a{suffix}"))
    assert image.format == "heif"
    assert np.array_equal(image.samples(), given)


def test_what_is_said_of_a_heic_is_kept(heif: Any, restormer: Callable[..., Outcome]) -> None:
    """ICC profile, EXIF and XMP, in its own format and in others."""
    block = exif()
    data = heic(heif, noise(40, 56, 3), icc_profile=wide_gamut(), exif=block, xmp=XMP % 1)
    Path("a.heic").write_bytes(data)
    for target in ("b.heic", "b.png", "b.tif", "b.jpg", "b.webp", "b.avif"):
        assert restormer("denoise", "a.heic", "-o", target, *EXACT).status == 0
        image = image_io.read_image(Path(target))
        assert (image.icc, image.xmp) == (wide_gamut(), XMP % 1)
        assert tags(image.exif or b"") == tags(block)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once(
    orientation: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """By the file's own rotation, of which EXIF has a copy: that is 1 afterwards."""
    given = PIL.Image.fromarray(noise(40, 56, 3))
    given.getexif()[274] = orientation
    block = given.getexif().tobytes()
    Path("a.heic").write_bytes(heic(heif, np.asarray(given), exif=block))  # turns the file as well
    assert restormer("denoise", "a.heic", "-o", "b.png", *EXACT).status == 0
    wanted = np.asarray(PIL.ImageOps.exif_transpose(given))
    assert np.array_equal(image_io.read_image(Path("b.png")).pixels, wanted)
    with PIL.Image.open("b.png") as other:
        assert other.getexif().get(274, 1) == 1


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_a_heic_of_ten_bits_is_not_cut_to_8(
    samples: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """Its full range becomes that of 16 bits, and the same ten come back."""
    ten = noise(40, 56, samples, "uint16") >> 6
    Path("a.heic").write_bytes(heic(heif, ten << 6))
    for target in ("b.png", "b.heic"):
        outcome = restormer("denoise", "a.heic", "-o", target, "--quality", 100, *EXACT)
        assert outcome.status == 0
        assert "rounded" not in outcome.stderr
        after = image_io.read_image(Path(target)).samples()
        assert after.dtype == np.uint16
        assert np.array_equal(np.rint(after / 65535 * 1023), ten)


def test_deeper_pictures_are_rounded_to_ten_bits_with_a_note(
    heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """Which is what a HEIC of ours holds."""
    given = picture("a.png", (40, 56, 3), "uint16")
    outcome = restormer("denoise", "a.png", "-o", "b.heic", "--quality", 100, *EXACT)
    assert "note: a.png: heif holds 10 bits: rounded" in outcome.stderr
    assert near(image_io.read_image(Path("b.heic")).pixels, given, 0.5 / 1023 + 1e-6)


@pytest.mark.parametrize("quality", [50, 95])
def test_quality_is_a_heics(quality: int, heif: Any, restormer: Callable[..., Outcome]) -> None:
    """Below 100 it is lossy, with colour at full resolution."""
    image_io.write_image(image_io.Image(image_io.from_float(smooth(), "uint8")), Path("a.png"))
    restormer("denoise", "a.png", "-o", "b.heic", "--quality", quality, *EXACT)
    assert near(
        image_io.read_image(Path("b.heic")).pixels, image_io.read_image(Path("a.png")).pixels, 0.1
    )
    assert heif.open_heif("b.heic").info["chroma"] == 444


def test_colour_without_a_profile_stays_what_it_is(
    heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """Numbers that name its primaries and its curve, as of a picture of high dynamic range."""
    numbers = {"color_primaries": 9, "transfer_characteristics": 16, "full_range_flag": 1}
    Path("a.heic").write_bytes(heic(heif, noise(40, 56, 3, "uint16"), **numbers))
    restormer("denoise", "a.heic", "-o", "b.heic", *EXACT)
    told = heif.open_heif("b.heic").info["nclx_profile"]
    assert {name: told[name] for name in numbers} == numbers


def test_colour_without_a_profile_crosses_formats(
    heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """HEIF and PNG hold it, high dynamic range too; JPEG cannot, and that is said."""
    numbers = {"color_primaries": 9, "transfer_characteristics": 16, "full_range_flag": 0}
    Path("a.heic").write_bytes(heic(heif, noise(40, 56, 3, "uint16"), **numbers))
    assert restormer("denoise", "a.heic", "-o", "b.png", *EXACT).status == 0
    assert image_io.read_image(Path("b.png")).cicp == (9, 16, 0, 1)
    assert restormer("denoise", "b.png", "-o", "c.heic", *EXACT).status == 0
    told = heif.open_heif("c.heic").info["nclx_profile"]
    assert (told["color_primaries"], told["transfer_characteristics"]) == (9, 16)
    outcome = restormer("denoise", "a.heic", "-o", "d.jpg", *EXACT)
    assert (
        "jpeg as it is written here does not say what the colours are (CICP 9/16)" in outcome.stderr
    )


def test_of_several_pictures_the_main_one_is_restored(
    heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """And how many there are besides is said."""
    file = heif.from_bytes("RGB", (56, 40), noise(40, 56, 3, seed=1).tobytes())
    for seed in (2, 3):
        file.add_frombytes("RGB", (56, 40), noise(40, 56, 3, seed=seed).tobytes())
    file.save("a.heic", quality=-1, chroma=444, matrix_coefficients=0, primary_index=1)
    outcome = restormer("denoise", "a.heic", "-o", "b.png", *EXACT)
    assert "note: a.heic: 2 more pictures: left out" in outcome.stderr
    assert np.array_equal(image_io.read_image(Path("b.png")).pixels, noise(40, 56, 3, seed=2))


def test_a_damaged_heic_is_said(heif: Any, restormer: Callable[..., Outcome]) -> None:
    """Cut anywhere."""
    whole = heic(heif, noise(40, 56, 3))
    Path("f").mkdir()
    for number, keep in enumerate((0.02, 0.1, 0.5, 0.9)):
        Path(f"f/{number}.heic").write_bytes(whole[: int(len(whole) * keep)])
    Path("f/9.heic").write_bytes(whole)
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert outcome.stderr.count("error: ") == 4
    assert [name for name in tree() if name.startswith("out")] == ["out/9.heic"]


@pytest.mark.parametrize("side", [60000, 30000])
def test_the_size_of_a_heic_is_known_before_it_is_decoded(
    side: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """A header that says more than there is."""
    data, size = heic(heif, noise(64, 64, 3)), b"ispe\0\0\0\0"
    assert size + struct.pack(">II", 64, 64) in data
    huge = data.replace(size + struct.pack(">II", 64, 64), size + struct.pack(">II", side, side))
    Path("a.heic").write_bytes(huge)
    outcome = restormer("denoise", "a.heic")
    assert outcome.status == 1
    assert "error: a.heic: " in outcome.stderr
    assert tree() == ["a.heic"]


def test_without_the_package_a_heic_says_how_to_have_it(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in a folder, too; the others go on."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    picture("f/b.png")
    Path("f/a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert "error: f/a.HEIC: HEIF images need a package that is not installed" in outcome.stderr
    assert "hint: pip install 'restormer-cli[heif]'" in outcome.stderr
    assert tree() == ["f/a.HEIC", "f/b.png", "out/b.png"]


# --- AVIF ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_an_avif_comes_back_as_one(samples: int, restormer: Callable[..., Outcome]) -> None:
    """Lossy, but with grey and alpha kept."""
    given = image_io.from_float(smooth(samples=samples), "uint8")
    mode = given.squeeze(2) if samples == 1 else given
    PIL.Image.fromarray(mode).save(
        "a.avif", quality=100, subsampling="4:4:4" if samples > 1 else "4:0:0"
    )
    assert restormer("denoise", "a.avif", *EXACT).status == 0
    assert tree() == ["a.avif", "a.restored.avif"]
    image = image_io.read_image(Path("a.restored.avif"))
    assert image.format == "avif"
    assert near(image.samples(), given, 0.03)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_once_and_keeps_what_is_said_of_it(
    orientation: int, restormer: Callable[..., Outcome]
) -> None:
    """ICC profile, EXIF and XMP, in its own format and in others."""
    given = image_io.from_float(smooth(), "uint8")
    block = exif(orientation)
    PIL.Image.fromarray(given).save(
        "a.avif",
        quality=100,
        subsampling="4:4:4",
        icc_profile=wide_gamut(),
        exif=block,
        xmp=XMP % orientation,
    )
    upright = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open("a.avif")))
    for target in ("b.avif", "b.png"):
        assert restormer("denoise", "a.avif", "-o", target, *EXACT).status == 0
        image = image_io.read_image(Path(target))
        assert near(image.pixels, upright, 0.03)
        assert (image.icc, image.xmp) == (wide_gamut(), XMP % 1)
        assert tags(image.exif or b"") == tags(block)
        with PIL.Image.open(target) as other:
            assert other.getexif().get(274, 1) == 1


def test_the_colour_of_an_avif_goes_into_a_png(restormer: Callable[..., Outcome]) -> None:
    """Its numbers are found; an AVIF of ours would not have them, which is said."""
    PIL.Image.fromarray(image_io.from_float(smooth(), "uint8")).save("a.avif", quality=100)
    data = Path("a.avif").read_bytes()
    at = data.index(b"colrnclx") + 8
    Path("a.avif").write_bytes(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    assert restormer("denoise", "a.avif", "-o", "b.png", *EXACT).status == 0
    assert image_io.read_image(Path("b.png")).cicp == (9, 16, 0, 1)
    outcome = restormer("denoise", "a.avif", "-o", "b.avif", *EXACT)
    assert "avif as it is written here does not say what the colours are" in outcome.stderr


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_a_deep_avif_is_not_cut_to_8_bits(
    samples: int, bits: int, orientation: int, restormer: Callable[..., Outcome]
) -> None:
    """Its full range becomes that of 16 bits; AVIF itself is written with 8, and a note."""
    given = noise(40, 56, samples, "uint16") >> (16 - bits)
    stored = given if samples == 1 else given[..., [2, 1, 0, 3][:samples]]
    options = [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, bits]
    block = np.frombuffer(exif(orientation), np.uint8)
    data = cv2.imencodeWithMetadata(
        ".avif", np.ascontiguousarray(stored), [cv2.IMAGE_METADATA_EXIF], [block], options
    )[1]
    Path("a.avif").write_bytes(data.tobytes())
    assert restormer("denoise", "a.avif", "-o", "b.png", *EXACT).status == 0
    after = image_io.read_image(Path("b.png")).samples()
    assert after.dtype == np.uint16
    wanted = np.rot90(given, -1) if orientation == 6 else given
    assert np.array_equal(np.rint(after / 65535 * ((1 << bits) - 1)), wanted)
    outcome = restormer("denoise", "a.avif", "-o", "b.avif", *EXACT)
    assert "avif holds no uint16 samples: rounded to uint8" in outcome.stderr
