"""A network made ready for a task: arrays in, restored arrays out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import checkpoints, devices, restoration, tasks
from .errors import ImageError, UsageError
from .images import from_float, to_float

DTYPES = ("uint8", "uint16", "float32")


@dataclass(frozen=True)
class Plan:
    """How an image of some size would be restored."""

    strategy: str
    precision: str


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
        task: "denoise", "derain", "deblur" or "defocus".
        weights: "auto", "official", "lite", a path, or "hf:ORG/REPO/FILE[@REV]".
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16".
        tile: side of a tile in pixels; 0: the whole image; "auto": the whole image as long as
            memory can hold it.
        overlap: pixels that neighbouring tiles share.
        window: side of the windows over which attention is measured; None: the whole image.
        noise, sigma, gray: which official denoising checkpoint (see `tasks.official`).
        dual_pixel: defocus from two views.
        notify: told in a sentence what did not go as asked (weights that fell back, ...).

    Raises:
        UsageError: options that do not go together.
        CheckpointError: the weights cannot be had or do not fit the task.
        DeviceError: the device is not there.
    """

    def __init__(
        self,
        task: str = "denoise",
        *,
        weights: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        tile: int | str = "auto",
        overlap: int = 32,
        window: int | None = None,
        noise: str | None = None,
        sigma: str | None = None,
        gray: bool = False,
        dual_pixel: bool = False,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        if task not in tasks.TASKS:
            raise UsageError(f"there is no task {task!r}", f"Say one of {', '.join(tasks.TASKS)}.")
        self.task = tasks.TASKS[task]
        self.tile = 0 if tile == "auto" else int(tile)
        self.overlap = overlap
        if self.tile:
            restoration.tile_size(self.tile, overlap)
        self.window = window
        self.notify = notify or (lambda _: None)
        self.device = devices.choose(device)
        self.precision = devices.precision(precision, self.device)
        checkpoint = tasks.official(
            task, noise=noise, sigma=sigma, gray=gray, dual_pixel=dual_pixel
        )
        self.weights = checkpoints.resolve(weights, checkpoint, self.task, notify=self.notify)
        self.network = checkpoints.load_network(self.weights).to(self.device)
        channels = self.network.architecture.in_channels
        if dual_pixel != (channels == 6):
            takes = "two views (6 channels)" if channels == 6 else f"{channels} channels"
            raise UsageError(
                f"{self.weights.name} takes {takes}",
                "Dual-pixel weights and --right go together." if channels in (3, 6) else "",
            )

    def __call__(self, image: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
        """The restored image alone; see `restore`."""
        return self.restore(image, right).pixels

    def plan(self, height: int, width: int) -> Plan:
        """How an image of this size would be restored."""
        strategy = f"tiles of {self.tile}" if self.tile else "whole"
        return Plan(strategy, self.precision)

    def restore(
        self,
        image: np.ndarray,
        right: np.ndarray | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
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
        inside = x.clip(0, 1)
        restored = self._network_on(inside, self._right(right, image), progress, notes.append)
        if not np.array_equal(x, inside):
            restored = np.where(x == inside, restored, x + (restored - inside))
            result = restored.astype(np.float32)
        else:
            result = from_float(restored, image.dtype)
        pixels = np.concatenate([result, alpha], axis=2).reshape(image.shape)
        plan = self.plan(*image.shape[:2])
        return Restoration(
            pixels, plan.strategy, plan.precision, time.perf_counter() - started, notes
        )

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
        return to_float(np.atleast_3d(right)).clip(0, 1)

    def _network_on(
        self,
        colours: np.ndarray,
        right: np.ndarray | None,
        progress: Callable[[int, int], None] | None,
        notify: Callable[[str], None],
    ) -> np.ndarray:
        """H W C float in 0..1 through the network, whatever number of channels that takes."""

        def rgb(view: np.ndarray) -> Tensor:
            # A grey view becomes three equal channels.
            view = np.array(np.broadcast_to(view, (*view.shape[:2], 3)))
            return torch.from_numpy(view).permute(2, 0, 1).unsqueeze(0)  # 1 3 H W

        grey_network = self.network.architecture.in_channels == 1
        if grey_network:
            x = torch.from_numpy(np.array(colours)).permute(2, 0, 1).unsqueeze(1)
        else:
            x = torch.cat([rgb(view) for view in (colours, right) if view is not None], dim=1)
        y = restoration.restore(
            self.network,
            x,
            tile=self.tile,
            overlap=self.overlap,
            precision=self.precision,
            window=self.window,
            progress=progress,
            notify=notify,
        )
        y = y.transpose(0, 1) if grey_network else y  # 1 C H W
        if colours.shape[2] == 1 and not grey_network:
            # The image plus the mean change, rather than the mean: it is exact where nothing changes.
            grey = x[:, :1]
            y = (grey + (y - grey).mean(dim=1, keepdim=True)).clamp(0, 1)
        return y[0].permute(1, 2, 0).contiguous().numpy()
