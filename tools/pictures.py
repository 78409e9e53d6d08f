"""Make the pictures of the README and the model card.

    python tools/pictures.py FOLDER

FOLDER contains the photos below, scaled to 1100 or 750 pixels a side (mosque: 550, crowd: 634). All
were held out from training:

- dragonfly.jpg, CC0, from Budgie's wallpapers (dragonfly-on-lavender in budgie-backgrounds)
- windmill.jpg by Alvaro Araoz, Unsplash licence, unsplash.com/photos/WfU0Iy0IUzc
- mosque.jpg, "Great Mosque of Djenné" by JM on Flickr, CC BY 2.0, from OpenStax World History
- crowd.jpg by Pete Souza, public domain, from OpenStax Introduction to Intellectual Property
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from restormer_cli import Restorer
from restormer_cli.degradations import parse_degradation
from restormer_cli.degradations.jpeg import jpeg
from restormer_cli.degradations.sampling import to_8_bit, to_linear, to_srgb
from restormer_cli.imaging import Array, Image, from_float, read_image, to_float, write_image

DOCS = Path(__file__).parents[1] / "docs"
SIDE = 300
GAP = 6
SAMPLE = (slice(120, 520), slice(380, 980))
"""The part of the dragonfly that becomes `docs/sample.jpg`."""


class Picture(NamedTuple):
    """A photo, its degradation, and the top left corner of the part shown."""

    photo: str
    condition: str
    top: int
    left: int


PICTURES = {
    "denoise": Picture("dragonfly.jpg", "", 30, 200),  # corner in the sample
    "derain": Picture("windmill.jpg", "rain:medium", 350, 400),
    "deblur": Picture("mosque.jpg", "motion:medium", 60, 120),
    "defocus": Picture("crowd.jpg", "defocus:medium", 60, 200),
}


def noisy(clean: Array) -> Array:
    """Simulate a high-ISO exposure: shot and read noise in linear light, then JPEG."""
    generator = torch.Generator().manual_seed(2)
    light = to_linear(torch.from_numpy(to_float(clean)).permute(2, 0, 1).unsqueeze(0))
    noise = torch.randn(light.shape, generator=generator) * (0.012 * light + 0.0004).sqrt()
    one = torch.ones(1, 1, 1, 1)
    coded = jpeg(to_8_bit(to_srgb(light + noise)), 92 * one, one == 0)
    return from_float(coded[0].permute(1, 2, 0).numpy(), np.uint8)


def write(rows: list[list[Array]], name: str) -> None:
    """Write tiles of the same size, with gaps between them, to `docs/NAME`."""
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    lines = []
    for row in rows:
        line = np.concatenate([tile for each in row for tile in (gap, each)][1:], axis=1)
        lines += [np.full((GAP, line.shape[1], 3), 255, np.uint8), line]
    write_image(Image(np.concatenate(lines[1:]), format="jpeg"), DOCS / name, quality=92)


def main() -> None:
    """Write the sample, the README's picture, and a picture of each task for the model card."""
    if len(sys.argv) != 2 or "--help" in sys.argv:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    shown: dict[str, list[Array]] = {}  # task -> degraded, restored, clean
    for task, picture in PICTURES.items():
        clean = read_image(folder / picture.photo).pixels
        if task == "denoise":
            clean = clean[SAMPLE]
            degraded = noisy(clean)
            write_image(Image(degraded, format="jpeg"), DOCS / "sample.jpg", quality=92)
            degraded = read_image(DOCS / "sample.jpg").pixels
        else:
            condition = parse_degradation(picture.condition)
            degraded = from_float(condition.apply(to_float(clean)), np.uint8)
        restored = Restorer(task, weights="lite")(degraded)
        part = (
            slice(picture.top, picture.top + SIDE),
            slice(picture.left, picture.left + SIDE),
        )
        shown[task] = [view[part] for view in (degraded, restored, clean)]
        write([shown[task]], f"lite-{task}.jpg")
    write([[shown[task][n] for task in PICTURES] for n in (0, 1)], "before-after.jpg")


if __name__ == "__main__":
    main()
