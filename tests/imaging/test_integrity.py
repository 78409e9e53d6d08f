"""Damage that decoding libraries do not report, and what is decoded with `allow_damaged`."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

from restormer_cli.errors import DamagedError, ImageError
from restormer_cli.imaging import decode
from tests.support.image_files import chunk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from restormer_cli.imaging import Array, Image
    from tests.support.program import Outcome

HEIGHT, WIDTH = 120, 144


def scene(seed: int = 0) -> PIL.Image.Image:
    """Return a smooth picture with noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    base = np.dstack([120 + 80 * np.sin(x / 17), 90 + 70 * np.cos((x + y) / 29), 140 + y / 2])
    noise = np.random.default_rng(seed).normal(0, 12, base.shape)
    return PIL.Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def encoded(kind: str, picture: PIL.Image.Image | None = None, **options: Any) -> bytes:
    """Encode a picture with Pillow."""
    buffer = io.BytesIO()
    (picture or scene()).save(buffer, kind, **options)
    return buffer.getvalue()


def cut(data: bytes) -> bytes:
    """Keep 60 % of a file."""
    return data[: len(data) * 3 // 5]


def zero_tail(data: bytes) -> bytes:
    """Replace the last 40 % of a file by zeros."""
    return cut(data).ljust(len(data), b"\0")


def zero_block(data: bytes) -> bytes:
    """Replace a tenth in the middle of a file by zeros."""
    start, size = len(data) // 2, len(data) // 10
    return data[:start] + bytes(size) + data[start + size :]


def hit(data: bytes) -> bytes:
    """Change 16 bytes in the middle of a file."""
    start = len(data) // 2
    return data[:start] + bytes(b ^ 0xA5 for b in data[start : start + 16]) + data[start + 16 :]


def read(data: bytes) -> Image:
    """Decode what there is of the first image."""
    return next(decode(data, allow_damaged=True).images)


BILEVEL = PIL.Image.fromarray(np.mgrid[:HEIGHT, :WIDTH].sum(0) // 9 % 2 == 1)
WHOLE = {
    "jpg": encoded("JPEG", quality=95),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "restarts.jpg": encoded("JPEG", restart_marker_rows=1),
    "optimized.jpg": encoded("JPEG", optimize=True),
    "cmyk.jpg": encoded("JPEG", scene().convert("CMYK")),
    "webp": encoded("WEBP"),
    "lossless.webp": encoded("WEBP", lossless=True),
    "alpha.webp": encoded("WEBP", scene().convert("RGBA")),
    "png": encoded("PNG"),
    "palette.png": encoded("PNG", scene().quantize(20)),
    "gif": encoded("GIF", scene().quantize(64), interlace=0),
    "avif": encoded("AVIF"),
    "qoi": encoded("QOI"),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "tga": encoded("TGA"),
    "g3.tif": encoded("TIFF", BILEVEL, compression="group3"),
    "g4.tif": encoded("TIFF", BILEVEL, compression="group4"),
    "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
    "deflate.tif": encoded("TIFF", compression="tiff_adobe_deflate"),
    "jpeg.tif": encoded("TIFF", compression="jpeg"),
    "packbits.tif": encoded("TIFF", compression="packbits"),
}
DAMAGES = {
    **{f"{n} cut": cut(d) for n, d in WHOLE.items() if not n.endswith("tif")},
    **{
        f"{name} with zeros at its end": zero_tail(WHOLE[name])
        for name in ("jpg", "progressive.jpg", "restarts.jpg", "webp", "lossless.webp", "png")
    },
    **{
        f"{name} with a block of zeros": zero_block(WHOLE[name])
        for name in ("jpg", "progressive.jpg", "webp", "png", "deflate.tif", "lzw.tif", "g4.tif")
    },
    **{
        f"{name} with changed bytes": hit(WHOLE[name])
        for name in ("webp", "png", "deflate.tif", "lzw.tif")
    },
    "qoi with zeros at its end": zero_tail(encoded("QOI")),
    "jpg without its end marker": WHOLE["jpg"][:-2],
    "progressive.jpg without its last scans": (
        WHOLE["progressive.jpg"][: WHOLE["progressive.jpg"].rindex(b"\xff\xda")] + b"\xff\xd9"
    ),
    "restarts.jpg with a marker left out": WHOLE["restarts.jpg"].replace(b"\xff\xd2", b"", 1),
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in DAMAGES.items()])
def test_damage_in_the_middle_fails(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged file is a DamagedError, and no library writes to stderr."""
    with pytest.raises(DamagedError):
        list(decode(data).images)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in WHOLE.items()])
@pytest.mark.parametrize("tail", [b"", b"\0" * 600, b"a video" * 99], ids=len)
def test_a_whole_file_is_not_damaged(data: bytes, tail: bytes) -> None:
    """A whole file has no damage, whatever follows its end."""
    (image,) = decode(data + tail).images
    assert image.damage is None


@pytest.mark.parametrize("shade", [0, 100, 255])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"optimize": True}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("AVIF", {}),
    ],
)
def test_a_picture_of_one_colour_is_not_damaged(
    kind: str, options: dict[str, Any], shade: int
) -> None:
    """The coded data of a blank picture, which may consist of zeros, is not taken for damage."""
    picture = PIL.Image.new("RGB", (700, 500), (shade, shade, shade))
    assert read(encoded(kind, picture, **options)).damage is None


@pytest.mark.parametrize("name", ["jpg", "webp", "lossless.webp", "png", "bmp", "ppm", "gif"])
def test_the_missing_part_is_measured(name: str) -> None:
    """The rows before the end of a cut file are decoded, and the rest is counted."""
    whole, image = read(WHOLE[name]).pixels, read(cut(WHOLE[name]))
    cause, part = image.damage or ("", 0)
    assert cause == "its end is missing"
    assert part == pytest.approx(0.45, abs=0.1)
    rows = slice(70, None) if name == "bmp" else slice(0, 40)  # a BMP begins at the bottom
    np.testing.assert_array_equal(image.pixels[rows], whole[rows])


def strips(compression: int, bodies: list[bytes]) -> bytes:
    """Return a TIFF of 10 grey rows of 20 pixels in each strip."""
    from restormer_cli.imaging.codecs.blocks.exif import build, integer_tag

    starts = np.cumsum([8, *map(len, bodies[:-1])]).tolist()
    numbers: dict[int, list[int]] = {
        256: [20],
        257: [10 * len(bodies)],
        258: [8],
        259: [compression],
        262: [1],
        273: starts,
        277: [1],
        278: [10],
        279: [len(body) for body in bodies],
    }
    return build(
        "<", {tag: integer_tag("<", 4, *n) for tag, n in numbers.items()}, b"".join(bodies)
    )


def test_whole_strips_of_a_tiff_are_decoded() -> None:
    """A strip whose checksum is wrong does not cost the other strips."""
    rows: list[Array] = [np.full((10, 20), shade, np.uint8) for shade in (50, 100, 150)]
    bodies = [zlib.compress(part.tobytes()) for part in rows]
    bodies[1] = bodies[1][:4] + bytes(len(bodies[1]) - 4)
    image = read(strips(8, bodies))
    assert image.damage is not None
    np.testing.assert_array_equal(image.pixels[:10, :, 0], rows[0])
    np.testing.assert_array_equal(image.pixels[20:, :, 0], rows[2])


def test_missing_sizes_of_strips_are_derived() -> None:
    """Strips whose sizes are zero are read up to the end of their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20), np.uint8)
    data = strips(1, [pixels.tobytes()])
    entry = np.array([279, 4], "<u2").tobytes() + np.array([1, 200], "<u4").tobytes()
    assert entry in data
    image = read(data.replace(entry, entry[:8] + bytes(4)))
    assert image.damage is None
    np.testing.assert_array_equal(image.pixels[..., 0], pixels)


