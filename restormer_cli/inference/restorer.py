"""A network made ready for a task: arrays in, restored arrays out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..callbacks import Notify, Progress
from ..checkpoints import TASKS, load_network, resolve_checkpoint
from ..errors import CheckpointError, ImageError, UsageError
from ..imaging import from_float, to_float
from ..network import CHANNELS
from . import devices, engine, ensemble
from .blocking import finer, grain_for
from .config import RestorerConfig

DTYPES = ("uint8", "uint16", "float32")


SPARE = 0.9
"""The part of the free memory that a plan may use."""

PROBES = {"cpu": 256}
"""Side in pixels of the image on which the speed is measured; a GPU takes a larger one."""


@dataclass(frozen=True)
class Plan:
    """How an image of some size would be restored, and what that takes.

    `tile` is 0 for the whole image; `peak_bytes` are on the device and beside the network;
    `pixels` go through it, which are more than the image has where tiles overlap, or where the
    result is the mean of several `orientations`.
    """

    tile: int
    fine: bool
    peak_bytes: int
    pixels: int
    precision: str
    orientations: int = 1

    @property
    def strategy(self) -> str:
        """The plan in words."""
        whole = "whole, in fine strips" if self.fine else "whole"
        how = f"tiles of {self.tile}" if self.tile else whole
        return how if self.orientations == 1 else f"{how}, mean of {self.orientations}"


class Forecast(NamedTuple):
    """What restoring an image would take: `peak_bytes` are of the process, or on a GPU."""

    strategy: str
    peak_bytes: int
    seconds: float


@dataclass
class Restoration:
    """A restored image and how it came about."""

    pixels: np.ndarray  # as the input: H W C or H W, same dtype
    strategy: str
    precision: str
    seconds: float
    notes: list[str] = field(default_factory=list)


class Restorer:
    """Restores images of one task with one set of weights on one device.

    Args:
        task: a task ("denoise", "derain", "deblur", "defocus"), or a whole configuration.
        notify: called with a sentence when something did not go as asked (weights that fell
            back, a precision that was given up).
        **options: fields of `RestorerConfig`, where `task` is only the task.

    Raises:
        UsageError: options that do not go together.
        CheckpointError: the weights are not available or do not fit the task.
        DeviceError: the device is not there.
    """

    def __init__(
        self,
        task: str | RestorerConfig = "denoise",
        *,
        notify: Notify | None = None,
        **options: Any,
    ) -> None:
        config = RestorerConfig(task, **options) if isinstance(task, str) else task
        self.config = config
        self.task = TASKS[config.task]
        self.notify = notify or (lambda _: None)
        self.device = devices.choose_device(config.device)
        self.precision = devices.choose_precision(config.precision, self.device)
        self._unproven = config.precision == "auto" and self.precision != "fp32"
        weights = config.weights
        if isinstance(weights, str):
            weights = resolve_checkpoint(weights, config.checkpoint, self.task, notify=self.notify)
        self.weights = weights
        self.network = load_network(self.weights).to(self.device)
        channels = self.network.architecture.in_channels, self.network.architecture.out_channels
        if channels not in CHANNELS:
            raise CheckpointError(
                f"{self.weights.name} makes {channels[1]} channels of {channels[0]}",
                "Networks can be of RGB images or grey ones, or of two RGB views.",
            )
        if config.dual_pixel != (channels[0] == 6):
            takes = "two views (6 channels)" if channels[0] == 6 else f"{channels[0]} channels"
            raise UsageError(
                f"{self.weights.name} takes {takes}", "Dual-pixel weights and --right go together."
            )

    def __call__(self, image: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
        """The restored image alone; see `restore`."""
        return self.restore(image, right).pixels

    @property
    def orientations(self) -> int:
        """In how many an image is restored: one without the ensemble."""
        return len(ensemble.orientations(self.network.architecture)) if self.config.ensemble else 1

    def plan(self, height: int, width: int) -> Plan:
        """How an image of this size would be restored, by the memory that is free now."""
        return self._plans(height, width)[0]

    def forecast(self, image: np.ndarray) -> Forecast:
        """What restoring this image would take, all in all."""
        plan = self.plan(*image.shape[:2])
        images = 1 if self.network.architecture.in_channels > 1 else np.atleast_3d(image).shape[2]
        seconds = images * plan.pixels / self.pixels_per_second
        on_host = image.nbytes if self.device.type == "cpu" else 0
        return Forecast(plan.strategy, self._held + on_host + plan.peak_bytes, seconds)

    @cached_property
    def pixels_per_second(self) -> float:
        """How fast the network runs here: measured once, on noise, in a second or two."""

        def seconds(side: int) -> float:
            noise = torch.rand(1, self.network.architecture.in_channels, side, side)
            started = time.perf_counter()
            engine.restore(self.network, noise, precision=self.precision)
            devices.synchronize(self.device)
            return time.perf_counter() - started

        side = PROBES.get(self.device.type, 1024)
        seconds(side)  # the first time, kernels are chosen and weights packed
        return side**2 / seconds(side)

    @cached_property
    def _held(self) -> int:
        """Bytes that are held whatever the image is; some only since the network has run."""
        _ = self.pixels_per_second
        return devices.held_memory(self.device)

    def _plans(self, height: int, width: int) -> list[Plan]:
        """What to try, in this order: what should fit into memory, and last what needs least."""
        plans = []
        for tile in self.config.tiles:
            a = self.network.architecture
            peak = engine.peak_bytes(
                a, (height, width), tile, devices.PRECISIONS[self.precision], self.device
            )
            if self.config.ensemble:
                peak += ensemble.extra_bytes(
                    a, min(tile or height, height), min(tile or width, width)
                )
            pixels = engine.pixels_through(height, width, tile, self.config.overlap)
            pixels *= self.orientations
            plans.append(Plan(tile, False, peak, pixels, self.precision, self.orientations))
            if not tile:
                plans.append(replace(plans[0], fine=True))
        spare = SPARE / self.config.sharing * devices.free_memory(self.device)
        return [plan for plan in plans if plan.peak_bytes <= spare] or plans[-1:]

    def restore(
        self,
        image: np.ndarray,
        right: np.ndarray | None = None,
        *,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore one image.

        Grey images go through RGB networks as three equal channels, whose mean comes back; RGB
        images go through grey networks channel by channel. A fourth (or second) channel is alpha
        and stays as it is. What a float image holds beyond 0..1 is added back untouched.

        Args:
            image: H W, or H W C with C 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha);
                uint8, uint16, or float32 in 0..1.
            right: the right view for dual-pixel networks, in the shape and type of `image`.
            progress: called with the strips or tiles done and their number.

        Raises:
            ImageError: shape or type is none of these, values are not finite, or the network
                gave no usable result.
        """
        started = time.perf_counter()
        channels = np.atleast_3d(image)
        if (
            image.dtype.name not in DTYPES
            or image.ndim not in (2, 3)
            or image.size == 0
            or channels.shape[2] > 4
        ):
            raise ImageError(
                f"an array of shape {image.shape} and type {image.dtype} is no image",
                f"Give H W or H W C (1 to 4 channels) of {', '.join(DTYPES)}.",
            )
        alpha = channels[..., 3:] if channels.shape[2] > 2 else channels[..., 1:]
        colours = channels[..., : channels.shape[2] - alpha.shape[2]]
        notes: list[str] = []

        x = to_float(colours)
        if not np.isfinite(x).all():
            raise ImageError("the image holds NaN or infinite values", "Repair or mask them first.")
        # A copy only of what needs one: of a large photo it would be as large as a feature map.
        inside = x.clip(0, 1) if x.min() < 0 or x.max() > 1 else x
        restored, plan = self.forward(inside, right, progress=progress, notify=notes.append)
        if not np.array_equal(x, inside):
            restored = np.where(x == inside, restored, x + (restored - inside))
            result = restored.astype(np.float32)
        else:
            result = from_float(restored, image.dtype)
        pixels = np.concatenate([result, alpha], axis=2).reshape(image.shape)
        return Restoration(
            pixels, plan.strategy, self.precision, time.perf_counter() - started, notes
        )

    def forward(
        self,
        colours: np.ndarray,
        right: np.ndarray | None = None,
        *,
        progress: Progress | None = None,
        notify: Notify,
    ) -> tuple[np.ndarray, Plan]:
        """Colours, and nothing but them, through the network, as they are and within memory.

        Args:
            colours: H W C, C 1 (grey) or 3 (RGB), finite float32; what lies beyond 0..1 reaches the
                network, as noise that is not clipped does in the published protocols.
            right: as in `restore`.
            progress: as in `restore`.
            notify: told in a sentence what did not go as planned.

        Returns:
            H W C float32 in 0..1, and the plan that was followed.

        Raises:
            ImageError: memory does not suffice, or the network gave no usable result.
        """
        x = self._input(colours, self._right(right, colours))
        if self._unproven:  # now, since plans depend on it
            self._prove_precision(x)
        run = partial(self._network_on, x, colours.shape[2] == 1, progress, notify)
        height, width = colours.shape[:2]
        return self._within_memory(run, height, width, notify)

    def _within_memory(
        self,
        run: Callable[[Plan], np.ndarray],
        height: int,
        width: int,
        notify: Notify,
    ) -> tuple[np.ndarray, Plan]:
        """What `run` gives for the first plan that memory suffices for, and that plan."""
        plans = self._plans(height, width)
        if self.config.tiles[0] == 0 and plans[0].tile:
            notify(f"memory cannot hold the image whole: {plans[0].strategy}")
        for plan, following in zip_longest(plans, plans[1:]):
            try:
                return run(plan), plan
            except (MemoryError, RuntimeError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                if following is None:
                    raise ImageError(
                        f"{self.device} has not enough memory for {width} x {height} pixels",
                        "Give smaller tiles (--tile 256), or free some memory.",
                    ) from error
                notify(f"out of memory: going on with {following.strategy}")
        raise AssertionError("there is always a plan")

    def _right(self, right: np.ndarray | None, left: np.ndarray) -> np.ndarray | None:
        """The right view's colours as float, checked against the left's."""
        if (right is not None) != (self.network.architecture.in_channels == 6):
            raise UsageError(
                "a right view was given to a network that takes one"
                if right is not None
                else "this network takes two views, and the right one is missing"
            )
        if right is None:
            return None
        if right.shape[:2] != left.shape[:2]:
            raise ImageError(
                f"the left view is {left.shape[1]} x {left.shape[0]} pixels, "
                f"the right one {right.shape[1]} x {right.shape[0]}",
                "The two views of a dual-pixel image have the same size.",
            )
        if right.dtype.name not in DTYPES:
            raise ImageError(f"the right view is of type {right.dtype}", "Give that of the left.")
        colours = np.atleast_3d(right)[..., : left.shape[2]]  # and no alpha
        return to_float(colours).clip(0, 1)

    def _prove_precision(self, x: Tensor) -> None:
        """Go back to fp32 for good if half precision is too far from it with these weights."""
        self._unproven = False
        if (close := engine.deviation(self.network, x, self.precision)) < engine.CLOSE:
            self.notify(
                f"{self.precision} is {close:.1f} dB from fp32 with these weights, which is less "
                f"than {engine.CLOSE:.0f}: going on in fp32"
            )
            self.precision = "fp32"

    def _input(self, colours: np.ndarray, right: np.ndarray | None) -> Tensor:
        """What the network takes: B C H W, of one image, or of each channel for a grey network."""

        def rgb(view: np.ndarray) -> Tensor:
            # A grey view becomes three equal channels; PyTorch takes no read-only arrays.
            view = np.require(np.broadcast_to(view, (*view.shape[:2], 3)), requirements=["C", "W"])
            return torch.from_numpy(view).permute(2, 0, 1).unsqueeze(0)  # 1 3 H W

        if self.network.architecture.in_channels == 1:
            return torch.from_numpy(np.array(colours)).permute(2, 0, 1).unsqueeze(1)
        return rgb(colours) if right is None else torch.cat([rgb(colours), rgb(right)], dim=1)

    def _network_on(
        self,
        x: Tensor,
        grey: bool,
        progress: Progress | None,
        notify: Notify,
        plan: Plan,
    ) -> np.ndarray:
        """H W C in 0..1: what the network makes of each image of `x`, one after the other."""
        cut = grain_for(self.device, devices.PRECISIONS[plan.precision])

        def restored(number: int, image: Tensor) -> Tensor:
            def part(done: int, total: int) -> None:
                if progress is not None:
                    progress(number * total + done, len(x) * total)

            return engine.restore(
                self.network,
                image,
                tile=plan.tile,
                overlap=self.config.overlap,
                precision=plan.precision,
                window=self.config.window,
                ensemble=self.config.ensemble,
                grain=finer(cut) if plan.fine else cut,
                progress=part,
                notify=notify,
            )

        # The channels that a grey network is given are images of their own, in the memory of one.
        y = torch.cat([restored(*numbered) for numbered in enumerate(x.split(1))], dim=1)
        if grey and x.shape[1] == 3:
            # Not the mean, but the image plus the mean change: exact where nothing changes.
            before = x[:, :1]
            y = (before + (y - before).mean(dim=1, keepdim=True)).clamp(0, 1)
        return y[0].permute(1, 2, 0).contiguous().numpy()
