"""Make the pictures of README and model card: `python tools/pictures.py FOLDER`.

FOLDER has the photos named below, scaled to 1100 pixels a side or 750 (the mosque: 550, the crowd:
634). All were held out from training:

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

from restormer_cli import Restorer, imaging
from restormer_cli.degradations import presets
from restormer_cli.degradations.jpeg import jpeg
from restormer_cli.degradations.sampling import to_8_bit, to_linear, to_srgb
from restormer_cli.imaging.image import Array, Image

DOCS = Path(__file__).parent
SIDE = 300
GAP = 6
SAMPLE = (slice(120, 520), slice(380, 980))
"""What `docs/sample.jpg` shows of the dragonfly."""


class Picture(NamedTuple):
    """A photo, what happens to it (see `severities`), and the corner of what is shown of it."""

    photo: str
    condition: str
    top: int
    left: int


PICTURES = {
    "denoise": Picture("dragonfly.jpg", "", 30, 200),  # of the sample
    "derain": Picture("windmill.jpg", "rain:medium", 350, 400),
    "deblur": Picture("mosque.jpg", "motion:medium", 60, 120),
    "defocus": Picture("crowd.jpg", "defocus:medium", 60, 200),
}


def noisy(clean: Array) -> Array:
    """A high-ISO exposure: shot and read noise in linear light, developed, and saved as JPEG."""
    generator = torch.Generator().manual_seed(2)
    light = to_linear(torch.from_numpy(imaging.to_float(clean)).permute(2, 0, 1).unsqueeze(0))
    noise = torch.randn(light.shape, generator=generator) * (0.012 * light + 0.0004).sqrt()
    one = torch.ones(1, 1, 1, 1)
    coded = jpeg(to_8_bit(to_srgb(light + noise)), 92 * one, one == 0)
    return imaging.from_float(coded[0].permute(1, 2, 0).numpy(), np.uint8)


def write(rows: list[list[Array]], name: str) -> None:
    """Tiles of one size, with gaps between them, as `docs/NAME`."""
    across = np.full((SIDE, GAP, 3), 255, np.uint8)
    lines = []
    for row in rows:
        line = np.concatenate([tile for each in row for tile in (across, each)][1:], axis=1)
        lines += [np.full((GAP, line.shape[1], 3), 255, np.uint8), line]
    imaging.write_image(Image(np.concatenate(lines[1:]), format="jpeg"), DOCS / name, quality=92)


def main() -> None:
    """Write the sample, the README's picture, and one of each task for the model card."""
    folder = Path(sys.argv[1])
    shown: dict[str, list[Array]] = {}  # task -> degraded, restored, clean
    for task, picture in PICTURES.items():
        clean = imaging.read_image(folder / picture.photo).pixels
        if task == "denoise":
            clean = clean[SAMPLE]
            degraded = noisy(clean)
            imaging.write_image(Image(degraded, format="jpeg"), DOCS / "sample.jpg", quality=92)
            degraded = imaging.read_image(DOCS / "sample.jpg").pixels
        else:
            condition = presets.parse_degradation(picture.condition)
            degraded = imaging.from_float(condition.apply(imaging.to_float(clean)), np.uint8)
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