def test_pixels_that_do_not_inflate_are_damage() -> None:
    """A PNG with valid checksums of its chunks, but too few pixels, is damaged."""
    rows = zlib.compress(bytes(1 + 3 * 8) * 5)
    header = (8).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    image = read(b"\x89PNG\r\n\x1a\n" + parts)
    assert str(image.damage) == "its coded data is corrupt, 38 % of the image could not be decoded"


def test_allow_damaged_restores_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restormer: Callable[..., Outcome]
) -> None:
    """The command fails for a damaged file, and with --allow-damaged it warns and restores."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(cut(WHOLE["jpg"]))
    refused = restormer("derain", "a.jpg", "-o", "b.png")
    assert refused.status == 1
    assert "a.jpg: damaged: its end is missing, " in refused.stderr
    assert "--allow-damaged" in refused.stderr
    assert not (tmp_path / "b.png").exists()
    restored = restormer("derain", "a.jpg", "-o", "b.png", "--allow-damaged")
    assert restored.status == 0
    assert "warning: a.jpg: damaged: its end is missing, " in restored.stderr
    with PIL.Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)


def test_allow_damaged_is_not_suggested_if_nothing_can_be_decoded() -> None:
    """Only the hint for an image of which a part is left names the option."""
    whole = WHOLE["webp"]
    for size, part, helps in ((len(whole) // 10, "100 %", False), (len(whole) // 2, "", True)):
        with pytest.raises(DamagedError, match=f"its end is missing, {part}") as refused:
            list(decode(whole[:size]).images)
        assert ("--allow-damaged" in refused.value.hint) == helps


THREADS = """
import os, sys, threading
from restormer_cli.imaging.integrity.messages import library_messages
with library_messages() as lines:
    os.write(2, b"from a library\\n")
    thread = threading.Thread(target=print, args=["from Python"], kwargs={"file": sys.stderr})
    thread.start()
    thread.join()
