"""The progressive training loop (paper, section 4, "Progressive Learning").

Small patches in large batches first, large patches in small batches later, so that a step costs
the same throughout. L1 loss, AdamW, cosine schedule, gradient clipping, and a moving average of
the weights, which is what is validated and saved. All randomness comes from two generators that
are saved with the rest, so that a resumed run is the run that was not interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import checkpoints, images
from .degradations import DEGRADATIONS, Degradation
from .errors import CheckpointError, ImageError, UsageError
from .network import Architecture, Restormer

LITE = Architecture(dim=16, blocks=(1, 2, 2, 2), refinement=1, layer_norm="BiasFree")
"""The network that is bundled: 1.1 M parameters."""

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.999), 1e-4, 0.1
EMA_DECAY = 0.999
WARM_UP = 0.02
VALIDATION_SEED = 20211118
VALIDATION_SIDE = 192


@dataclass(frozen=True)
class Settings:
    """How long and how to train; `steps` or `hours`, whichever ends first.

    `stages` are (from which part of the run, side of a patch in pixels, patches in a batch).
    """

    steps: int | None = None
    hours: float | None = None
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    stages: tuple[tuple[float, int, int], ...] = ((0.0, 64, 16), (0.5, 96, 7), (0.8, 128, 4))
    validate_every: int = 250
    seed: int = 0
    memory: int = 2 << 30
    """Bytes that decoded photos may take; larger sets contribute a crop of each photo."""

    def __post_init__(self) -> None:
        if self.steps is None and self.hours is None:
            raise UsageError("training has no end", "Give --steps or --hours.")

    def progress(self, steps: int, seconds: float) -> float:
        """The part of the run that is over, 0..1."""
        by_steps = steps / self.steps if self.steps else 0.0
        by_time = seconds / (self.hours * 3600) if self.hours else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, progress: float) -> float:
        """The learning rate: a linear warm-up, then a cosine."""
        if progress < WARM_UP:
            return self.learning_rate * max(progress / WARM_UP, 0.01)
        cosine = 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
        return self.final_learning_rate + cosine * (self.learning_rate - self.final_learning_rate)

    def stage(self, progress: float) -> tuple[int, int]:
        """Side of a patch and patches in a batch at this point of the run."""
        return [(side, batch) for start, side, batch in self.stages if progress >= start][-1]


class Report(NamedTuple):
    """What the loop tells whoever watches, at every validation."""

    step: int
    progress: float
    loss: float
    psnr: float
    best: float
    megapixels_per_second: float


# --- photographs -------------------------------------------------------------------------------


def find_photos(folder: Path) -> list[Path]:
    """The image files below `folder`, in the order of their names.

    Raises:
        UsageError: there are fewer than two: one to train on and one to validate with.
    """
    suffixes = images.readable_suffixes()
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if len(found) < 2:
        raise UsageError(
            f"{folder} holds {len(found)} photos; training needs at least 2",
            "Give --photos a folder of clean, sharp photographs.",
        )
    return found


def load_photos(paths: Sequence[Path], memory: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Decode to H W 3 uint8, each cropped at random to its share of `memory` bytes."""
    share = memory // len(paths) // 3
    photos = []
    for path in paths:
        try:
            pixels = images.read(path).pixels
        except ImageError:
            continue  # a damaged photo is no reason to stop a training of many hours
        if pixels.dtype != np.uint8:
            pixels = images.from_float(images.to_float(pixels), np.dtype(np.uint8))
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        height, width = pixels.shape[:2]
        scale = min(1.0, math.sqrt(share / (height * width)))
        h, w = max(1, int(height * scale)), max(1, int(width * scale))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        photos.append(np.ascontiguousarray(pixels[top : top + h, left : left + w]))
    return photos


def to_tensor(patches: Sequence[np.ndarray]) -> Tensor:
    """Patches of H W 3 uint8 as one B 3 H W float32 tensor, 0..1."""
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 255


def patches(photos: list[np.ndarray], side: int, count: int, rng: np.random.Generator) -> Tensor:
    """`count` patches at random places, flipped and turned at random: B 3 side side, 0..1.

    Photos are drawn by their area, so that every pixel is as likely as any other.
    """
    usable = [p for p in photos if min(p.shape[:2]) >= side]
    if not usable:
        raise UsageError(
            f"no photo is {side} pixels high and wide", "Give larger photos or smaller patches."
        )
    area = np.array([p.shape[0] * p.shape[1] for p in usable], dtype=np.float64)
    drawn = []
    for index in rng.choice(len(usable), size=count, p=area / area.sum()):
        photo = usable[index]
        top = rng.integers(photo.shape[0] - side + 1)
        left = rng.integers(photo.shape[1] - side + 1)
        patch = np.rot90(photo[top : top + side, left : left + side], int(rng.integers(4)))
        drawn.append(patch[:, ::-1] if rng.integers(2) else patch)
    return to_tensor(drawn)


