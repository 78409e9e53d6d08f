"""Cut training patches from photographs that lie in one buffer on the device.

A batch is drawn by a fixed number of tensor operations, however many patches it has, so that the
device is not kept waiting. The positions come from NumPy's generator on the CPU, and the comparison
of patches is exact, so that all devices draw the same patches.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..imaging import Array
from .dataset import Sample


class PhotoBuffer:
    """The pixels of all photographs, one after another in a tensor, pixels x C uint8.

    Attributes:
        digests: digests of the photographs.
    """

    def __init__(self, photos: list[Sample], device: torch.device | str = "cpu") -> None:
        """Move the photographs to `device`; empties the list, to free the memory of each."""
        self.digests = [photo.digest for photo in photos]
        shapes = np.array([photo.pixels.shape for photo in photos], dtype=np.int64)
        self.heights, self.widths, channels = shapes.T
        self.ends = np.cumsum(self.heights * self.widths)
        size = (int(self.ends[-1]), int(channels[0]))
        self.pixels = torch.empty(size, dtype=torch.uint8, device=device)
        for end in self.ends[::-1].tolist():
            flat = photos.pop().pixels.reshape(-1, size[1])
            self.pixels[end - len(flat) : end] = torch.from_numpy(np.ascontiguousarray(flat))

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.digests)

    def positions(self, side: int, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw `count` squares: the index of the first pixel of each, and the photograph's width.

        A photograph is drawn with a probability proportional to its area.

        Raises:
            UsageError: all photographs are smaller than `side`.
        """
        usable = np.flatnonzero(np.minimum(self.heights, self.widths) >= side)
        if not len(usable):
            raise UsageError(
                f"no photo is {side} pixels high and wide", "Give larger photos or smaller patches."
            )
        area = self.heights * self.widths
        share = area[usable] / area[usable].sum()
        drawn = usable[rng.choice(len(usable), size=count, p=share)]
        top = rng.integers(self.heights[drawn] - side + 1)
        left = rng.integers(self.widths[drawn] - side + 1)
        width = self.widths[drawn]
        return self.ends[drawn] - area[drawn] + top * width + left, width

    def cut(self, first: Array, width: Array, side: int) -> Tensor:
        """Return the squares at positions that `positions` returned: N S S C uint8."""
        device = self.pixels.device
        start, stride = (torch.from_numpy(t).to(device).view(-1, 1, 1) for t in (first, width))
        line = torch.arange(side, device=device)
        indices = start + line[:, None] * stride + line
        squares = self.pixels.index_select(0, indices.flatten())
        return squares.view(len(first), side, side, -1)


def choose_by_detail(patches: Tensor, candidates: int, ranks: tuple[int, ...]) -> Tensor:
    """Return one of each `candidates` consecutive patches, N S S C uint8, N / candidates of them.

    `ranks` are their places from the flattest to the sharpest; they repeat over the batch.
    """
    if candidates == 1:
        return patches
    groups = len(patches) // candidates
    order = detail(patches).view(groups, candidates).argsort(stable=True, dim=1)
    rank = torch.tensor(ranks, device=patches.device).repeat(groups // len(ranks) + 1)[:groups]
    chosen = order.gather(1, rank[:, None])[:, 0]
    return patches[chosen + candidates * torch.arange(groups, device=patches.device)]


def detail(patches: Tensor) -> Tensor:
    """Return the sum of the absolute Laplacian of the first channel of N S S C uint8: N, exact."""
    x = patches[..., 0].short()
    sides = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return (4 * x[:, 1:-1, 1:-1] - sides).abs().sum((1, 2))


def augment_dihedral(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """Rotate and reflect patches, N S S C, by one of the eight symmetries of a square each."""
    flips = rng.integers(2, size=(3, len(patches)), dtype=np.uint8)
    turned, upside_down, mirrored = _flags(flips, patches)
    patches = torch.where(turned, patches.transpose(1, 2), patches)
    patches = torch.where(upside_down, patches.flip(1), patches)
    return torch.where(mirrored, patches.flip(2), patches)


def augment_dual_pixel(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """Reflect patches with a clean, a left and a right RGB view by one of the four ways each.

    The views differ by a horizontal shift, which a rotation would make vertical. A horizontal
    reflection exchanges the views.
    """
    flips = rng.integers(2, size=(2, len(patches)), dtype=np.uint8)
    upside_down, mirrored = _flags(flips, patches)
    patches = torch.where(upside_down, patches.flip(1), patches)
    clean, left, right = patches.flip(2).chunk(3, dim=3)
    return torch.where(mirrored, torch.cat([clean, right, left], 3), patches)


def to_batch(patches: Tensor) -> Tensor:
    """Convert patches, N H W C uint8, to N C H W float32 in 0..1, in the channels-last layout."""
    return patches.contiguous().permute(0, 3, 1, 2).float().div_(255)


def _flags(flips: Array, patches: Tensor) -> Tensor:
    """Return rows of 0 or 1 as masks for patches: rows x N 1 1 1."""
    return torch.from_numpy(flips).to(patches.device).bool()[..., None, None, None]
