"""What sizes of lite networks make of the same work, for the model card.

    python tools/candidates.py PHOTOS CLEAN MINUTES [NAME ...]

Each learns to denoise from nothing, on one thread, for as many steps as take it so many minutes of
the processor (less what it takes to draw and degrade batches, the same for all). Then the clean
images are given Gaussian noise and restored. PSNR over RGB, in dB; seconds for a megapixel by the
engine, fp32, on one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from restormer_cli import imaging, load_network, restore
from restormer_cli.evaluation.runner import with_noise
from restormer_cli.imaging.metrics import psnr, round8
from restormer_cli.inference import devices
from restormer_cli.network.restormer import Architecture
from restormer_cli.network.summary import summarize
from restormer_cli.training import loop
from restormer_cli.training.state import Run, fresh

SIDE, BATCH = 64, 16
SIGMA = 25


def _bias_free(dim: int, blocks: tuple[int, int, int, int], refinement: int) -> Architecture:
    return Architecture(dim=dim, blocks=blocks, refinement=refinement, layer_norm="BiasFree")


CANDIDATES = {
    "12, 1 2 2 2, 1": _bias_free(12, (1, 2, 2, 2), 1),
    "16, 1 2 2 2, 1": loop.LITE,
    "16, 2 3 3 4, 2": _bias_free(16, (2, 3, 3, 4), 2),
    "24, 1 1 2 2, 1": _bias_free(24, (1, 1, 2, 2), 1),
}
"""By width, blocks of each level and of the refinement."""


def seconds_per_step(architecture: Architecture) -> float:
    """Of the processor, for a batch; the best of four, after one to warm up."""
    device = torch.device("cpu")
    run, bf16 = Run.begin("denoise", fresh(architecture, 0), device), devices.native_bf16(device)
    clean = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(5):
        began = time.process_time()
        loop.update(run, clean, clean, 1e-4, bf16=bf16)
        times.append(time.process_time() - began)
    return min(times[1:])


def main() -> None:
    """Print a line for each candidate."""
    photos, clean, minutes, *names = sys.argv[1:]
    torch.set_num_threads(1)
    degrade = with_noise(SIGMA).degrade
    assert degrade is not None  # noqa: S101 - it degrades
    pairs = []
    for path in sorted(Path(clean).iterdir()):
        image = imaging.to_float(imaging.read_image(path).pixels)
        pairs.append([torch.from_numpy(x).permute(2, 0, 1)[None] for x in (degrade(image), image)])
    for name in names or CANDIDATES:
        architecture = CANDIDATES[name]
        steps = round(float(minutes) * 60 / seconds_per_step(architecture))
        settings = loop.Settings(steps=steps, stages=((0.0, SIDE, BATCH),), validate_every=steps)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "candidate.safetensors"
            for _ in loop.train(
                "denoise", Path(photos), output, settings, architecture=architecture
            ):
                network = load_network(output)
        scores = [
            psnr(round8(restore(network, x.contiguous(), precision="fp32")), y) for x, y in pairs
        ]
        began = time.process_time()
        restore(network, torch.rand(1, 3, 1024, 1024), precision="fp32")
        seconds = time.process_time() - began
        size = sum(p.numel() for p in network.parameters())
        work = summarize(architecture, 1000, 1000).multiply_adds
        print(  # noqa: T201
            f"| {name} | {size:,} | {work / 1e9:.0f} | {steps:,} | {seconds / 1.048576:.2f} | "
            f"{np.mean(scores):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
