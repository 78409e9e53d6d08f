"""Compare architectures for the lite networks, for the model card.

    python tools/candidates.py PHOTOS CLEAN MINUTES [NAME ...]

Each network learns to denoise the folder PHOTOS from random weights, on one thread. The number of
steps is such that forward and backward passes take MINUTES of processor time. Drawing batches comes
on top and is the same for all. Each row shows the parameters, the multiply-adds for a megapixel,
the steps, the seconds for a megapixel (engine, fp32, one thread), and the PSNR on the images in
CLEAN with Gaussian noise (RGB, in dB).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from restormer_cli import load_network, restore
from restormer_cli.evaluation import with_noise
from restormer_cli.imaging import PROTOCOLS, psnr, read_image, to_float
from restormer_cli.inference import native_bf16
from restormer_cli.network import Architecture, summarize
from restormer_cli.training import LITE, Settings, train
from restormer_cli.training.optimization import update
from restormer_cli.training.state import Run, random_network

SIDE, BATCH = 64, 16
SIGMA = 25


def _bias_free(dim: int, blocks: tuple[int, int, int, int], refinement: int) -> Architecture:
    return Architecture(dim=dim, blocks=blocks, refinement=refinement, layer_norm="BiasFree")


CANDIDATES = {
    "12, 1 2 2 2, 1": _bias_free(12, (1, 2, 2, 2), 1),
    "16, 1 2 2 2, 1": LITE,
    "16, 2 3 3 4, 2": _bias_free(16, (2, 3, 3, 4), 2),
    "24, 1 1 2 2, 1": _bias_free(24, (1, 1, 2, 2), 1),
}
"""Architectures by width, blocks per level, and refinement blocks."""


def seconds_per_step(architecture: Architecture) -> float:
    """Return the processor time of an update, the best of four after a warm-up."""
    device = torch.device("cpu")
    run, bf16 = Run.begin("denoise", random_network(architecture, 0), device), native_bf16(device)
    clean = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(5):
        started = time.process_time()
        update(run, clean, clean, 1e-4, bf16=bf16)
        times.append(time.process_time() - started)
    return min(times[1:])


def main() -> None:
    """Print a table row for each candidate."""
    if len(sys.argv) < 4 or "--help" in sys.argv:
        sys.exit(__doc__)
    photos, clean, minutes, *names = sys.argv[1:]
    torch.set_num_threads(1)
    degrade = with_noise(SIGMA).degrade
    assert degrade is not None  # noqa: S101 - with_noise degrades
    pairs = []
    for path in sorted(Path(clean).iterdir()):
        image = to_float(read_image(path).pixels)
        pairs.append([torch.from_numpy(x).permute(2, 0, 1)[None] for x in (degrade(image), image)])
    to_8_bit = PROTOCOLS["denoise"].view
    for name in names or CANDIDATES:
        architecture = CANDIDATES[name]
        steps = round(float(minutes) * 60 / seconds_per_step(architecture))
        settings = Settings(steps=steps, stages=((0.0, SIDE, BATCH),), validate_every=steps)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "candidate.safetensors"
            for _ in train("denoise", Path(photos), output, settings, architecture=architecture):
                network = load_network(output)
        scores = [
            psnr(to_8_bit(restore(network, x.contiguous(), precision="fp32")), y) for x, y in pairs
        ]
        started = time.process_time()
        restore(network, torch.rand(1, 3, 1024, 1024), precision="fp32")
        seconds = time.process_time() - started
        size = sum(p.numel() for p in network.parameters())
        work = summarize(architecture, 1000, 1000).multiply_adds
        print(  # noqa: T201
            f"| {name} | {size:,} | {work / 1e9:.0f} | {steps:,} | {seconds / 1.048576:.2f} | "
            f"{np.mean(scores):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