os.write(2, b"after\\n")
print(lines())
"""


def test_only_messages_of_libraries_are_collected() -> None:
    """Lines written to the descriptor are collected; those of Python in other threads are not."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['from a library']\n"
    assert done.stderr == "from Python\nafter\n"


UNSUPPORTED = {
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(40),
    "Radiance HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n",
    "SVG: not": b'\xef\xbb\xbf<?xml version="1.0"?><!-- by hand --><svg width="1"/>',
    "PSD of more than 8 bits": b"8BPS\0\1" + bytes(15) + b"\3\0\x10\0\3" + bytes(40),
    "JPEG XR": b"II\xbc\1\x20\0\0\0" + bytes(40),
    "DICOM": bytes(128) + b"DICM" + bytes(40),
    "DjVu": b"AT&TFORM\0\0\0\x28DJVU",
    "JPEG-LS": b"\xff\xd8\xff\xf7" + bytes(40),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
    "a video": b"\0\0\0\x18ftypisom" + bytes(40),
    "a web page": b"<!DOCTYPE html><title>404</title>",
    "CgBI": b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", b"\x50\0\x20\2") + bytes(40),
    "JPEG of 12 bits": WHOLE["jpg"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
    "lossless JPEG": WHOLE["jpg"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x08"),
    "TIFF compression WebP": strips(50001, [WHOLE["webp"]]),
    "photometric 4711": strips(1, [bytes(200)]).replace(
        np.array([262, 4, 1, 0, 1, 0], "<u2").tobytes(),
        np.array([262, 4, 1, 0, 4711, 0], "<u2").tobytes(),
    ),
    "TIFF compression number 4711": strips(4711, [bytes(9)]),
}


@pytest.mark.parametrize(
    ("feature", "data"), [pytest.param(*case, id=case[0]) for case in UNSUPPORTED.items()]
)
def test_what_is_not_supported_is_not_called_damaged(feature: str, data: bytes) -> None:
    """A whole file of an unsupported kind is an error that names the feature and a remedy."""
    with pytest.raises(ImageError, match="not supported") as caught:
        list(decode(data, name="a.img").images)
    assert not isinstance(caught.value, DamagedError)
    assert feature in caught.value.message
    assert caught.value.hint


def test_ten_bits_of_a_bmp_are_read() -> None:
    """A BMP with 10 bits a channel is read as 16 bits."""
    values = np.random.default_rng(0).integers(0, 1024, (4, 6, 3), np.uint32)
    pixels = (values[..., 0] << 20 | values[..., 1] << 10 | values[..., 2])[::-1].astype("<u4")
    masks = np.array([0x3FF00000, 0xFFC00, 0x3FF], "<u4").tobytes()
    sizes = np.array([40, 6, 4], "<u4").tobytes() + np.array([1, 32], "<u2").tobytes()
    rest = np.array([3, 96, 0, 0, 0, 0], "<u4").tobytes()
    start = np.array([162, 0, 66], "<u4").tobytes()
    image = read(b"BM" + start + sizes + rest + masks + pixels.tobytes())
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, np.rint(values * (65535 / 1023)))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_uncompressed_ycbcr_of_a_tiff_is_read(subsampling: tuple[int, int]) -> None:
    """Uniform YCbCr with chroma of full or half resolution becomes the same RGB."""
    from restormer_cli.imaging.codecs.blocks.exif import build, integer_tag

    across, down = subsampling
    unit = bytes([100] * (across * down) + [120, 140])
    body = unit * (-(-7 // across) * -(-5 // down))
    numbers = {256: [7], 257: [5], 258: [8] * 3, 259: [1], 262: [6], 273: [8], 277: [3]}
    numbers |= {278: [5], 279: [len(body)], 530: [across, down]}
    tags = {tag: integer_tag("<", 3, *n) for tag, n in numbers.items()}
    image = read(build("<", tags, body))
    expected = PIL.Image.new("YCbCr", (7, 5), (100, 120, 140)).convert("RGB")
    np.testing.assert_array_equal(image.pixels, np.asarray(expected))


PACKED = encoded("TIFF", compression="packbits")
JP2 = encoded("JPEG2000")


def noisy(data: bytes, at: float = 0.5, size: int = 1024) -> bytes:
    """Replace bytes in a file by noise."""
    start = int(len(data) * at)
    noise = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    return data[:start] + noise + data[start + size :]


def zeroed(data: bytes) -> bytes:
    """Replace 1 KiB in the middle of a file by zeros."""
    return data[: len(data) // 2] + bytes(1024) + data[len(data) // 2 + 1024 :]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(damage(data), id=f"{kind} {damage.__name__}")
        for kind, data in (
            ("packbits", PACKED),
            ("qoi", encoded("QOI")),
            ("jp2", JP2),
            ("j2k", encoded("JPEG2000", no_jp2=True)),
            ("tiles.jp2", encoded("JPEG2000", tile_size=(64, 64))),
        )
        for damage in (noisy, zeroed)
    ],
)
def test_coded_data_without_checksums_is_checked_by_its_structure(data: bytes) -> None:
    """Data that decodes to too many bytes, or holds markers or gaps, is damaged."""
    with pytest.raises(DamagedError):
        list(decode(data).images)
    assert read(data).damage is not None


@pytest.mark.parametrize("shade", [0, 255])
@pytest.mark.parametrize("precinct", [None, (64, 64)])
def test_a_blank_jpeg_2000_is_not_damaged(shade: int, precinct: tuple[int, int] | None) -> None:
    """Its empty packets are zeros, or short markers with SOP and EPH."""
    picture = PIL.Image.new("RGB", (900, 900), (shade, shade, shade))
    options = {"precinct_size": precinct} if precinct else {}
    assert read(encoded("JPEG2000", picture, **options)).damage is None
    assert read(JP2).damage is None


def test_errors_of_a_ycbcr_tiff_are_damage() -> None:
    """Strips of YCbCr are decoded by another function of libtiff, which goes on after errors."""
    data = encoded("TIFF", scene().convert("YCbCr"), compression="tiff_lzw")
    with pytest.raises(DamagedError):
        list(decode(noisy(data)).images)
    assert read(data).damage is None


@pytest.mark.parametrize("missing", [1, 20, 60, 100])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_cut_directory_of_a_tiff_is_damage(compression: str, missing: int) -> None:
    """A TIFF whose tags at the end are missing is damaged, and not of an unsupported kind."""
    data = encoded("TIFF", scene().quantize(8), compression=compression)
    with pytest.raises(DamagedError) as caught:
        list(decode(data[:-missing]).images)
    assert "unpack" not in caught.value.message


def test_other_damaged_tags_of_a_tiff_are_losses() -> None:
    """A description whose text lies beyond the end costs nothing else, but is a loss."""
    from restormer_cli.imaging.codecs.blocks.exif import build, integer_tag

    numbers = {256: 5, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 20}
    tags = {tag: integer_tag("<", 4, n) for tag, n in numbers.items()}
    tags[270] = integer_tag("<", 4, 4711, 4712)
    data = build("<", tags, bytes(range(20)))[:-1]
    image = read(data)
    assert image.pixels.ravel().tolist() == list(range(20))
    assert image.losses == ["1 damaged tag: left out"]


@pytest.mark.parametrize("name", ["jpg", "progressive.jpg", "png", "webp"])
def test_data_after_the_end_is_a_loss_unless_it_is_padding(name: str) -> None:
    """An archive or a few bytes behind it are a loss; equal bytes and line ends are not."""
    for rest in (b"PK\3\4" + b"archive" * 9, b"my 12-byte id", b"\0\1"):
        losses = read(WHOLE[name] + rest).losses
        assert losses == [f"{len(rest)} bytes after its end: left out"]
    for padding in (bytes(600), b"\xff" * 600, bytes(3), b"\r\n", b"\n"):
        assert read(WHOLE[name] + padding).losses == []


def test_a_cut_run_length_bmp_fails_at_once() -> None:
    """Missing data is not replaced by more bytes than a picture can need: that took minutes."""
    rows = (b"\x08\x01\x08\x02" + b"\0\0") * 16 + b"\0\1"
    sizes = np.array([40, 16, 16], "<u4").tobytes() + np.array([1, 8], "<u2").tobytes()
    rest = np.array([1, len(rows), 0, 0, 256, 0], "<u4").tobytes() + bytes(range(256)) * 4
    start = np.array([54 + 1024 + len(rows), 0, 54 + 1024], "<u4").tobytes()
    whole = b"BM" + start + sizes + rest + rows
    assert read(whole).damage is None
    before = time.process_time()
    with pytest.raises(DamagedError):
        list(decode(whole[:-50]).images)
    assert time.process_time() - before < 5


def test_an_unknown_filter_of_a_png_is_damage() -> None:
    """Rows after one with an unknown filter are missing, though all checksums are right."""
    rows = zlib.compress(bytes(25) * 4 + b"\x09" + bytes(24) + bytes(25) * 3)
    header = (8).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    image = read(b"\x89PNG\r\n\x1a\n" + parts)
    assert str(image.damage) == "its coded data is corrupt, 50 % of the image could not be decoded"
