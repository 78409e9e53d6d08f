"""Progressive training loop (Restormer, section 4, "Progressive Learning").

Training starts with small patches in large batches and ends with large patches in small batches,
at a constant cost per step. It uses the L1 loss, AdamW, a cosine schedule and gradient clipping. An
exponential moving average of the weights is validated and saved.

The batch of a step depends on the seed, the step's number and the completed fraction of the run. On
a CPU, a run limited by steps therefore gives the same weights, to the bit, if it is interrupted and
resumed. The stages of a run limited by hours depend on the clock. Ctrl-C and SIGTERM let the step
end and save the run.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from .._version import __version__
from ..callbacks import Notify
from ..checkpoints import load_network, save_network, warn_in_python
from ..degradations import Degradation
from ..errors import CheckpointError, RestormerError, UsageError
from ..inference import (
    check_training_device,
    choose_device,
    device_model,
    inherit_threads,
    native_bf16,
    synchronize,
)
from ..memory import is_out_of_memory
from ..network import CHANNELS, Architecture
from ..text import first_line
from . import dataset
from .dataset import Sample
from .distributed import SINGLE, Ranks
from .interruption import Interruption
from .optimization import batch_loss, update
from .pairs import VALIDATION_SIDE, Pair, SampleSpec, sample_spec, validation_set
from .patches import PhotoBuffer
from .state import Run, Settings, check_writable, random_network
from .validation import Validation, mean_psnr, validate

LITE = Architecture(dim=16, blocks=(1, 2, 2, 2), refinement=1, layer_norm="BiasFree")
"""Architecture of the bundled lite networks, 1.1 M parameters."""

PATIENCE = 20
"""Number of consecutive updates without a finite loss after which a run ends."""
PREFETCH = {"cuda": 2, "mps": 2}
"""Number of batches that a thread draws ahead, by device. On a CPU this would cost time."""
COMPILED = ("cuda",)
"""Devices where a compiled network may be faster. On a CPU, compiling takes minutes."""
TIMED_STEPS = 5
"""Number of passes that are timed to compare the compiled network with the other."""
_INTERRUPTED = -1.0
"""Sentinel progress with which rank 0 broadcasts an interruption."""


class Step(NamedTuple):
    """State of a run after a step.

    Attributes:
        progress: completed fraction of the run, 0..1.
        loss: mean since the last validation.
        megapixels_per_second: mean since the last validation in this session.
    """

    step: int
    progress: float
    loss: float
    megapixels_per_second: float


class Report(NamedTuple):
    """State of a run after a validation.

    Attributes:
        progress: completed fraction of the run, 0..1.
        loss, megapixels_per_second: means since the previous report.
        psnr, best: validation PSNR in dB, now and the highest of the run.
        history: loss and PSNR of every validation, by step.
        validation: all scores on the held-out photographs.
    """

    step: int
    progress: float
    loss: float
    psnr: float
    best: float
    megapixels_per_second: float
    history: dict[int, tuple[float, float]]
    validation: Validation


def train(
    task: str,
    photos: Path,
    output: Path,
    settings: Settings,
    *,
    architecture: Architecture = LITE,
    start: Path | None = None,
    device: torch.device | str = "cpu",
    degraded: Path | None = None,
    right: Path | None = None,
    degrade: Degradation | None = None,
    ranks: Ranks = SINGLE,
    compiled: bool = False,
    notify: Notify = warn_in_python,
    progress: Callable[[Step], None] = lambda _: None,
) -> Iterator[Report]:
    """Train a Restormer to undo the degradation `DEGRADATIONS[task]`.

    After each validation, the run is saved in `<output>.resume`, and the weights with the highest
    PSNR so far in `output`, as fp16. A signal that raises KeyboardInterrupt does so after the
    current step, when the run has been saved. If `<output>.resume` exists, the run is resumed, with
    the same validation set. A finished run is validated once more.

    Args:
        task: a key of `DEGRADATIONS`, or any name together with `degraded` or `degrade`.
        photos: folder of clean photographs, searched recursively.
        output: the `.safetensors` file to write; its folder is created.
        settings: length and hyperparameters of the run.
        architecture: architecture of a new network, for RGB, grey or dual-pixel images.
        start: checkpoint to fine-tune; replaces `architecture`.
        device: device to train on, or its name.
        degraded: folder with degraded versions of the photographs, under the same names.
        right: folder with the right dual-pixel views; `degraded` has the left ones.
        degrade: replaces the degradation of the task.
        ranks: the processes that train together.
        compiled: compile the network, on CUDA and where it is faster.
        notify: called with warnings, for example about photographs left out.
        progress: called after each step, in the process of rank 0.

    Yields:
        A report after each validation, in the process of rank 0.

    Raises:
        UsageError: the task is unknown, the photographs are too few or too small, the views do not
            fit the network, or `start` is `output`.
        CheckpointError: `output` cannot be written, or `<output>.resume` is damaged or belongs to
            another task or architecture.
        DeviceError: the device is unknown, not available, or computes wrong gradients.
        RestormerError: the loss was not finite in `PATIENCE` consecutive updates, or a validation
            was not.
    """
    device = choose_device(str(device))
    check_training_device(device)
    partners = [folder for folder in (degraded, right) if folder is not None]
    spec = sample_spec(task, len(partners), degrade)
    if start is not None and start.exists() and output.exists() and output.samefile(start):
        raise UsageError(f"{output}: is also the --start checkpoint", "Choose another output.")
    check_writable(output)
    resume = output.with_name(output.name + ".resume")
    if resume.exists():
        run = Run.load(resume, device)
        _check_same_run(run, resume, task, architecture if start is None else None)
    else:
        network = load_network(start) if start else random_network(architecture, settings.seed)
        run = Run.begin(task, network, device, None if start is None else start.name)
    if ranks.broadcast(run.step, device) != run.step:
        raise UsageError(
            f"{resume}: at step {run.step}, but the first process starts from another step",
            "Give all processes access to the same files.",
        )
    _check_views(run.network.architecture, degraded, right)
    if run.step and start is not None:
        notify(f"{resume}: resuming from step {run.step}; {start} is not used")
    if not output.exists():
        run.best = -math.inf  # the best weights were removed

    grey = run.network.architecture.out_channels == 1
    min_side = dataset.MULTIPLE + 2 * spec.reach
    samples = dataset.load_photos(photos, settings.memory, notify, min_side, partners, grey)
    training, held_out = dataset.hold_out(samples, run.held_out)
    if not training or not held_out:
        raise UsageError(
            f"{photos}: not the photos of {resume}",
            "Give the photos of that run, or remove the file to start a new one.",
        )
    fingerprint = dataset.fingerprint(samples)
    if run.photos not in ("", fingerprint):
        notify("the photos have changed since the last session: training uses the current ones")
        run.best = -math.inf  # not comparable: measured on other photographs or crops
    run.photos = fingerprint
    run.held_out = run.held_out or [photo.digest for photo in held_out]
    settings = settings.limit_patches(dataset.largest_side(training) - 2 * spec.reach, notify)
    del samples  # the buffer frees each photograph that it copies
    buffer = PhotoBuffer(training, device)
    trainer = Trainer(
        run,
        output,
        resume,
        settings,
        spec,
        buffer,
        held_out,
        device,
        ranks,
        compiled,
        notify,
        progress,
    )
    yield from trainer.reports()


@dataclass
class Trainer:
    """One session of a run."""

    run: Run
    output: Path
    resume: Path
    settings: Settings
    spec: SampleSpec
    training: PhotoBuffer
    held_out: list[Sample]
    device: torch.device
    ranks: Ranks
    compiled: bool
    notify: Notify
    progress: Callable[[Step], None]

    def __post_init__(self) -> None:
        run = self.run
        self.validation = validation_set(self.held_out, self.spec)
        channels = run.network.architecture.out_channels
        degraded = mean_psnr(lambda degraded: degraded[:, :channels], self.validation)
        if run.step and not math.isclose(degraded, run.degraded_psnr, abs_tol=0.01):
            if math.isfinite(run.best):
                self.notify("the degradations have changed: the best PSNR so far does not count")
            run.best = -math.inf
        run.degraded_psnr = degraded
        self.consecutive_skips = 0
        self.interruption = Interruption(alone=self.ranks.size == 1)
        self.began = time.monotonic() - run.seconds
        self.bf16 = native_bf16(self.device)
        self.forward = self.ranks.wrap(run.network)
        if self.compiled:
            self.forward = self._compile()

    def reports(self) -> Iterator[Report]:
        """Train to the end of the run, and yield a report after each validation."""
        run, progress = self.run, 0.0
        prefetch = PREFETCH.get(self.device.type, 0)
        drawing = closing(batches(self.draw, run.step, prefetch))
        with self.interruption.deferred(), drawing as drawn:
            while progress < 1.0:
                speed = self._train_until_validation(drawn)
                validation = self._validate() if self.ranks.leads else None
                # An interrupt ends the run after this report.
                progress = self.ranks.broadcast(self._progress(run.step), self.device)
                if validation is not None:
                    state = (run.step, progress, run.loss, validation.psnr, run.best)
                    yield Report(*state, speed, run.history, validation)

    def draw(self, step: int) -> Pair:
        """Return the batch of a step."""
        rng = np.random.default_rng((self.settings.seed, step, self.ranks.rank))
        side, size = self.settings.stage(self._progress(step))
        return self.spec.draw(self.training, side, size, rng)

    def _compile(self) -> nn.Module:
        """Return the compiled network if it is faster, otherwise the network as it is."""
        plain = self.forward
        if self.device.type not in COMPILED:
            self.notify(f"--compile is not used: it is for {', '.join(COMPILED)}")
            return plain
        # A graph for each stage: one for all sizes is slower.
        compiled = cast("nn.Module", torch.compile(plain, dynamic=False))
        batch = self.draw(self.run.step)
        try:
            before, after = (self._seconds(forward, batch) for forward in (plain, compiled))
        except (RuntimeError, OSError) as error:
            if is_out_of_memory(error):
                raise
            cause = first_line(error)
            self.notify(f"--compile is not used: {cause}")
            return plain
        if after >= before:
            self.notify(f"--compile is not used: {after / before:.2f} times the time of a step")
            return plain
        return compiled

    def _seconds(self, forward: nn.Module, batch: Pair) -> float:
        """Return the time of some passes over a batch, after one that is not timed."""
        started = 0.0
        for number in range(1 + TIMED_STEPS):
            if number == 1:
                synchronize(self.device)
                started = time.perf_counter()
            batch_loss(forward, *batch, bf16=self.bf16).backward()
        synchronize(self.device)
        self.run.network.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    def _progress(self, step: int) -> float:
        return self.settings.progress(step, time.monotonic() - self.began)

    def _shared_progress(self) -> float:
        """Return the completed fraction of the run on rank 0; save and end an interrupted run.

        Raises:
            KeyboardInterrupt: rank 0 was interrupted before the end. All processes end together.
        """
        progress = self._progress(self.run.step)
        if self.interruption.requested and progress < 1:
            progress = _INTERRUPTED
        progress = self.ranks.broadcast(progress, self.device)
        if progress == _INTERRUPTED:
            if self.ranks.leads:
                self.run.seconds = time.monotonic() - self.began
                self.run.save(self.resume)
                self.notify(
                    f"interrupted: saved at step {self.run.step} in {self.resume}. Repeat the "
                    "command to continue"
                )
            raise KeyboardInterrupt
        return progress

    def _train_until_validation(self, drawn: Iterator[Pair]) -> float:
        """Train until the next validation or the end, and return the megapixels per second."""
        run = self.run
        pixels, since, speed = run.pixels, time.perf_counter(), 0.0
        while (progress := self._shared_progress()) < 1.0:
            degraded, clean = next(drawn)
            rate = self.settings.rate(progress)
            loss = update(run, degraded, clean, rate, forward=self.forward, bf16=self.bf16)
            run.step += 1
            run.pixels += clean[:, 0].numel() * self.ranks.size
            run.add_loss(loss)
            self.consecutive_skips = self.consecutive_skips + 1 if math.isnan(loss) else 0
            if self.consecutive_skips == PATIENCE:
                raise self._diverged(
                    f"the loss was not finite in {PATIENCE} consecutive updates to step {run.step}"
                )
            speed = (run.pixels - pixels) / (time.perf_counter() - since) / 1e6
            if self.ranks.leads:
                done = self._progress(run.step)
                self.progress(Step(run.step, done, run.mean_loss, speed))
            if run.step % self.settings.validate_every == 0:
                break
        if skipped := run.end_losses():
            self.notify(f"step {run.step}: skipped {skipped} updates that were not finite")
        return speed

    def _validate(self) -> Validation:
        """Validate the average, save it if it is the best, and save the run."""
        run = self.run
        validation = validate(run.average, self.validation, self.device)
        if math.isnan(validation.psnr):
            raise self._diverged(f"the average of the weights is not finite at step {run.step}")
        run.seconds = time.monotonic() - self.began
        run.history[run.step] = (run.loss, validation.psnr)
        if validation.psnr > run.best:
            run.best = validation.psnr
            weights, architecture = run.average.state_dict(), run.average.architecture
            record = self._record(validation)
            save_network(weights, architecture, self.output, record=record, dtype=torch.float16)
        # Last: `best` of a saved run must be the PSNR of weights that were saved.
        run.save(self.resume)
        return validation

    def _diverged(self, cause: str) -> RestormerError:
        hint = f"Lower the learning rate. {self.output} has the best weights so far, if any."
        return RestormerError(cause, hint)

    def _record(self, validation: Validation) -> dict[str, Any]:
        """Return the provenance of the average, for the checkpoint's metadata."""
        run, side = self.run, VALIDATION_SIDE
        return {
            "task": run.task,
            "restormer": __version__,
            "started_from": run.started_from,
            "photos": len(self.training),
            "pairs": self.spec.views > 0,
            "processes": self.ranks.size,
            "photo_megapixels": round(len(self.training.pixels) / 1e6, 1),
            "held_out": len(self.held_out),
            "validation": f"PSNR, not rounded; the sharpest {side} pixels of each",
            "validation_psnr_degraded": round(run.degraded_psnr, 3),
            "device": f"{device_model(self.device)}, PyTorch {self.device.type}",
            "torch": torch.__version__,
            "settings": asdict(self.settings),
            "steps": run.step,
            "skipped_steps": run.skipped,
            "megapixels": round(run.pixels / 1e6, 1),
            "hours": round(run.seconds / 3600, 2),
            "validation_psnr": round(run.best, 3),
            "validation_all": validation.as_dict(),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }


