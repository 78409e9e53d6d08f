"""HEIF: samples and metadata, or an error that names the missing package."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image, from_float
from tests.support.image_files import XMP, exif, near, noise, smooth, tags, wide_gamut
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


@pytest.fixture(name="heif")
def library() -> Any:
    return pytest.importorskip("pillow_heif", reason="pillow-heif (the extra heif) is missing")


def heic(library: Any, samples: np.ndarray, *, quality: int = -1, **info: Any) -> bytes:
    """Encode as other programs do, losslessly by default."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[samples.shape[2]] + ";16" * (samples.dtype.itemsize == 2)
    file = library.from_bytes(mode, samples.shape[1::-1], samples.tobytes())
    buffer = io.BytesIO()
    matrix = 0 if samples.shape[2] > 1 else 1
    file.save(buffer, quality=quality, chroma=444, matrix_coefficients=matrix, **info)
    return buffer.getvalue()


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".heic", ".heif", ".hif"])
def test_a_heif_is_restored_to_a_heif(
    suffix: str, samples: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """A HEIF is restored to its format, with grey and alpha, exactly at quality 100."""
    original = noise(40, 56, samples)
    Path("f").mkdir()
    Path(f"f/a{suffix}").write_bytes(heic(heif, original))
    assert restormer("denoise", "f", "--quality", 100, *EXACT).status == 0
    assert tree() == [f"f-restored/a{suffix}", f"f/a{suffix}"]
    image = image_io.read_image(Path(f"f-restored/a{suffix}"))
    assert image.format == "heif"
    assert np.array_equal(image.samples(), original)


def test_the_metadata_of_a_heic_are_kept(heif: Any, restormer: Callable[..., Outcome]) -> None:
    """ICC profile, EXIF and XMP are kept in every format."""
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
    """The file's rotation is applied, and EXIF's copy of it reset."""
    original = PIL.Image.fromarray(noise(40, 56, 3))
    original.getexif()[274] = orientation
    block = original.getexif().tobytes()
    Path("a.heic").write_bytes(
        heic(heif, np.asarray(original), exif=block)
    )  # turns the file as well
    assert restormer("denoise", "a.heic", "-o", "b.png", *EXACT).status == 0
    expected = np.asarray(PIL.ImageOps.exif_transpose(original))
    assert np.array_equal(image_io.read_image(Path("b.png")).pixels, expected)
    with PIL.Image.open("b.png") as output:
        assert output.getexif().get(274, 1) == 1


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_a_heic_of_ten_bits_is_not_cut_to_8(
    samples: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """10 bits become the full range of 16, and the same 10 bits are written."""
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
    """16 bits are rounded to 10 in a HEIF."""
    original = picture("a.png", (40, 56, 3), "uint16")
    outcome = restormer("denoise", "a.png", "-o", "b.heic", "--quality", 100, *EXACT)
    assert "note: a.png: heif holds 10 bits: rounded" in outcome.stderr
    assert near(image_io.read_image(Path("b.heic")).pixels, original, 0.5 / 1023 + 1e-6)


@pytest.mark.parametrize("quality", [50, 95])
def test_quality_applies_to_a_heic(
    quality: int, heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """Below quality 100 a HEIF is lossy, with colour at full resolution."""
    image_io.write_image(Image(from_float(smooth(), "uint8")), Path("a.png"))
    restormer("denoise", "a.png", "-o", "b.heic", "--quality", quality, *EXACT)
    assert near(
        image_io.read_image(Path("b.heic")).pixels, image_io.read_image(Path("a.png")).pixels, 0.1
    )
    assert heif.open_heif("b.heic").info["chroma"] == 444


def test_a_colour_space_without_profile_is_kept(
    heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """Primaries and transfer without a profile are kept in a HEIF."""
    numbers = {"color_primaries": 9, "transfer_characteristics": 16, "full_range_flag": 1}
    Path("a.heic").write_bytes(heic(heif, noise(40, 56, 3, "uint16"), **numbers))
    restormer("denoise", "a.heic", "-o", "b.heic", *EXACT)
    profile = heif.open_heif("b.heic").info["nclx_profile"]
    assert {name: profile[name] for name in numbers} == numbers


def test_a_colour_space_without_profile_is_kept_in_other_formats(
    heif: Any, restormer: Callable[..., Outcome]
) -> None:
    """HEIF and PNG keep a colour space without a profile; its loss in a JPEG is noted."""
    numbers = {"color_primaries": 9, "transfer_characteristics": 16, "full_range_flag": 0}
    Path("a.heic").write_bytes(heic(heif, noise(40, 56, 3, "uint16"), **numbers))
    assert restormer("denoise", "a.heic", "-o", "b.png", *EXACT).status == 0
    assert image_io.read_image(Path("b.png")).cicp == (9, 16, 0, 1)
    assert restormer("denoise", "b.png", "-o", "c.heic", *EXACT).status == 0
    profile = heif.open_heif("c.heic").info["nclx_profile"]
    assert (profile["color_primaries"], profile["transfer_characteristics"]) == (9, 16)
    outcome = restormer("denoise", "a.heic", "-o", "d.jpg", *EXACT)
    assert "jpeg as written here cannot hold the colour space (CICP 9/16)" in outcome.stderr


def test_the_primary_picture_is_restored(heif: Any, restormer: Callable[..., Outcome]) -> None:
    """If a file has several pictures, the primary one is restored, with a note on the others."""
    file = heif.from_bytes("RGB", (56, 40), noise(40, 56, 3, seed=1).tobytes())
    for seed in (2, 3):
        file.add_frombytes("RGB", (56, 40), noise(40, 56, 3, seed=seed).tobytes())
    file.save("a.heic", quality=-1, chroma=444, matrix_coefficients=0, primary_index=1)
    outcome = restormer("denoise", "a.heic", "-o", "b.png", *EXACT)
    assert "note: a.heic: 2 more pictures: left out" in outcome.stderr
    assert np.array_equal(image_io.read_image(Path("b.png")).pixels, noise(40, 56, 3, seed=2))


def test_a_truncated_heic_is_an_error(heif: Any, restormer: Callable[..., Outcome]) -> None:
    """A truncated HEIF is an error, and the other files are restored."""
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
    """A HEIF with a huge size in its header is refused."""
    data, size = heic(heif, noise(64, 64, 3)), b"ispe\0\0\0\0"
    assert size + struct.pack(">II", 64, 64) in data
    huge = data.replace(size + struct.pack(">II", 64, 64), size + struct.pack(">II", side, side))
    Path("a.heic").write_bytes(huge)
    outcome = restormer("denoise", "a.heic")
    assert outcome.status == 1
    assert "error: a.heic: " in outcome.stderr
    assert tree() == ["a.heic"]


def test_without_the_package_a_heic_names_the_remedy(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package each HEIF is an error with a remedy; the other files are restored."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    picture("f/b.png")
    Path("f/a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    outcome = restormer("denoise", "f", "-o", "out", *EXACT)
    assert outcome.status == 1
    assert "error: f/a.HEIC: HEIF needs pillow_heif" in outcome.stderr
    assert "hint: Install it: pip install 'restormer-cli[heif]'" in outcome.stderr
    assert tree() == ["f/a.HEIC", "f/b.png", "out/b.png"]
