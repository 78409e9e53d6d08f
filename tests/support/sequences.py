"""Files of several pages or frames, and assertions about them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.image import Image
from tests.support.image_files import directory, noise, tags, wide_gamut
from tests.support.program import Outcome

DURATIONS = [Fraction(7, 100), Fraction(3, 10), Fraction(1, 2)]
"""Durations of the frames of `animation` in seconds."""


def page(shape: tuple[int, ...], dtype: str, title: str, **metadata: Any) -> Image:
    """Return a page whose only EXIF tag is its title."""
    text = title.encode() + b"\0"
    block = b"II*\0\x08\0\0\0" + directory("<", 8, [(270, 2, len(text), text)])
    samples = noise(*shape, dtype, seed=len(title))
    if dtype == "float32":
        samples = samples.clip(0, 1)
    colours = 1 if shape[2] < 3 else 3
    alpha = samples[..., colours] if shape[2] > colours else None
    return Image(samples[..., :colours], alpha, "tiff", exif=block, **metadata)


def scans() -> list[Image]:
    """Return pages of different sizes, types and metadata."""
    return [
        page((21, 34, 3), "uint8", "colour", icc=wide_gamut()),
        page((40, 17, 1), "uint16", "deep grey", xmp=b"<x:xmpmeta/>", dpi=(300.0, 150.0)),
        page((9, 50, 4), "float32", "float and alpha"),
        page((33, 8, 2), "uint8", "grey and alpha"),
    ]


def frames(alpha: bool = False) -> list[PIL.Image.Image]:
    """Return frames of a few flat colours, which fit a palette."""
    pictures = []
    for number in range(3):
        picture = PIL.Image.new("RGBA", (24, 18), (200, 30 * number, 90, 255))
        picture.paste((0, 0, 255, 0 if alpha else 255), (number * 6, 3, number * 6 + 5, 12))
        pictures.append(picture if alpha else picture.convert("RGB"))
    return pictures


def animation(kind: str, *, alpha: bool = False, loop: int | None = 2) -> bytes:
    """Encode the frames with Pillow."""
    first, *others = frames(alpha)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if loop is not None:
        options["loop"] = loop
    first.save(
        buffer,
        kind,
        save_all=True,
        append_images=others,
        duration=[int(1000 * t) for t in DURATIONS],
        **options,
    )
    return buffer.getvalue()


def write(images: list[Image], name: str) -> None:
    """Write images to a file in the format of its suffix."""
    kind, _ = image_io.output_format(Path(name), None, "")
    data, _ = image_io.encode(images, kind, count=len(images))
    image_io.write_encoded(data, Path(name))


def read(name: str) -> list[Image]:
    """Read all images of a file."""
    return list(image_io.decode(Path(name).read_bytes(), name=name).images)


def assert_same_page(actual: Image, expected: Image) -> None:
    """Compare samples and metadata, EXIF by its tags."""
    assert actual.pixels.dtype == expected.pixels.dtype
    assert np.array_equal(actual.pixels, expected.pixels)
    assert (actual.alpha is None) == (expected.alpha is None)
    if actual.alpha is not None and expected.alpha is not None:
        assert np.array_equal(actual.alpha, expected.alpha)
    assert (actual.icc, actual.xmp, actual.dpi) == (expected.icc, expected.xmp, expected.dpi)
    assert tags(actual.exif or b"") == tags(expected.exif or b"")
    assert (actual.duration, actual.plays) == (expected.duration, expected.plays)


def restored(outcome: Outcome) -> dict[str, Any]:
    """Return the `restored` event of a successful run on one file."""
    assert outcome.status == 0, outcome.stderr
    (event,) = (event for event in outcome.events if event["event"] == "restored")
    return event
