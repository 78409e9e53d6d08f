"""The progressive training loop (paper, section 4, "Progressive Learning").

Small patches in large batches first, large patches in small batches later, so that a step costs
the same throughout. L1 loss, AdamW, cosine schedule, gradient clipping, and a moving average of
the weights, which is what is validated and saved.

What a step draws (patches and their degradation) depends on the seed, on the step's number and on
the part of the run that is over. So a run of so many steps that goes on is the run that was not
interrupted, to the bit on a CPU, whether batches are prepared ahead or not: there is no generator
whose state could be lost. A run of so many hours goes by the clock.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._version import __version__
from ..callbacks import Notify
from ..checkpoints import load_network, save_network, warn_in_python
from ..degradations import BLUR_REACH, DEGRADATIONS, SHARPEST_OF, Degradation
from ..errors import CheckpointError, RestormerError, UsageError
from ..imaging import psnr
from ..inference import device_model, native_bf16
from ..network import CHANNELS, Architecture, Restormer
from .dataset import (
    MULTIPLE,
    Pair,
    Sample,
    SampleSpec,
    augment_dihedral,
    degrading,
    fingerprint,
    hold_out,
    largest_side,
    load_photos,
    patches,
    photographed,
    sharpest,
    side_by_side,
)
from .distributed import ALONE, Ranks
from .state import Run, Settings, check_writable, fresh

__all__ = ["LITE", "Report", "Settings", "train"]

LITE = Architecture(dim=16, blocks=(1, 2, 2, 2), refinement=1, layer_norm="BiasFree")
"""The network that is bundled: 1.1 M parameters."""

CLIP = 0.1
EMA_DECAY = 0.999
PATIENCE = 20
"""So many updates in a row may be lost to a loss that is not finite."""
AHEAD = {"cuda": 2, "mps": 2}
"""Batches that a thread prepares while the device computes; a CPU has nothing to spare for it."""

VALIDATION_SEED = 20211118
VALIDATION_SIDE = 192
VALIDATION_CEILING = 50.0
"""dB: nobody sees more, and what was clean and stayed so must not outweigh all the rest."""


class Report(NamedTuple):
    """What the loop tells whoever watches, at every validation.

    `loss` is the mean since the report before, `best` the highest `psnr` (dB) of the run;
    `history` has loss and PSNR of every validation so far, by step.
    """

    step: int
    progress: float
    loss: float
    psnr: float
    best: float
    megapixels_per_second: float
    history: dict[int, tuple[float, float]]


# --- batches and validation ---------------------------------------------------------------------

Device: TypeAlias = "torch.device | str"


def batches(make: Callable[[int], Pair], first: int, ahead: int) -> Generator[Pair, None, None]:
    """`make(step)` for `first` and every step after it; `ahead` of them early, on a thread."""
    if not ahead:
        yield from map(make, count(first))
        return
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(make, first + n) for n in range(ahead))
        for step in count(first + ahead):
            waiting.append(pool.submit(make, step))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def validation_set(held_out: Sequence[Sample], lesson: SampleSpec) -> list[Pair]:
    """The sharpest part of each held-out photo, degraded the same way in every run."""
    return [
        lesson.pairing(
            sharpest(photo, VALIDATION_SIDE + 2 * lesson.reach),
            torch.Generator().manual_seed(photo.seed ^ VALIDATION_SEED),
        )
        for photo in held_out
    ]


def mean_psnr(
    restore: Callable[[Tensor], Tensor], pairs: Sequence[Pair], device: Device = "cpu"
) -> float:
    """PSNR in dB over all channels, averaged over pairs; the output clamped, not rounded."""
    with torch.inference_mode():
        values = [psnr(restore(bad.to(device)).clamp(0, 1).cpu(), clean) for bad, clean in pairs]
    return sum(min(value, VALIDATION_CEILING) for value in values) / len(values)


# --- the loop -----------------------------------------------------------------------------------


def train(
    task: str,
    photos: Path,
    output: Path,
    settings: Settings,
    *,
    architecture: Architecture = LITE,
    start: Path | None = None,
    device: Device = "cpu",
    degraded: Path | None = None,
    right: Path | None = None,
    degrade: Degradation | None = None,
    validation_photos: int = 24,
    team: Ranks = ALONE,
    notify: Notify = warn_in_python,
) -> Iterator[Report]:
    """Train a Restormer to undo what `DEGRADATIONS[task]` does, yielding at every validation.

    `output` receives the best weights so far (fp16, by PSNR on photos that are not trained on);
    beside it, `<output>.resume` holds everything that is needed to go on. Where that file is
    there, the run goes on from it, with the photos held out that were held out from its start;
    a run that is over is validated once more.

    Args:
        task: a key of `DEGRADATIONS`; with `degraded` or `degrade` any word.
        photos: a folder of clean photographs, searched through its subfolders.
        output: the `.safetensors` file to write; its folder is made.
        settings: how long and how.
        architecture: the network to train; of RGB images or grey ones, or of dual-pixel views.
        start: a checkpoint to start from (fine-tuning); its architecture is used.
        device: where to train.
        degraded: a folder with the degraded counterpart of each photo, under the same name; then
            nothing is degraded here.
        right: a folder with the right dual-pixel views, where `degraded` has the left ones.
        degrade: in place of the task's own degradation.
        validation_photos: how many photos to hold out; at most a twentieth of them, at least one.
        team: the processes that train together; all but its leader yield nothing.
        notify: told what a person should know: photos left out, smaller patches, lost updates.

    Raises:
        UsageError: an unknown task, too few or too small photos, not the views that the network
            takes, or `start` is `output`.
        CheckpointError: `output` cannot be written, or `<output>.resume` is damaged or of a run
            of another task or architecture.
        RestormerError: the loss was not finite so many times in a row that there is no hope.
    """
    device = torch.device(device)
    partners = [folder for folder in (degraded, right) if folder is not None]
    lesson = _lesson(task, len(partners), degrade)
    if start is not None and start.exists() and output.exists() and output.samefile(start):
        raise UsageError(f"{output} would replace what it starts from", "Name another output.")
    check_writable(output)
    resume = output.with_name(output.name + ".resume")
    run = _begin_or_go_on(task, architecture, start, resume, settings.seed, device)
    if team.agreed(run.step, device) != run.step:
        raise UsageError(
            f"{resume} is of step {run.step}, and that of the first process is not",
            "All processes must see the same files.",
        )
    a = run.network.architecture
    _check_views(a, degraded, right)
    if run.step and start is not None:
        notify(f"{resume}: going on from step {run.step}, and so not from {start}")
    if not output.exists():
        run.best = -math.inf  # the best is gone: keep what is best from here on

    least = MULTIPLE + 2 * lesson.reach
    pack = load_photos(photos, settings.memory, notify, least, partners, grey=a.out_channels == 1)
    training, held_out = hold_out(pack, validation_photos, run.held_out)
    if not training or not held_out:
        raise UsageError(f"{photos}: not the photos of {resume}", "Remove that to start anew.")
    if run.photos not in ("", fingerprint(pack)):
        notify("the photos have changed since the run was interrupted: it goes on with these")
        run.best = -math.inf  # which was perhaps of other photos, or of other parts of them
    run.photos = fingerprint(pack)
    run.held_out = run.held_out or [photo.digest for photo in held_out]
    settings = settings.within(largest_side(training) - 2 * lesson.reach, notify)
    validation = validation_set(held_out, lesson)
    record = {
        "task": task,
        "restormer": __version__,
        "started_from": run.started_from,
        "photos": len(training),
        "pairs": degraded is not None,
        "processes": team.size,
        "photo_megapixels": round(sum(p.pixels[..., 0].size for p in training) / 1e6, 1),
        "held_out": len(held_out),
        "validation": f"PSNR, not rounded; the sharpest {VALIDATION_SIDE} pixels of each",
        "validation_psnr_degraded": round(
            mean_psnr(lambda bad: bad[:, : a.out_channels], validation), 3
        ),
        "device": f"{device_model(device)}, PyTorch {device.type}",
        "torch": torch.__version__,
        "settings": asdict(settings),
    }

    generator = torch.Generator(device)
    orient = side_by_side if a.dual_pixel else augment_dihedral
    bf16 = native_bf16(device)
    began = time.monotonic() - run.seconds

    def progress(step: int) -> float:
        return settings.progress(step, time.monotonic() - began)

    def draw(step: int) -> Pair:
        rng = np.random.default_rng((settings.seed, step, team.rank))
        side, size = settings.stage(progress(step))
        side += 2 * lesson.reach
        drawn = patches(training, side, size, rng, device, orient, lesson.among)
        return lesson.pairing(drawn, generator.manual_seed(int(rng.integers(2**63))))

    forward = team.shared(run.network)
    recent: deque[float] = deque(maxlen=PATIENCE)
    over = 0.0
    with closing(batches(draw, run.step, AHEAD.get(device.type, 0))) as drawn:
        while over < 1.0:
            losses, pixels, since = [], run.pixels, time.perf_counter()
            while (over := team.agreed(progress(run.step), device)) < 1.0:
                bad, clean = next(drawn)
                loss = update(run, bad, clean, settings.rate(over), forward=forward, bf16=bf16)
                run.step += 1
                run.pixels += clean[:, 0].numel() * team.size
                losses.append(loss)
                recent.append(loss)
                if len(recent) == PATIENCE and all(map(math.isnan, recent)):
                    raise RestormerError(
                        f"the loss is not finite, {PATIENCE} times in a row up to step {run.step}",
                        f"Try a lower learning rate. {output} has the best weights, if any.",
                    )
                if run.step % settings.validate_every == 0:
                    break
            speed = (run.pixels - pixels) / (time.perf_counter() - since) / 1e6
            finite = [loss for loss in losses if not math.isnan(loss)]
            if lost := len(losses) - len(finite):
                run.skipped += lost
                notify(f"step {run.step}: {lost} updates were not finite: left out")
            run.loss = sum(finite) / len(finite) if finite else run.loss
            if team.leads:
                psnr = mean_psnr(run.average, validation, device)
                run.seconds = time.monotonic() - began
                run.history[run.step] = (run.loss, psnr)
                if psnr > run.best:
                    run.best = psnr
                    _save_average(run, output, record)
                # After the weights: a run that goes on must not think that it has saved them.
                run.save(resume)
            over = team.agreed(progress(run.step), device)
            if team.leads:
                yield Report(run.step, over, run.loss, psnr, run.best, speed, run.history)


def update(
    run: Run,
    degraded: Tensor,
    clean: Tensor,
    rate: float,
    *,
    forward: nn.Module | None = None,
    bf16: bool = False,
) -> float:
    """One step of the optimizer, which the average follows.

    `forward` is the network as it is called, if something stands around it. Gives the loss, or NaN
    if it or its gradient is not finite; then nothing has changed.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(degraded.device.type, torch.bfloat16, enabled=bf16):
        loss = F.l1_loss((forward or run.network)(degraded).float(), clean)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), CLIP)
    if not torch.isfinite(loss + norm):
        return math.nan
    run.optimizer.step()
    follow(run.average, run.network, min(EMA_DECAY, (1 + run.step) / (10 + run.step)))
    return loss.item()


