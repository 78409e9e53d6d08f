"""Restore arrays with the network of a task."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..callbacks import Notify, Progress
from ..checkpoints import TASKS, load_network, resolve_checkpoint, task_warning, warn_in_python
from ..errors import CheckpointError, DeviceError, ImageError, UsageError
from ..imaging import Image, add_margin, find_scale, prepare, remove_margin
from ..memory import MemoryGuard, is_out_of_memory, release
from ..network import CHANNELS, MULTIPLE
from . import devices, engine, ensemble, transfer
from .arrays import NOT_FINITE, check_array, right_view, split_alpha
from .blocking import blocking_for, joined, smaller_blocks
from .config import RestorerConfig
from .fusion.dispatch import check_requirement, fusion_obstacle

HOST = torch.device("cpu")

USABLE_MEMORY = 0.9
"""Fraction of the free memory that a plan may use."""

# The zero padding of convolutions shifts colours at the borders of an image: in flat images by up
# to 37 of 255 with the lite networks, and by less than 2 with a margin of 8 pixels. Other networks
# get the image alone, as in their published evaluation.
_MARGINS = {"lite": 8}

MIN_PSNR = 50.0
"""PSNR in dB to fp32 that "auto" requires of a lower precision, and to a CPU that MPS needs."""


@dataclass(frozen=True)
class Plan:
    """A way to restore an image of some size, and its costs."""

    tile: int  # side in pixels; 0 for the whole image
    fine: bool  # use smaller strips and blocks
    peak_bytes: int  # on the device, without the network
    pixels: int  # number that the network processes, with overlaps and orientations
    orientations: int  # number of flips and rotations to average over
    precision: str  # of the network; fp32 after an overflow

    @property
    def strategy(self) -> str:
        """Description for people."""
        whole = "whole, in fine strips" if self.fine else "whole"
        strategy = f"tiles of {self.tile}" if self.tile else whole
        return strategy if self.orientations == 1 else f"{strategy}, mean of {self.orientations}"


class Forecast(NamedTuple):
    """Estimated cost of restoring an image; `peak_bytes` is the memory of the process or GPU."""

    strategy: str
    peak_bytes: int
    seconds: float


@dataclass
class Restoration:
    """Restored image in the shape and type of the input, and the way it was restored."""

    pixels: np.ndarray
    strategy: str
    precision: str
    seconds: float
    notes: list[str] = field(default_factory=list)


class Restorer:
    """Restore images of one task with one network on one device.

    Args:
        task: name of a task ("denoise", "derain", "deblur", "defocus"), or a configuration.
        notify: called with a message if the weights or the precision differ from the request, or
            the weights are for another task; by default, it is a Python warning.
        **options: fields of `RestorerConfig`; they replace those of a configuration.

    Attributes:
        weights: the checkpoint.
        warnings: reasons to check every result.

    Raises:
        UsageError: an option is invalid, or options do not go together.
        CheckpointError: the weights are not available or do not fit the task.
        DeviceError: the device is not available.
    """

    def __init__(
        self,
        task: str | RestorerConfig = "denoise",
        *,
        notify: Notify | None = None,
        **options: Any,
    ) -> None:
        if isinstance(task, RestorerConfig):
            config = replace(task, **options)
        else:
            config = RestorerConfig(task, **options)
        self.config = config
        self.task = TASKS[config.task]
        self.notify = notify or warn_in_python
        self.device = devices.choose_device(config.device)
        self.precision = devices.choose_precision(config.precision, self.device)
        self._copy = transfer.copy_for(self.device)
        self._precision_is_verified = config.precision != "auto" or self.precision == "fp32"
        weights = config.weights
        if isinstance(weights, str):
            weights = resolve_checkpoint(weights, config.checkpoint, self.task, notify=self.notify)
        self.weights = weights
        other_task = task_warning(weights.name, weights.task, config.task)
        self.warnings = [other_task] if other_task else []
        guard = MemoryGuard(f"on {self.device} for {self.weights.name}", kind=DeviceError)
        with guard, devices.device_errors(self.device):
            self.network = load_network(self.weights).to(self.device)
        a = self.architecture = self.network.architecture
        if (a.in_channels, a.out_channels) not in CHANNELS:
            raise CheckpointError(
                f"{self.weights.name} restores {a.in_channels} channels to {a.out_channels}",
                "Use a network for grey images, for RGB images, or for two RGB views.",
            )
        dtype = devices.PRECISIONS[self.precision]
        check_requirement(a, dtype, self.device, config.window)
        if config.dual_pixel != (a.in_channels == 6):
            inputs = "two views (6 channels)" if a.in_channels == 6 else f"{a.in_channels} channels"
            raise UsageError(
                f"{self.weights.name} takes {inputs}",
                "Use --right with dual-pixel weights, and only with them.",
            )
        with guard, devices.device_errors(self.device):
            self._verify_device()
        for warning in self.warnings:
            self.notify(warning)

    def __call__(self, image: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
        """Return the pixels of `restore`."""
        return self.restore(image, right).pixels

    def restore(
        self,
        image: np.ndarray,
        right: np.ndarray | None = None,
        *,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore one image.

        RGB networks restore grey images as three equal channels and return their mean. Grey
        networks restore RGB images channel by channel. The alpha channel is returned unchanged.
        Float arrays with values outside 0..1 are restored on their own scale, such as 0..255, as
        files are (see `imaging.scale`), and the result is on the same scale. A note names it.

        Args:
            image: H W, or H W C with C 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha);
                uint8, uint16, or float32, whose black and white are 0 and 1 if no value lies
                outside; alpha on the same scale or in 0..1.
            right: the right view for dual-pixel networks, in the shape and type of `image`.
            progress: called with the number of finished strips or tiles and their total.

        Raises:
            ImageError: the shape or type is not supported, values are not finite, memory does not
                suffice, or the network's output is not finite.
            UsageError: the network takes two views and `right` is missing, or the reverse.
        """
        started = time.perf_counter()
        colours, alpha = split_alpha(image)
        if right is not None:
            check_array(right, "the right view: ")
        notes: list[str] = []

        with self._memory_guard(image):
            # A view only if needed: a copy of a large photo takes as much memory as a feature map.
            view = None
            if colours.dtype == np.float32:
                low, high = colours.min(), colours.max()  # NaN if there is any
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise ImageError(*NOT_FINITE)
                if low < 0 or high > 1:
                    picture = Image(colours, scale=find_scale(colours))
                    views = None if right is None else np.atleast_3d(right)[..., : colours.shape[2]]
                    view = prepare(picture, views)
                    colours, right = view.network_input, view.right
                    notes += view.notes
            restored, plan = self._restore(
                colours, right, colours.dtype, self.margin, progress, notes.append
            )
            if view is not None:
                restored = view.encode(view.merge(restored))
            samples = restored
            if alpha.size or np.may_share_memory(restored, image):
                samples = np.concatenate([restored, alpha], axis=2)
            pixels = samples.reshape(image.shape).astype(image.dtype, order="C", copy=False)
        seconds = time.perf_counter() - started
        return Restoration(pixels, plan.strategy, plan.precision, seconds, notes)

    def forward(
        self,
        colours: np.ndarray,
        right: np.ndarray | None = None,
        *,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore the colours of one image without adding a margin.

        `colours` are H W C, C 1 (grey) or 3 (RGB), finite float32. Values outside 0..1 are passed
        to the network, since the published protocols do not clip noise. The result is in 0..1. A
        note names each retry. Other arguments and the errors are those of `restore`.
        """
        started, notes = time.perf_counter(), list[str]()
        dtype = np.dtype(np.float32)
        pixels, plan = self._restore(colours, right, dtype, 0, progress, notes.append)
        seconds = time.perf_counter() - started
        return Restoration(pixels, plan.strategy, plan.precision, seconds, notes)

    def _restore(
        self,
        colours: np.ndarray,
        right: np.ndarray | None,
        dtype: np.dtype,
        margin: int,
        progress: Progress | None,
        notify: Notify,
    ) -> tuple[np.ndarray, Plan]:
        """Restore colours of any type of images; on out-of-memory, retry with smaller blocks.

        Args:
            colours: H W C, C 1 or 3.
            right: the right view.
            dtype: type of the result.
            margin: pixels to add at each side for the network.
            progress: that of `restore`.
            notify: called with a message for each retry.

        Returns:
            H W C of `dtype`, and the plan that was followed.
        """
        with self._memory_guard(colours), devices.device_errors(self.device):
            views = [add_margin(view, margin) for view in self._views(colours, right)]
            height, width = views[0].shape[:2]
            if not self._precision_is_verified:  # plans depend on the precision
                middle = engine.probe_region(height, width)
                self._verify_precision(self._input([view[middle] for view in views], HOST))
            plans = self._plans(height, width)
            if self.config.tiles[0] == 0 and plans[0].tile:
                notify(f"the whole image does not fit into memory: using {plans[0].strategy}")
            restored, plan = self._follow(plans, views, dtype, progress, notify)
            return remove_margin(restored, margin), plan

    def _memory_guard(self, image: np.ndarray) -> MemoryGuard:
        height, width = image.shape[:2]
        return MemoryGuard(
            f"on {self.device} for {width} x {height} pixels",
            "Use smaller tiles (--tile 256), or free some memory.",
        )

    def _follow(
        self,
        plans: list[Plan],
        views: list[np.ndarray],
        dtype: np.dtype,
        progress: Progress | None,
        notify: Notify,
    ) -> tuple[np.ndarray, Plan]:
        """Follow the first plan for which there is enough memory."""
        while True:
            plan = plans.pop(0)
            try:
                return self._run(views, plan, dtype, progress, notify)
            except (MemoryError, RuntimeError) as error:
                if not plans or not is_out_of_memory(error):
                    raise
                release(error)  # the maps of this attempt, before the next one
                notify(f"out of memory: retrying with {plans[0].strategy}")

    def _views(self, colours: np.ndarray, right: np.ndarray | None) -> list[np.ndarray]:
        """Return the views, H W C, that the network takes; float samples of the right in 0..1."""
        if (right is not None) != (self.architecture.in_channels == 6):
            raise UsageError(
                "the network takes two views, and the right one is missing"
                if right is None
                else "the network takes one view, but a right view was given"
            )
        if right is None:
            return [colours]
        return [colours, right_view(right, colours)]

    def _input(self, views: list[np.ndarray], device: torch.device) -> Tensor:
        """Return B C H W for the network: one image, or one for each channel if it is grey."""
        return transfer.network_input(views, self.architecture.in_channels, device, self._copy)

    def _verify_device(self) -> None:
        """Run the network on a GPU once, for an early error if this fails.

        MPS is compared with the CPU, because several releases had wrong kernels.

        Raises:
            DeviceError: MPS computes wrong results.
        """
        if self.device.type == "cuda":
            image = torch.zeros(1, self.architecture.in_channels, MULTIPLE, MULTIPLE)
            engine.restore(self.network, image, precision=self.precision)
        if self.device.type != "mps":
            return
        difference = engine.psnr_to_cpu(self.network)
        if not difference >= MIN_PSNR:  # also if it is NaN
            raise DeviceError(
                f"PyTorch {torch.__version__} computes wrong results on {self.device} "
                f"({difference:.1f} dB PSNR to the processor)",
                "Update PyTorch and macOS, or use --device cpu.",
            )

    def _verify_precision(self, x: Tensor) -> None:
        if (psnr := engine.psnr_to_fp32(self.network, x, self.precision)) < MIN_PSNR:
            self.notify(
                f"{self.precision} has a PSNR of {psnr:.1f} dB to fp32 with these weights, less "
                f"than {MIN_PSNR:.0f}: using fp32 instead"
            )
            self.precision = "fp32"
        self._precision_is_verified = True

    def _plans(self, height: int, width: int) -> list[Plan]:
        """Return the plans to try in turn: those that fit into memory, or the smallest one."""
        plans = []
        a, dtype = self.architecture, devices.PRECISIONS[self.precision]
        for tile in self.config.tiles:
            rows, columns = (min(tile or side, side) for side in (height, width))
            if not engine.is_representable(self.network, (rows, columns), dtype):
                continue
            peak = engine.peak_bytes(self.network, (height, width), tile, dtype)
            if self.config.ensemble:  # a turned image and two results
                peak += 4 * (a.in_channels + 2 * a.out_channels) * rows * columns
            pixels = engine.pixels_processed(height, width, tile, self.config.overlap)
            turns = self.orientations
            plan = Plan(tile, False, peak, pixels * turns, turns, self.precision)
            plans += [plan] if tile else [plan, replace(plan, fine=True)]
        if not plans:
            raise ImageError(
                f"{width} x {height} pixels need a larger tensor than {self.device} supports",
                "Use tiles (--tile 1024), or the processor (--device cpu).",
            )
        usable = USABLE_MEMORY / self.config.sharing * devices.free_memory(self.device)
        return [plan for plan in plans if plan.peak_bytes <= usable] or plans[-1:]

    def _run(
        self,
        views: list[np.ndarray],
        plan: Plan,
        dtype: np.dtype,
        progress: Progress | None,
        notify: Notify,
    ) -> tuple[np.ndarray, Plan]:
        """Restore the views, or their channels one after the other if the network is grey.

        With tiles, the image stays in host memory: it may be too large for the device.

        Returns:
            H W C of `dtype`, and the plan, in fp32 if any image overflowed.
        """
        device = HOST if plan.tile else next(self.network.parameters()).device
        x = self._input(views, device)
        blocking = blocking_for(self.device, devices.PRECISIONS[plan.precision])
        overflows: list[str] = []
        restored = [
            engine.restore(
                self.network,
                image,
                tile=plan.tile,
                overlap=self.config.overlap,
                precision=plan.precision,
                window=self.config.window,
                ensemble=self.config.ensemble,
                blocking=smaller_blocks(blocking) if plan.fine else blocking,
                progress=ensemble.part_progress(progress, number, len(x)),
                notify=overflows.append,
            )
            for number, image in enumerate(x.split(1))
        ]
        for message in overflows:
            notify(message)
        plan = replace(plan, precision="fp32") if overflows else plan
        y = joined(restored, 1)
        if views[0].shape[2] == 1 and y.shape[1] == 3:
            # The image plus the mean change, so that unchanged pixels are exact.
            before = x[:, :1]
            y = (before + (y - before).mean(dim=1, keepdim=True)).clamp(0, 1)
        return transfer.download(y, dtype, self._copy), plan

    @property
    def margin(self) -> int:
        """Reflected pixels at each side of an image that these weights need, cut off again."""
        return _MARGINS.get(self.weights.source, 0)

    @property
    def orientations(self) -> int:
        """Number of flips and rotations averaged over; 1 without the ensemble."""
        return len(ensemble.orientations(self.architecture)) if self.config.ensemble else 1

    def plan(self, height: int, width: int) -> Plan:
        """Return the plan for an image of this size with the memory that is free now."""
        return self._plans(height + 2 * self.margin, width + 2 * self.margin)[0]

    def forecast(self, image: np.ndarray) -> Forecast:
        """Estimate the memory and time of restoring an image."""
        plan = self.plan(*image.shape[:2])
        images = 1 if self.architecture.in_channels > 1 else np.atleast_3d(image).shape[2]
        seconds = images * plan.pixels / self.pixels_per_second
        on_host = image.nbytes if self.device.type == "cpu" else 0
        return Forecast(plan.strategy, self._base_bytes + on_host + plan.peak_bytes, seconds)

    def faster_ways(self) -> list[str]:
        """Return what would make restoring faster here, as phrases."""
        dtype = devices.PRECISIONS[self.precision]
        obstacle = fusion_obstacle(self.architecture, dtype, self.device)
        slow = self.precision == "fp32" and self.config.precision == "fp32"
        ways = (
            devices.unused_gpu(self.device),
            "--weights lite (of lower quality)" if self.weights.source == "official" else "",
            "--precision auto" if slow and devices.native_bf16(self.device) else "",
            f"the fused block (not used: {obstacle})" if obstacle else "",
            "no --ensemble" if self.config.ensemble else "",
        )
        return [way for way in ways if way]

    @property
    def trial_pixels(self) -> int:
        """Number of pixels that measuring the speed restores."""
        return 2 * self._trial_side**2

    @property
    def _trial_side(self) -> int:
        return 256 if self.device.type == "cpu" else 1024

    @cached_property
    def pixels_per_second(self) -> float:
        """Speed of the network on this device, measured once on noise.

        With windows, the noise is larger than a window: images which a window covers are restored
        faster than others.
        """
        side = self._trial_side
        window = self.config.window and min(self.config.window, side // 2)

        def seconds(side: int) -> float:
            noise = torch.rand(1, self.architecture.in_channels, side, side)
            started = time.perf_counter()
            engine.restore(self.network, noise, precision=self.precision, window=window)
            devices.synchronize(self.device)
            return time.perf_counter() - started

        seconds(side)  # the first run also selects kernels and packs weights
        return side**2 / seconds(side)

    @cached_property
    def _base_bytes(self) -> int:
        """Memory in use after the network has run once."""
        _ = self.pixels_per_second  # runs the network
        return devices.held_memory(self.device)
