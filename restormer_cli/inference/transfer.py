"""Copy samples to a network's device and results back, in the smallest form.

A GPU receives integer samples as they are, and converts, scales and rounds them itself. The values
are those of `imaging.to_float` and `imaging.from_float`, which run if the device is a CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..imaging import Array, from_float, to_float

Copy = Callable[[Tensor, Tensor], object]
"""Function that copies the second tensor into the first, of the same shape and type."""

STAGING_BYTES = 16 << 20
"""Size of the page-locked buffer of a GPU."""

# Not torch.uint16, for which few operations exist.
_STORED = {"uint8": np.uint8, "uint16": np.int16, "float32": np.float32}


def network_input(
    views: Sequence[Array], channels: int, device: torch.device, copy: Copy
) -> Tensor:
    """Return views as the input of a network.

    Args:
        views: H W C, C 1 or 3, of the types of images: one, or the left and the right one.
        channels: that the network takes: 1, 3, or 6 for two views.
        device: device of the result.
        copy: used for a device other than a CPU.

    Returns:
        B C H W float32, 0..1: one image for each channel if the network takes one, else one image,
        in which a grey view is repeated as RGB.
    """
    images = [upload(view, device, copy).permute(2, 0, 1) for view in views]  # C H W
    if channels == 1:
        return images[0].unsqueeze(1)
    # Pixels of H W C in order, which is not a copy unless the view is grey.
    order = torch.channels_last
    rgb = [x.unsqueeze(0).expand(-1, 3, -1, -1).contiguous(memory_format=order) for x in images]
    return rgb[0] if len(rgb) == 1 else torch.cat(rgb, dim=1)


def upload(samples: Array, device: torch.device, copy: Copy) -> Tensor:
    """Return H W C samples as float32 on the device, integers scaled to 0..1.

    Float32 in the memory of a CPU is not copied if it is contiguous.
    """
    on_host = to_float(samples) if device.type == "cpu" else samples
    # PyTorch requires writable arrays.
    on_host = np.require(on_host, requirements=["C", "W"])
    source = torch.from_numpy(on_host.view(_STORED[on_host.dtype.name]))
    if device.type == "cpu":
        return source
    stored = torch.empty(source.shape, dtype=source.dtype, device=device)
    copy(stored, source)
    return to_unit(stored)


def download(y: Tensor, dtype: np.dtype, copy: Copy) -> Array:
    """Return 1 C H W float32 in 0..1 as H W C samples of a type, in host memory."""
    image = y[0].permute(1, 2, 0)
    if y.device.type == "cpu":
        return from_float(image.contiguous().numpy(), dtype)
    stored = from_unit(image, dtype).contiguous()
    samples = np.empty(stored.shape, dtype)
    copy(torch.from_numpy(samples.view(_STORED[dtype.name])), stored)
    return samples


def to_unit(stored: Tensor) -> Tensor:
    """Return samples as float32, like `to_float`; int16 holds the bits of uint16."""
    if stored.dtype == torch.float32:
        return stored
    bits = 8 * stored.dtype.itemsize
    if stored.dtype == torch.int16:
        stored = stored.int().bitwise_and_(0xFFFF)
    # CUDA multiplies by the reciprocal of a number, which is rounded, but divides by a tensor.
    highest = torch.full((), float(2**bits - 1), dtype=torch.float32, device=stored.device)
    return stored.float().div_(highest)


def from_unit(y: Tensor, dtype: np.dtype) -> Tensor:
    """Invert `to_unit`, like `from_float`: clamp to 0..1 and round half to even, unless to float32.

    Samples of uint16 are returned as int16 of the same bits.
    """
    if dtype == np.float32:
        return y
    scaled = y.clamp(0, 1).mul_(float(np.iinfo(dtype).max)).round_()
    return scaled.byte() if dtype == np.uint8 else scaled.int().short()


def copy_for(device: torch.device) -> Copy:
    """Return the fastest way to copy between host memory and the device."""
    return StagedCopy(page_locked) if device.type == "cuda" else Tensor.copy_


def page_locked(size: int) -> Tensor:
    """Return a buffer of this number of bytes that CUDA copies from and to without the CPU."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class StagedCopy:
    """Copy tensors between host memory and a GPU through a small buffer, for any threads.

    Each copy is complete on return, so that the buffer can be used again.

    Args:
        allocate: returns a buffer of a number of bytes. If it fails, tensors are copied directly.
    """

    def __init__(self, allocate: Callable[[int], Tensor]) -> None:
        self._allocate = allocate
        self._buffer: Tensor | None = None
        self._failed = False
        self._lock = threading.Lock()

    def __call__(self, target: Tensor, source: Tensor) -> None:
        """Copy the contiguous source into the contiguous target."""
        with self._lock:
            buffer = self._staging()
            if buffer is None:
                target.copy_(source)
                return
            parts = (t.reshape(-1).view(torch.uint8).split(len(buffer)) for t in (target, source))
            for to, part in zip(*parts, strict=True):
                staged = buffer[: len(part)]
                staged.copy_(part)
                to.copy_(staged)

    def _staging(self) -> Tensor | None:
        if self._buffer is None and not self._failed:
            try:
                self._buffer = self._allocate(STAGING_BYTES)
            except (MemoryError, RuntimeError):  # the system limits page-locked memory
                self._failed = True
        return self._buffer
