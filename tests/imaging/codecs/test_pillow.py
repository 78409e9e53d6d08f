"""WebP, BMP, AVIF, and formats that are only read."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image, from_float
from tests.support.image_files import (
    XMP,
    assert_same_image,
    encoded,
    exif,
    near,
    noise,
    rewritten,
    smooth,
    tags,
    wide_gamut,
)
from tests.support.program import Outcome, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")

EXACT = ("--precision", "fp32")


@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_webp_stays_lossless(tmp_path, alpha):
    """A lossless WebP stays lossless, with the colour of fully transparent pixels."""
    samples = noise(13, 17, 4 if alpha else 3)
    options = {"lossless": True, "exact": True, "icc_profile": wide_gamut(), "exif": exif()}
    data = encoded(PIL.Image.fromarray(samples), "WEBP", xmp=XMP % 1, **options)
    image = image_io.read_image(data)
    np.testing.assert_array_equal(image.pixels, samples[..., :3])
    assert (image.icc, image.exif, image.xmp) == (wide_gamut(), exif(), XMP % 1)
    assert_same_image(image, rewritten(image, tmp_path / "a.webp"))


@pytest.mark.parametrize(("quality", "exact"), [(100, True), (95, False)])
def test_quality_100_is_lossless_webp(tmp_path, quality, exact):
    """Another format becomes a lossy WebP, or a lossless one at quality 100."""
    image = Image(noise(30, 40, 3))
    back = rewritten(image, tmp_path / "a.webp", quality=quality)
    assert np.array_equal(back.pixels, image.pixels) == exact
    assert back.lossless == exact


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_bmp_keeps_every_sample(tmp_path, samples):
    """BMP keeps grey, RGB and RGBA, and the resolution."""
    pixels = noise(13, 17, samples)
    alpha = pixels[..., 3] if samples == 4 else None
    image = Image(pixels[..., : min(samples, 3)], alpha, "bmp", dpi=(300, 150))
    back = rewritten(image, tmp_path / "a.bmp")
    assert_same_image(image, back)
    assert back.dpi == pytest.approx(image.dpi, rel=1e-4)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("top", [65535, 1023])
def test_deep_pnm_is_not_cut_to_8_bits(colours, top):
    """A PGM or PPM of more than 255 levels is scaled to 16 bits."""
    samples = noise(6, 7, colours, "uint16") & top
    head = b"P%d # dcraw\n7 6\n%d\n" % (5 if colours == 1 else 6, top)
    image = image_io.read_image(head + samples.astype(">u2").tobytes())
    np.testing.assert_array_equal(image.pixels, np.rint(samples * (65535 / top)))
    assert image.pixels.dtype == np.uint16


@pytest.mark.parametrize(
    ("bpc", "notes"), [(1, []), (2, ["sgi of more than 8 bits is read as 8 bits"])]
)
def test_bits_that_pillow_cuts_are_noted(bpc, notes):
    """A file deeper than its decoder supports gets a note."""
    data = encoded(PIL.Image.fromarray(noise(6, 7, 3)), "SGI", bpc=bpc)
    assert image_io.read_image(data).losses == notes


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_an_avif_is_restored_to_an_avif(samples: int, restormer: Callable[..., Outcome]) -> None:
    """An AVIF is restored to an AVIF, with grey and alpha."""
    original = from_float(smooth(samples=samples), "uint8")
    mode = original.squeeze(2) if samples == 1 else original
    PIL.Image.fromarray(mode).save(
        "a.avif", quality=100, subsampling="4:4:4" if samples > 1 else "4:0:0"
    )
    assert restormer("denoise", "a.avif", *EXACT).status == 0
    assert tree() == ["a.avif", "a.restored.avif"]
    image = image_io.read_image(Path("a.restored.avif"))
    assert image.format == "avif"
    assert near(image.samples(), original, 0.03)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_once_and_keeps_its_metadata(
    orientation: int, restormer: Callable[..., Outcome]
) -> None:
    """Orientation is applied once; ICC profile, EXIF and XMP are kept in any format."""
    original = from_float(smooth(), "uint8")
    block = exif(orientation)
    PIL.Image.fromarray(original).save(
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
        with PIL.Image.open(target) as output:
            assert output.getexif().get(274, 1) == 1


def test_a_png_keeps_the_colour_space_of_an_avif(restormer: Callable[..., Outcome]) -> None:
    """The colour space is kept in a PNG; its loss in an AVIF is noted."""
    PIL.Image.fromarray(from_float(smooth(), "uint8")).save("a.avif", quality=100)
    data = Path("a.avif").read_bytes()
    at = data.index(b"colrnclx") + 8
    Path("a.avif").write_bytes(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    assert restormer("denoise", "a.avif", "-o", "b.png", *EXACT).status == 0
    assert image_io.read_image(Path("b.png")).cicp == (9, 16, 0, 1)
    outcome = restormer("denoise", "a.avif", "-o", "b.avif", *EXACT)
    assert "avif as written here cannot hold the colour space" in outcome.stderr


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_a_deep_avif_is_not_cut_to_8_bits(
    samples: int, bits: int, orientation: int, restormer: Callable[..., Outcome]
) -> None:
    """10 and 12 bits become 16; writing 8 bits to an AVIF is noted."""
    original = noise(40, 56, samples, "uint16") >> (16 - bits)
    stored = original if samples == 1 else original[..., [2, 1, 0, 3][:samples]]
    options = [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_DEPTH, bits]
    block = np.frombuffer(exif(orientation), np.uint8)
    data = cv2.imencodeWithMetadata(
        ".avif", np.ascontiguousarray(stored), [cv2.IMAGE_METADATA_EXIF], [block], options
    )[1]
    Path("a.avif").write_bytes(data.tobytes())
    assert restormer("denoise", "a.avif", "-o", "b.png", *EXACT).status == 0
    after = image_io.read_image(Path("b.png")).samples()
    assert after.dtype == np.uint16
    expected = np.rot90(original, -1) if orientation == 6 else original
    assert np.array_equal(np.rint(after / 65535 * ((1 << bits) - 1)), expected)
    outcome = restormer("denoise", "a.avif", "-o", "b.avif", *EXACT)
    assert "avif holds no uint16 samples: rounded to uint8" in outcome.stderr


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
def test_xmp_and_profile_of_a_gif_are_kept(kind):
    """Both are in application extensions; XMP is not in sub-blocks, but before a ramp of bytes."""
    packet, profile = b'<x:xmpmeta a="' + b"x" * 700 + b'"/>', wide_gamut()
    data = io.BytesIO()
    PIL.Image.new("P", (9, 7)).save(data, "gif")
    blocks = [profile[i : i + 255] for i in range(0, len(profile), 255)]
    icc = b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    xmp = packet + bytes([1, *range(255, -1, -1), 0])
    gif = data.getvalue()[:-1]
    gif += b"\x21\xff\x0bICCRGBG1012" + icc + b"\x21\xff\x0bXMP DataXMP" + xmp + b";"
    (image,) = image_io.decode(gif).images
    assert (image.xmp, image.icc) == (packet, profile)
    (image,) = image_io.decode(image_io.encode([image], kind).data).images
    assert (image.xmp, image.icc) == (packet, profile)


def test_xmp_does_not_turn_an_avif():
    """The container has the orientation; as a JPEG, the XMP would turn the picture."""
    packet = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    data = io.BytesIO()
    PIL.Image.new("RGB", (9, 7)).save(data, "avif", xmp=packet)
    (image,) = image_io.decode(data.getvalue()).images
    assert image.pixels.shape == (7, 9, 3)
    assert image.xmp == packet.replace(b"6", b"1")