def validation_set(photos: list[np.ndarray], degrade: Degradation) -> list[tuple[Tensor, Tensor]]:
    """The middle of each held-out photo, degraded the same way at every call: (bad, clean)."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    pairs = []
    for photo in photos:
        side = min(VALIDATION_SIDE, *photo.shape[:2]) // 16 * 16
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        clean = to_tensor([photo[top : top + side, left : left + side]])
        pairs.append((degrade(clean, generator), clean))
    return pairs


# --- the loop ----------------------------------------------------------------------------------


def mean_psnr(network: Restormer, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """PSNR in dB over RGB, averaged over pairs; the output clamped, not rounded."""
    device = next(network.parameters()).device
    values = []
    with torch.inference_mode():
        for bad, clean in pairs:
            restored = network(bad.to(device)).clamp(0, 1).cpu()
            values.append(-10 * math.log10(F.mse_loss(restored, clean).item() + 1e-12))
    return sum(values) / len(values)


def train(
    task: str,
    photos: Path,
    output: Path,
    settings: Settings,
    *,
    architecture: Architecture = LITE,
    start: Path | None = None,
    device: torch.device | str = "cpu",
    degrade: Degradation | None = None,
    validation_photos: int = 24,
) -> Iterator[Report]:
    """Train a Restormer to undo what `DEGRADATIONS[task]` does, yielding at every validation.

    `output` receives the best weights so far (fp16, by PSNR on photos that are not trained on);
    beside it, `<output>.resume` holds everything that is needed to go on. Where that file is
    there, the run goes on from it.

    Args:
        task: a key of `DEGRADATIONS`.
        photos: a folder of clean photographs, searched through its subfolders.
        output: the `.safetensors` file to write.
        settings: how long and how.
        architecture: the network to train.
        start: a checkpoint to start from (fine-tuning); its architecture is used.
        device: where to train.
        degrade: in place of the task's own degradation.
        validation_photos: how many photos to hold out; at most a twentieth of them, at least one.

    Raises:
        UsageError: too few or too small photos.
        CheckpointError: `<output>.resume` belongs to another architecture.
    """
    degrade = degrade or DEGRADATIONS[task]
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator(device).manual_seed(settings.seed)
    torch.manual_seed(settings.seed)

    paths = find_photos(photos)
    held_out = paths[:: max(2, min(20, len(paths)), len(paths) // validation_photos)]
    training = load_photos([p for p in paths if p not in set(held_out)], settings.memory, rng)
    validation = validation_set(load_photos(held_out, settings.memory, rng), degrade)

    network = checkpoints.load_network(start) if start else Restormer(architecture)
    architecture = network.architecture
    network.to(device).train()
    average = Restormer(architecture).to(device).eval()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(
        network.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    step, seconds, best = 0, 0.0, -math.inf

    resume = output.with_name(output.name + ".resume")
    if resume.exists():
        saved = torch.load(resume, weights_only=True, map_location=device)
        if saved["architecture"] != architecture.as_dict():
            raise CheckpointError(
                f"{resume} was written by a run with another architecture",
                "Remove it to start anew, or give the architecture that it has.",
            )
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, seconds, best = saved["step"], saved["seconds"], saved["best"]
        generator.set_state(saved["generator"].cpu())
        rng.bit_generator.state = saved["rng"]

    started, losses, pixels = time.monotonic() - seconds, [], 0
    since = time.monotonic()
    while (progress := settings.progress(step, time.monotonic() - started)) < 1.0:
        side, batch = settings.stage(progress)
        clean = patches(training, side, batch, rng).to(device)
        loss = update(network, optimizer, degrade(clean, generator), clean, settings.rate(progress))
        follow(average, network, min(EMA_DECAY, (1 + step) / (10 + step)))
        losses.append(loss)
        pixels += clean[:, 0].numel()
        step += 1

        done = settings.progress(step, time.monotonic() - started) >= 1.0
        if step % settings.validate_every and not done:
            continue
        speed = pixels / (time.monotonic() - since) / 1e6
        psnr = mean_psnr(average, validation)
        seconds = time.monotonic() - started
        if psnr > best:
            best = psnr
            record = {
                "task": task,
                "photos": len(training),
                "held_out": len(validation),
                "steps": step,
                "hours": round(seconds / 3600, 2),
                "validation_psnr": round(psnr, 3),
                "device": str(device),
                "torch": torch.__version__,
                "settings": asdict(settings),
            }
            checkpoints.save(
                average.state_dict(), architecture, output, record=record, dtype=torch.float16
            )
        save_resume(
            resume,
            {
                "architecture": architecture.as_dict(),
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "seconds": seconds,
                "best": best,
                "generator": generator.get_state(),
                "rng": rng.bit_generator.state,
            },
        )
        mean_loss = torch.stack(losses).mean().item()
        yield Report(step, progress, mean_loss, psnr, best, speed)
        losses, pixels, since = [], 0, time.monotonic()


def update(
    network: Restormer,
    optimizer: torch.optim.Optimizer,
    degraded: Tensor,
    clean: Tensor,
    rate: float,
) -> Tensor:
    """One step of the optimizer; gives the loss, detached."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(degraded.device.type, torch.bfloat16):
        loss = F.l1_loss(network(degraded).float(), clean)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def follow(average: Restormer, network: Restormer, decay: float) -> None:
    """Move the exponential moving average of the weights a step towards them."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
