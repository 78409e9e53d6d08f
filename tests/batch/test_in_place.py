"""In place, a file is replaced only if the output holds everything that the input has."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image
import pytest

from restormer_cli.imaging import Image, fit
from restormer_cli.imaging import io as image_io
from restormer_cli.inference import Restorer
from tests.support.image_files import chunk, directory, noise, png, wide_gamut
from tests.support.program import Outcome
from tests.support.sequences import read, write

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")


def saved(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise(16, 24, 3)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, *tags: tuple[int, int, int, bytes], slices: int = 1) -> bytes:
    """Return a TIFF of one directory, whose pixels are not compressed."""
    height, width, count = samples.shape
    body = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    form = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    height //= slices
    values = {256: width, 257: height, 258: samples.itemsize * 8, 259: 1, 262: 1, 273: 8}
    values |= {277: count, 278: height, 279: len(body) // slices, 339: form}
    entries = [(tag, 4, 1, struct.pack("<I", value)) for tag, value in values.items()]
    at = 8 + len(body)
    return b"II" + struct.pack("<HI", 42, at) + body + directory("<", at, sorted([*entries, *tags]))


def stack(text: bytes, tag: int = 270) -> bytes:
    """Return a TIFF of 3 slices in one directory."""
    value = text + b"\0"
    return tiff(noise(48, 20, 1), (tag, 2, len(value), value), slices=3)


IMAGEJ = b"ImageJ=1.54f\nimages=3\nslices=3\nunit=um\nloop=false\n"
SHAPED = b'{"shape": [3, 16, 20], "truncated": true}'
DEEP_PNG = png(noise(6, 7, 4, "uint16"), 6, 16)


def deep_avif() -> bytes:
    """Return an AVIF of 10 bits."""
    encoded = cv2.imencode(".avif", noise(16, 24, 3, "uint16") >> 6, [cv2.IMWRITE_AVIF_DEPTH, 10])
    return bytes(encoded[1])


LOSSES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a PNG called JPEG": ("a.jpg", lambda: DEEP_PNG, "it is a PNG, not a JPEG"),
    "a JPEG called PNG": ("a.png", lambda: saved("RGB", "JPEG"), "it is a JPEG, not a PNG"),
    "a WebP called TIFF": ("a.tif", lambda: saved("RGB", "WEBP"), "it is a WebP, not a TIFF"),
    "a PNM called PNG": ("a.png", lambda: saved("RGB", "PPM"), "it is a PPM, not a PNG"),
    "a GIF called BMP": ("a.bmp", lambda: saved("P", "GIF"), "it is a GIF, not a BMP"),
    "CMYK in a TIFF": ("a.tif", lambda: saved("CMYK", "TIFF"), "CMYK is converted to RGB"),
    "CMYK in a JPEG": ("a.jpg", lambda: saved("CMYK", "JPEG"), "CMYK is converted to RGB"),
    "Lab": ("a.tif", lambda: saved("LAB", "TIFF"), "LAB is converted to RGB"),
    "float64": ("a.tif", lambda: tiff(noise(6, 7, 1, "float64")), "float64 samples are rounded"),
    "uint32": ("a.tif", lambda: tiff(noise(6, 7, 1, "uint32")), "uint32 samples are rounded"),
    "10 bits in an AVIF": ("a.avif", deep_avif, "avif holds no uint16 samples"),
    "slices of ImageJ": ("a.tif", lambda: stack(IMAGEJ), "an order of its slices"),
    "slices of tifffile": ("a.tif", lambda: stack(SHAPED), "an order of its slices"),
    "slices of MetaMorph": ("a.stk.tif", lambda: stack(b"12", 33629), "an order of its slices"),
    "a damaged profile": (
        "a.png",
        lambda: png(noise(6, 7, 3), 2, 8, chunk(b"iCCP", b"x\0\0nothing")),
        "the ICC profile is damaged",
    ),
    "the profile of a BMP": ("a.bmp", lambda: _profiled_bmp(), "bmp has no ICC"),
    "a gain map in an AVIF": ("a.avif", lambda: _avif_with_map(), "gain or depth maps"),
    "a palette of 16 bits": (
        "a.tif",
        lambda: _palette_tiff(0x1234),
        "its palette of 16 bits is read as 8 bits",
    ),
}


def _profiled_bmp() -> bytes:
    """Return a BMP with a BITMAPV5HEADER and a profile behind the pixels."""
    old, profile = saved("RGB", "BMP"), wide_gamut()
    header = struct.pack("<I", 124) + old[18:54] + bytes(16) + b"DEBM" + bytes(48)
    pixels = old[54:]
    header += struct.pack("<IIII", 4, 124 + len(pixels), len(profile), 0)
    size = 14 + 124 + len(pixels) + len(profile)
    return b"BM" + struct.pack("<III", size, 0, 138) + header + pixels + profile


def _avif_with_map() -> bytes:
    """Return an AVIF with an item name like that of a gain map."""
    return saved("RGB", "AVIF").replace(b"Color\0", b"tmap\0\0", 1)


def _palette_tiff(value: int) -> bytes:
    data = bytearray(saved("P", "TIFF"))
    order, at = "<", struct.unpack_from("<I", data, 4)[0]
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        tag, _, _, position = struct.unpack_from("<HHII", data, entry)
        if tag == 320:
            struct.pack_into(order + "H", data, position, value)
    return bytes(data)


@pytest.mark.parametrize("case", LOSSES)
def test_what_the_output_could_not_hold_is_not_replaced(
    case: str, restormer: Callable[..., Outcome]
) -> None:
    """The file fails and stays as it is, and the other files are restored."""
    name, make, reason = LOSSES[case]
    if name.endswith(".avif") and "avif" not in image_io.FORMATS:
        pytest.skip("this Pillow has no AVIF")
    before = make()
    Path("f").mkdir()
    Path("f", name).write_bytes(before)
    Path("f/z.png").write_bytes(png(noise(6, 7, 3), 2, 8))
    outcome = restormer("denoise", "f", "--in-place", "--json")
    events = [event for event in outcome.events if event["event"] in ("failed", "restored")]
    assert outcome.status == 1
    assert [(e["event"], e["input"]) for e in events] == [
        ("failed", str(Path("f", name))),
        ("restored", str(Path("f/z.png"))),
    ]
    assert reason in events[0]["error"]
    assert events[0]["hint"]
    assert Path("f", name).read_bytes() == before


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA", "LA"])
def test_what_loses_no_sample_is_replaced(mode: str, restormer: Callable[..., Outcome]) -> None:
    """A palette becomes RGB, and a bilevel picture grey: all of their samples are kept."""
    Path("a.png").write_bytes(saved(mode, "PNG"))
    assert restormer("denoise", "a.png", "--in-place").status == 0


def test_a_dry_run_says_what_would_not_be_replaced(restormer: Callable[..., Outcome]) -> None:
    """The refusal is known before the restoration."""
    Path("a.jpg").write_bytes(DEEP_PNG)
    Path("b.tif").write_bytes(saved("CMYK", "TIFF"))
    outcome = restormer("denoise", "a.jpg", "b.tif", "--in-place", "--dry-run")
    assert outcome.status == 1
    assert "it is a PNG, not a JPEG" in outcome.stderr
    assert "CMYK is converted to RGB" in outcome.stderr


def test_a_loss_on_a_later_page_leaves_the_file(restormer: Callable[..., Outcome]) -> None:
    """The error names the page, and nothing is written."""
    pages = [PIL.Image.fromarray(noise(16, 24, 3)) for _ in range(2)]
    pages[1] = pages[1].convert("CMYK")
    pages[0].save("a.tif", save_all=True, append_images=pages[1:])
    before = Path("a.tif").read_bytes()
    outcome = restormer("denoise", "a.tif", "--in-place")
    assert outcome.status == 1
    assert "page 2: in place something would be lost: CMYK" in outcome.stderr
    assert Path("a.tif").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "left"), [(IMAGEJ, "ImageJ=1.54f\nunit=um\nloop=false\n\0"), (SHAPED, None)]
)
def test_slices_become_pages_elsewhere(
    text: bytes, left: str | None, restormer: Callable[..., Outcome]
) -> None:
    """All slices are restored, and no page says that it holds several."""
    data = stack(text)
    Path("a.tif").write_bytes(data)
    outcome = restormer("denoise", "a.tif", "-o", "b.tif", "--strength", 0)
    assert outcome.status == 0
    assert "an order of its slices" in outcome.stderr
    pages = read("b.tif")
    expected = np.frombuffer(data[8 : 8 + 48 * 20], np.uint8).reshape(3, 16, 20)
    np.testing.assert_array_equal([page.pixels[..., 0] for page in pages], expected)
    with PIL.Image.open("b.tif") as picture:
        assert picture.tag_v2.get(270) == (left and left.rstrip("\0"))


def test_slices_that_are_missing_are_noted(restormer: Callable[..., Outcome]) -> None:
    """A description that another program left names slices that the file does not have."""
    value = IMAGEJ + b"\0"
    Path("a.tif").write_bytes(tiff(noise(16, 20, 1), (270, 2, len(value), value)))
    outcome = restormer("denoise", "a.tif", "--in-place")
    assert outcome.status == 0
    assert "it should have 3 slices, but the file holds 1" in outcome.stderr


@pytest.mark.parametrize(
    ("image", "kind", "losses"),
    [
        (Image(noise(4, 4, 3, "uint16")), "jpeg", ["rounded to uint8"]),
        (Image(noise(4, 4, 3), noise(4, 4, 1)[..., 0]), "jpeg", ["no alpha"]),
        (Image(noise(4, 4, 3, "float32") * 9), "png", ["clipped", "rounded to uint16"]),
        (Image(noise(4, 4, 3), icc=b"x" * 200, exif=b"", xmp=b""), "bmp", ["EXIF, ICC, XMP"]),
        (Image(noise(4, 4, 3), cicp=(9, 16, 0, 1)), "jpeg", ["colour space"]),
        (Image(noise(4, 4, 1), icc=wide_gamut(b"GRAY")), "webp", ["grey ICC profile"]),
        (Image(noise(4, 4, 3), extras=((b"gAMA", bytes(4)),)), "jpeg", ["gamma"]),
        (Image(noise(4, 4, 1)), "webp", []),
        (Image(noise(4, 4, 3, "float32")), "tiff", []),
    ],
)
def test_losses_of_a_format_are_known_before_encoding(
    image: Image, kind: str, losses: list[str]
) -> None:
    """Everything that a format cannot hold is a loss; grey as RGB is only a note."""
    found = fit(image, kind).losses
    assert len(found) == len(losses)
    assert all(text in loss for text, loss in zip(losses, found, strict=True))


def test_12_bits_do_not_fit_a_heif_of_10() -> None:
    """10 bits stay what they are, and more would be rounded."""
    pytest.importorskip("pillow_heif")
    assert not fit(Image(noise(4, 4, 3, "uint16"), format="heif", bits=10), "heif").losses
    assert fit(Image(noise(4, 4, 3, "uint16"), format="heif", bits=12), "heif").losses


def test_errors_of_encoding_name_the_file(tmp_path: Path) -> None:
    """A picture that is too large for a format names the file that was to be written."""
    wide = Image(np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(image_io.ImageError, match=r"a\.webp: 16384 pixels a side"):
        image_io.write_image(wide, tmp_path / "a.webp")


def test_a_file_that_was_changed_meanwhile_is_not_replaced(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another program wrote during the restoration stays."""
    write([Image(noise(16, 24, 3))], "a.png")
    forward = Restorer.forward

    def slow(self: Restorer, *arguments: Any, **options: Any) -> Any:
        write([Image(noise(16, 24, 3, seed=1))], "a.png")
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Restorer, "forward", slow)
    outcome = restormer("denoise", "a.png", "--in-place")
    assert outcome.status == 1
    assert "it was changed during its restoration" in outcome.stderr
    np.testing.assert_array_equal(read("a.png")[0].pixels, noise(16, 24, 3, seed=1))


def test_a_link_in_place_stays_a_link(restormer: Callable[..., Outcome]) -> None:
    """The file behind a symbolic link is replaced, not the link."""
    write([Image(noise(16, 24, 3))], "real.png")
    before = Path("real.png").stat().st_ino
    Path("a.png").symlink_to("real.png")
    assert restormer("denoise", "a.png", "--in-place").status == 0
    assert Path("a.png").is_symlink()
    assert Path("real.png").stat().st_ino != before


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks")
def test_leftovers_are_removed_behind_a_link(restormer: Callable[..., Outcome]) -> None:
    """A killed run has left them in the folder of the file, not in that of the link."""
    Path("real").mkdir()
    write([Image(noise(16, 24, 3))], "real/a.png")
    Path("a.png").symlink_to("real/a.png")
    leftover = Path("real/.a.png.deadbeef.restormer-tmp")
    leftover.touch()
    assert restormer("denoise", "a.png", "--in-place").status == 0
    assert not leftover.exists()
