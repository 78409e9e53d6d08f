"""PSNR of colour denoising by the paper's protocol: `python docs/measure.py WEIGHTS FOLDER`.

For every image the generator is seeded with 0; the noise is neither clipped nor rounded; what the
network gives is clamped and rounded to 8 bits; PSNR is over RGB, averaged over the images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from restormer_cli import images, load_network, restore
from restormer_cli.metrics import psnr, round8

SIGMAS = (15, 25, 50)


def main() -> None:
    """Print a row for each noise level: the noisy images' PSNR and the restored ones'."""
    network = load_network(sys.argv[1])
    photos = [
        images.to_float(images.read(path).pixels)
        for path in sorted(Path(sys.argv[2]).iterdir())
        if path.suffix.lower() in images.readable_suffixes()
    ]
    print(f"{len(photos)} images   noisy  restored")  # noqa: T201
    for sigma in SIGMAS:
        rows = []
        for photo in photos:
            noise = np.random.RandomState(0).normal(0, sigma / 255, photo.shape)
            clean, noisy = (
                torch.from_numpy(a.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)
                for a in (photo, photo + noise)
            )
            rows.append((psnr(noisy, clean), psnr(round8(restore(network, noisy)), clean)))
        print(f"sigma {sigma}     {np.mean(rows, axis=0).round(2)}")  # noqa: T201


if __name__ == "__main__":
    main()
