"""Make the pictures of the README: `python docs/pictures.py PHOTO`.

PHOTO is Bridge_by_Sander_Klootwijk.jpg from Debian's lomiri-wallpapers-16.04, scaled to 1100 pixels
a side. It was held out from the first training run of the lite weights, and not from the second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from restormer_cli import Restorer, images
from restormer_cli.degradations import jpeg, to_8_bit, to_linear, to_srgb
from restormer_cli.images import Image

DOCS = Path(__file__).parent
TOP, LEFT, HEIGHT, WIDTH = 150, 330, 400, 600


def noisy_photo(clean: torch.Tensor) -> torch.Tensor:
    """A high-ISO exposure: shot and read noise in linear light, developed, and saved as JPEG."""
    generator = torch.Generator().manual_seed(2)
    light = to_linear(clean)
    noise = torch.randn(light.shape, generator=generator) * (0.012 * light + 0.0004).sqrt()
    one = torch.ones(1, 1, 1, 1)
    return jpeg(to_8_bit(to_srgb(light + noise)), 92 * one, one == 0)


def main() -> None:
    """Write the noisy sample, and the sample beside its restoration."""
    photo = images.read(Path(sys.argv[1])).pixels[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    clean = torch.from_numpy(images.to_float(photo)).permute(2, 0, 1).unsqueeze(0)
    noisy = noisy_photo(clean)[0].permute(1, 2, 0).numpy()
    sample = images.from_float(noisy, np.dtype(np.uint8))
    images.write(Image(sample, format="jpeg"), DOCS / "sample.jpg", quality=92)
    sample = images.read(DOCS / "sample.jpg").pixels

    restored = Restorer("denoise", weights="lite")(sample)
    gap = np.full((HEIGHT, 8, 3), 255, np.uint8)
    pair = np.concatenate([sample, gap, restored], axis=1)
    images.write(Image(pair, format="jpeg"), DOCS / "before-after.jpg", quality=92)


if __name__ == "__main__":
    main()