def batches(draw: Callable[[int], Pair], first: int, prefetch: int) -> Generator[Pair, None, None]:
    """Yield the batches of step `first` and all later steps, `prefetch` of them drawn ahead."""
    if not prefetch:
        yield from map(draw, count(first))
        return
    pool = ThreadPoolExecutor(1, initializer=inherit_threads())
    try:
        pending = deque(pool.submit(draw, first + n) for n in range(prefetch))
        for step in count(first + prefetch):
            pending.append(pool.submit(draw, step))
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_same_run(run: Run, resume: Path, task: str, architecture: Architecture | None) -> None:
    if run.task != task:
        raise CheckpointError(
            f"{resume}: belongs to a run for the task {run.task}",
            "Choose another output, or remove the file.",
        )
    if architecture not in (None, run.network.architecture):
        raise CheckpointError(
            f"{resume}: belongs to a run with another architecture",
            "Give the --start of that run, or remove the file to start a new one.",
        )


def _check_views(architecture: Architecture, degraded: Path | None, right: Path | None) -> None:
    """Raise UsageError if the images do not fit the network."""
    channels = (architecture.in_channels, architecture.out_channels)
    if channels not in CHANNELS:
        raise UsageError(
            f"cannot train a network with {channels[0]} input and {channels[1]} output channels",
            "Choose one for RGB images, grey images or two RGB views.",
        )
    if right is not None and (degraded is None or not architecture.dual_pixel):
        raise UsageError(
            "--right needs left views and a dual-pixel network",
            "Give --pairs LEFT CLEAN, and --start with a checkpoint for dual-pixel images.",
        )
    if architecture.dual_pixel and right is None:
        raise UsageError(
            "a dual-pixel network needs two views", "Give --pairs LEFT CLEAN --right RIGHT."
        )
