"""Make the pictures of the README and the model card.

    python tools/pictures.py PHOTOS [WEIGHTS]

PHOTOS contains two photographs under the names that they have in the training set. WEIGHTS is a
folder with the four lite networks, by default that of the bundled ones. No lite network was trained
on the photographs:

- 0026.jpg: a dragonfly, CC0, from Budgie's wallpapers (dragonfly-on-lavender in
  budgie-backgrounds), 1100 x 620
- 0300.jpg: a building, Carol M. Highsmith collection, CC BY 2.0, from OpenStax Business Law I
  Essentials, 875 x 359
- chelsea and coffee: a cat by Stefan van der Walt and a cup by Rachel Michetti, both CC0, from
  scikit-image

The picture of real noise needs the photograph `REAL` in full size, and is left as it is without it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from baselines import non_local_means
from skimage import data

from restormer_cli import Restorer
from restormer_cli.degradations import parse_degradation
from restormer_cli.degradations.jpeg import jpeg
from restormer_cli.degradations.rain import hard_rain
from restormer_cli.degradations.sampling import to_8_bit, to_linear, to_srgb
from restormer_cli.imaging import Array, Image, from_float, read_image, to_float, write_image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SIDE = 300
GAP = 6
SAMPLE = (slice(120, 520), slice(380, 980))
"""The part of the dragonfly that becomes `docs/sample.jpg`."""

TRUE_SIDE = 264
"""Side of tiles that are shown at 100 %: three of them fit into a page of GitHub unscaled."""

REAL = Path("/usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg")
"""A nuthatch by Lukas Baubkus, CC BY-SA 3.0, 6028 x 3391, of Debian's lomiri-wallpapers-20.04."""

REAL_CORNERS = ((1650, 2500), (2000, 1700))
"""Top left corners of the parts of `REAL` that are shown: plumage, and bark out of focus."""

REAL_STRENGTH = 5
"""Strength of non-local means: of 3, 5 and 8, the lowest that removes the noise from the bark."""

MARGIN = 64
"""Width in pixels of the border around a part of `REAL` that is restored with it."""


class Picture(NamedTuple):
    """A photo, its degradation, and the top left corner of the part shown."""

    photo: str
    condition: str
    top: int
    left: int


PICTURES = {
    "denoise": Picture("0026.jpg", "", 30, 200),  # corner in the sample
    "derain": Picture("0300.jpg", "rain:medium", 50, 480),
    "deblur": Picture("coffee", "motion:medium", 50, 150),
    "defocus": Picture("chelsea", "defocus:medium", 0, 80),
}
HARD_RAIN = Picture("0300.jpg", "", 80, 500)


def read(photos: Path, name: str) -> Array:
    """Read a photograph of the folder or of scikit-image."""
    samples = {"chelsea": data.chelsea, "coffee": data.coffee}
    return np.asarray(samples[name]()) if name in samples else read_image(photos / name).pixels


def noisy(clean: Array) -> Array:
    """Simulate a high-ISO exposure: shot and read noise in linear light, then JPEG."""
    generator = torch.Generator().manual_seed(2)
    light = to_linear(_batch(clean))
    noise = torch.randn(light.shape, generator=generator) * (0.012 * light + 0.0004).sqrt()
    one = torch.ones(1, 1, 1, 1)
    coded = jpeg(to_8_bit(to_srgb(light + noise)), 92 * one, one == 0)
    return _unbatch(coded)


def rainy(clean: Array) -> Array:
    """Add hard streaks as in training."""
    return _unbatch(hard_rain(_batch(clean), torch.Generator().manual_seed(1)))


def _batch(pixels: Array) -> torch.Tensor:
    return torch.from_numpy(to_float(pixels)).permute(2, 0, 1).unsqueeze(0)


def _unbatch(x: torch.Tensor) -> Array:
    return from_float(x[0].permute(1, 2, 0).numpy(), np.uint8)


def part(pixels: Array, top: int, left: int, side: int) -> Array:
    """Cut out a square."""
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def write(rows: list[list[Array]], name: str, quality: int = 92) -> None:
    """Write tiles of the same size, with gaps between them, to `docs/NAME`."""
    side = len(rows[0][0])
    gap = np.full((side, GAP, 3), 255, np.uint8)
    lines = []
    for row in rows:
        line = np.concatenate([tile for each in row for tile in (gap, each)][1:], axis=1)
        lines += [np.full((GAP, line.shape[1], 3), 255, np.uint8), line]
    write_image(Image(np.concatenate(lines[1:]), format="jpeg"), DOCS / name, quality=quality)


def write_tasks(photos: Path, restorers: dict[str, Restorer]) -> None:
    """Write the sample, the README's picture, and a picture of each task."""
    shown: dict[str, list[Array]] = {}  # task -> degraded, restored, clean
    for task, picture in PICTURES.items():
        clean = read(photos, picture.photo)
        if task == "denoise":
            clean = clean[SAMPLE]
            degraded = noisy(clean)
            write_image(Image(degraded, format="jpeg"), DOCS / "sample.jpg", quality=92)
            degraded = read_image(DOCS / "sample.jpg").pixels
        else:
            condition = parse_degradation(picture.condition)
            degraded = from_float(condition.apply(to_float(clean)), np.uint8)
        views = (degraded, restorers[task](degraded), clean)
        shown[task] = [part(view, picture.top, picture.left, SIDE) for view in views]
        write([shown[task]], f"lite-{task}.jpg")
    write([[shown[task][n] for task in PICTURES] for n in (0, 1)], "before-after.jpg")


def write_hard_rain(photos: Path, derain: Restorer) -> None:
    """Write rainy, restored and clean side by side, at 100 %."""
    clean = read(photos, HARD_RAIN.photo)
    degraded = rainy(clean)
    views = (degraded, derain(degraded), clean)
    row = [part(view, HARD_RAIN.top, HARD_RAIN.left, TRUE_SIDE) for view in views]
    write([row], "hard-rain.jpg", quality=90)


def write_real_noise(denoise: Restorer) -> None:
    """Write noisy, restored and non-local means side by side, at 100 %."""
    photo, rows = read_image(REAL).pixels, []
    for top, left in REAL_CORNERS:
        degraded = part(photo, top - MARGIN, left - MARGIN, TRUE_SIDE + 2 * MARGIN)
        classical = from_float(non_local_means(to_float(degraded), REAL_STRENGTH), np.uint8)
        views = (degraded, denoise(degraded), classical)
        rows.append([part(view, MARGIN, MARGIN, TRUE_SIDE) for view in views])
    write(rows, "real-noise.jpg", quality=90)


def main() -> None:
    """Write all pictures."""
    if len(sys.argv) not in (2, 3) or "--help" in sys.argv:
        sys.exit(__doc__)
    photos = Path(sys.argv[1])
    weights = Path(sys.argv[2]) if len(sys.argv) == 3 else ROOT / "weights"
    restorers = {
        task: Restorer(task, weights=str(weights / f"restormer-lite-{task}.safetensors"))
        for task in PICTURES
    }
    write_tasks(photos, restorers)
    write_hard_rain(photos, restorers["derain"])
    if REAL.exists():
        write_real_noise(restorers["denoise"])
    else:
        print(f"real-noise.jpg is left as it is: it needs {REAL}")  # noqa: T201


if __name__ == "__main__":
    main()