@torch.no_grad()
def follow(average: Restormer, network: Restormer, decay: float) -> None:
    """Move the exponential moving average of the weights a step towards them."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def _begin_or_go_on(
    task: str,
    architecture: Architecture,
    start: Path | None,
    resume: Path,
    seed: int,
    device: torch.device,
) -> Run:
    """The run that `resume` holds, or a new one."""
    if not resume.exists():
        network = fresh(architecture, seed) if start is None else load_network(start)
        return Run.begin(task, network, device, None if start is None else start.name)
    run = Run.load(resume, device)
    if run.task != task:
        raise CheckpointError(
            f"{resume} is of a run that learns to {run.task}", "Name another output, or remove it."
        )
    if start is None and run.network.architecture != architecture:
        raise CheckpointError(
            f"{resume} was written by a run with another architecture",
            "Give the --start that it began with, or remove it to start anew.",
        )
    return run


def _lesson(task: str, views: int, degrade: Degradation | None) -> SampleSpec:
    """What is learned: from degraded `views` of each photo, or to undo what is done to it here."""
    if views:
        return SampleSpec(photographed(views))
    if degrade is not None:
        return SampleSpec(degrading(degrade))
    if task not in DEGRADATIONS:
        known = ", ".join(DEGRADATIONS)
        raise UsageError(f"{task} cannot be trained", f"Tasks that can: {known}.")
    reach = BLUR_REACH.get(task, 0)
    return SampleSpec(degrading(DEGRADATIONS[task], reach), reach, SHARPEST_OF)


def _save_average(run: Run, output: Path, record: dict[str, Any]) -> None:
    """Write the averaged weights, and how they came to be."""
    progress = {
        "steps": run.step,
        "skipped_steps": run.skipped,
        "megapixels": round(run.pixels / 1e6, 1),
        "hours": round(run.seconds / 3600, 2),
        "validation_psnr": round(run.best, 3),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    average = run.average
    save_network(
        average.state_dict(),
        average.architecture,
        output,
        record=record | progress,
        dtype=torch.float16,
    )


def _check_views(a: Architecture, degraded: Path | None, right: Path | None) -> None:
    """Raise UsageError where there is not what a network of this architecture takes."""
    channels = (a.in_channels, a.out_channels)
    if channels not in CHANNELS:
        raise UsageError(
            f"a network from {channels[0]} channels to {channels[1]} was asked for",
            "It can be one of RGB images or grey ones, or of two RGB views.",
        )
    if right is not None and (degraded is None or not a.dual_pixel):
        raise UsageError(
            "--right was given, but not left views and a network that takes both",
            "Give --pairs LEFT CLEAN, and --start with a checkpoint for dual-pixel images.",
        )
    if a.dual_pixel and right is None:
        raise UsageError(
            "a dual-pixel network learns from two views", "Give --pairs LEFT CLEAN --right RIGHT."
        )
