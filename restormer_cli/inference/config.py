"""The settings of a `Restorer`, as one value that can travel to another process."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

from ..checkpoints import CheckpointQuery
from ..errors import UsageError

if TYPE_CHECKING:
    from ..checkpoints import ResolvedCheckpoint

TILE_MULTIPLE = 8
"""Sides of tiles are multiples of this: the network halves the resolution three times."""

FALLBACK_TILES = (2048, 1024, 512, 256)
"""Sides of the tiles to fall back to where memory cannot hold the whole image."""


@dataclass(frozen=True)
class RestorerConfig(CheckpointQuery):
    """What a `Restorer` runs, where, and how.

    Attributes:
        weights: "auto", "official", "lite", a path, "hf:ORG/REPO/FILE[@REV]", or a checkpoint
            that was resolved already.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16"; "auto" is the fastest that is native to the
            device and, on the middle of the first image, within 50 dB PSNR of fp32.
        tile: side of a tile in pixels; 0 for the whole image; "auto" for the whole image as long
            as memory can hold it.
        overlap: number of pixels shared by neighbouring tiles.
        window: side in pixels of the windows over which attention statistics are taken (TLC, Chu
            et al., ECCV 2022); None for the whole image.
        ensemble: average over flips and rotations: 8 times the work, or 4 with `dual_pixel`.
        sharing: number of restorers that share the device and its memory.

    Raises:
        UsageError: no such task or tile, or options that do not go together.
    """

    _: KW_ONLY
    weights: str | ResolvedCheckpoint = "auto"
    device: str = "auto"
    precision: str = "auto"
    tile: int | Literal["auto"] = "auto"
    overlap: int = 32
    window: int | None = None
    ensemble: bool = False
    sharing: int = 1

    def __post_init__(self) -> None:
        _ = self.checkpoint, self.tiles

    @property
    def tiles(self) -> tuple[int, ...]:
        """Sides of tiles to try in turn, as multiples of 8; 0 for the whole image."""
        sides = (0, *FALLBACK_TILES) if self.tile == "auto" else (int(self.tile),)
        return tuple(side and tile_size(side, self.overlap) for side in sides)


def tile_size(tile: int, overlap: int) -> int:
    """Return `tile` rounded up to a multiple of 8.

    Raises:
        UsageError: `tile` is too small, or `overlap` negative or not smaller than `tile`.
    """
    if tile < TILE_MULTIPLE:
        raise UsageError(
            f"a tile of {tile} pixels is too small",
            f"The smallest is {TILE_MULTIPLE}; 512 is usual.",
        )
    if not 0 <= overlap < tile:
        raise UsageError(
            f"an overlap of {overlap} pixels does not fit tiles of {tile}",
            "The overlap must be smaller than the tile; 32 is usual.",
        )
    return -(-tile // TILE_MULTIPLE) * TILE_MULTIPLE
