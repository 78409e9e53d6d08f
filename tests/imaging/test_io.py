"""Files and streams: names, permissions, atomic writes."""

from __future__ import annotations

import io
import os
import stat
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from restormer_cli.errors import ImageError
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import assert_same_image, encoded, noise, png, rewritten

NAMES = ["Fotografía café 写真.png", "[1].png", "a b*?.png", "-x.png", "x" * 251 + ".png"]


@pytest.mark.parametrize(
    ("name", "expected"), [("a.JPG", "jpeg"), ("a.tiff", "tiff"), ("a", "webp"), ("a.dib", "bmp")]
)
def test_the_suffix_names_the_format(tmp_path, name, expected):
    """The target's suffix, in either case, gives the format; without one it is the input's."""
    image_io.write_image(Image(noise(4, 4, 3), format="webp"), tmp_path / name)
    assert image_io.read_image(tmp_path / name).format == expected


def test_a_format_without_encoder_is_written_as_png(tmp_path):
    """A GIF written without a suffix becomes a PNG, with a note."""
    image = image_io.read_image(encoded(PIL.Image.fromarray(noise(4, 4, 1)[..., 0]), "GIF"))
    assert image_io.write_image(image, tmp_path / "a") == ["gif cannot be written: PNG instead"]
    assert image_io.read_image(tmp_path / "a").format == "png"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_read(kind):
    """The first image of an animation, of pages or of a stereo pair is read."""
    first, second = (PIL.Image.fromarray(noise(16, 16, 3, seed=seed)) for seed in (1, 2))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    image = image_io.read_image(data)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(image.pixels, np.asarray(reference.convert("RGB")))
    assert ("1 more picture" in " ".join(image.losses)) == (kind == "MPO")
    assert image.format == {"MPO": "jpeg"}.get(kind, kind.lower())


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_works(tmp_path, name):
    """Names outside ASCII, with brackets, or of the greatest length are written and read."""
    image = Image(noise(3, 4, 3))
    assert_same_image(image, rewritten(image, tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_outputs_have_the_users_permissions(tmp_path, umask):
    """A new file follows the umask; a replaced one keeps its mode."""
    before = os.umask(umask)
    try:
        image_io.write_image(Image(noise(3, 4, 3)), tmp_path / "a.png")
        assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~umask
        (tmp_path / "a.png").chmod(0o640)
        image_io.write_image(Image(noise(3, 4, 3)), tmp_path / "a.png")
        assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_symbolic_link_is_followed(tmp_path):
    """Writing to a symbolic link replaces the file that it points to."""
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    image_io.write_image(Image(noise(3, 4, 3)), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert image_io.read_image(tmp_path / "real.png").pixels.shape == (3, 4, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_is_not_replaced(tmp_path):
    """A target that is not a regular file is not replaced."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    image_io.write_image(Image(noise(3, 4, 3)), pipe)
    reader.join(10)
    assert image_io.read_image(received[0]).pixels.shape == (3, 4, 3)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failure):
    """When writing fails, the target is unchanged and the temporary file is removed."""
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    seen = []

    def fail(descriptor):
        seen.extend(path.name for path in tmp_path.iterdir() if path != target)
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((ImageError, KeyboardInterrupt)) as caught:
        image_io.write_image(Image(noise(3, 4, 3)), target)
    if isinstance(failure, OSError):
        assert caught.value.message == f"{target}: cannot write (No space left on device)"
    assert len(seen) == 1
    assert seen[0].startswith(".a.png.")
    assert seen[0].endswith(".restormer-tmp")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["missing/a.png", "folder.png", "file/a.png", "x" * 300 + ".png"])
def test_an_impossible_target_is_an_image_error(tmp_path, name):
    """A missing folder, a folder or a name too long is an error that names the output."""
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ImageError) as caught:
        image_io.write_image(Image(noise(3, 4, 3)), tmp_path / name)
    assert name in caught.value.message
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("a.xyz", (3, 4, 3), "cannot write the format xyz"), ("a.webp", (1, 16384, 3), "16383")],
)
def test_an_unsupported_output_is_an_image_error(tmp_path, name, shape, message):
    """An unknown suffix and an image that is too large are errors with a hint."""
    with pytest.raises(ImageError, match=message) as caught:
        image_io.write_image(Image(np.zeros(shape, "uint8")), tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize(("name", "message"), [("missing.png", "no such file"), (".", "a folder")])
def test_a_missing_file_and_a_folder_are_named(tmp_path, name, message):
    """A missing file and a folder have different messages."""
    with pytest.raises(ImageError, match=message) as caught:
        image_io.read_image(tmp_path / name)
    assert caught.value.hint


def test_an_unreadable_file_is_an_image_error(tmp_path, monkeypatch):
    """A file without read permission is an ImageError."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
        image_io.read_image(tmp_path / "a.png")


def test_the_pixel_limit_is_inclusive():
    """An image of exactly `max_pixels` is read, a larger one is not."""
    data = png(noise(10, 10, 1), 0, 8)
    assert image_io.read_image(data, max_pixels=100).pixels.shape == (10, 10, 1)
    with pytest.raises(ImageError, match="10 x 10 pixels, over the limit of 99"):
        image_io.read_image(data, max_pixels=99)


def test_streams_are_read_and_named():
    """A stream is read to its end, and has a name for errors."""
    data = png(noise(3, 4, 3), 2, 8)
    assert image_io.read_bytes(io.BytesIO(data)) == ("<input>", data)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *((kind, "RGB", {}) for kind in ("PNG", "TIFF", "BMP", "DIB", "JPEG2000", "PPM", "SGI")),
        *((kind, "RGB", {}) for kind in ("QOI", "PCX", "GIF")),
        *(("TGA", mode, {}) for mode in ("L", "P", "RGB", "RGBA")),
        *((kind, "RGB", {"quality": 100}) for kind in ("JPEG", "WEBP", "AVIF")),
    ],
)
def test_large_files_are_recognised_by_their_start(kind, mode, options):
    """A file of which only the start would be read if it were no image is read to its end."""
    side = 1100 if mode == "RGB" and kind != "GIF" else 1500
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    data = encoded(PIL.Image.fromarray(pixels).convert(mode), kind, **options)
    assert len(data) > 2**20
    assert image_io.read_bytes(io.BytesIO(data))[1] == data


@pytest.mark.parametrize(
    ("start", "cause"),
    [
        (b"hello ", "<input>: not an image, or in an unsupported format"),
        (b"\0\0\0\x20ftypisom", "<input>: a video: not supported"),
    ],
)
def test_of_a_large_file_that_is_no_image_only_the_start_is_read(start, cause):
    """The error is that of a small one, and says what the file is."""
    stream = io.BytesIO(start * 10**6)
    with pytest.raises(ImageError, match=cause):
        image_io.read_bytes(stream)
    assert stream.tell() == 2**20
