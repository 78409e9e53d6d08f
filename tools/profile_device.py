"""Show which kernels take the time of a restoration and of a training step on a device.

    python tools/profile_device.py cuda          # from the project's root
    python tools/profile_device.py cuda --compile --batch 24 --side 128

Each table lists the operations by the time of the device, for the bundled denoiser in bf16: a whole
image with PyTorch's functions, the same with the fused block, and one update of the weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from restormer_cli.checkpoints import load_network
from restormer_cli.inference import override_fusion, restore, synchronize, uses_fused_block
from restormer_cli.training.optimization import update
from restormer_cli.training.state import Run

LITE = Path(__file__).parents[1] / "weights" / "restormer-lite-denoise.safetensors"
WARM_UP = 3


def show(title: str, run: Callable[[], object], device: torch.device, rows: int) -> None:
    """Print the operations of one call of `run` by their time, after some calls to warm up."""
    for _ in range(WARM_UP):
        run()
    synchronize(device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        run()
        synchronize(device)
    order = f"self_{'device' if on_gpu else 'cpu'}_time_total"
    sys.stdout.write(f"\n## {title}\n\n")
    sys.stdout.write(
        recorded.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=60)
        + "\n"
    )


def main() -> None:
    """Profile the ways one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("device", type=torch.device)
    parser.add_argument("--compile", action="store_true", help="compile the network that trains")
    parser.add_argument("--batch", type=int, default=24, help="patches of a training step")
    parser.add_argument("--side", type=int, default=128, help="side of a patch in pixels")
    parser.add_argument("--image", type=int, default=1024, help="side of the restored image")
    parser.add_argument("--rows", type=int, default=15)
    given = parser.parse_args()
    network = load_network(str(LITE)).to(given.device)

    image = torch.rand(1, 3, given.image, given.image)
    if uses_fused_block(network.architecture, torch.bfloat16, given.device):
        show(
            "restoration, fused block",
            lambda: restore(network, image, precision="bf16"),
            given.device,
            given.rows,
        )
    with override_fusion("off"):
        show(
            "restoration, PyTorch's functions",
            lambda: restore(network, image, precision="bf16"),
            given.device,
            given.rows,
        )

    run = Run.begin("denoise", network, given.device)
    forward = torch.compile(run.network, dynamic=False) if given.compile else None
    clean = torch.rand(given.batch, 3, given.side, given.side, device=given.device)
    degraded = clean + 0.1 * torch.randn_like(clean)
    show(
        "training step",
        lambda: update(run, degraded, clean, 1e-4, forward=forward, bf16=True),
        given.device,
        given.rows,
    )


if __name__ == "__main__":
    main()
