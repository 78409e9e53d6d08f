"""Settings of a `Restorer`, as one value that can be pickled for another process."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from operator import index
from os import PathLike, fspath
from typing import TYPE_CHECKING, Literal

from ..checkpoints import CheckpointQuery
from ..errors import UsageError
from ..network import MULTIPLE, round_up
from .fusion.mode import fusion_mode

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..checkpoints import ResolvedCheckpoint

# With the names of `devices.PRECISIONS`, which would import torch: wrong usage is reported, and
# workers are started, without the seconds that this takes.
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

FALLBACK_TILES = (2048, 1024, 512, 256)
"""Sides of the tiles to try in turn if the whole image does not fit into memory."""


@dataclass(frozen=True)
class RestorerConfig(CheckpointQuery):
    """Settings of a `Restorer`, validated when created.

    Attributes:
        weights: "auto", "official", "lite", a path, "hf:ORG/REPO/FILE[@REV]", or a resolved
            checkpoint.
        device: "auto", "cpu", "cuda", "cuda:N", "mps", or a `torch.device`.
        precision: "auto", "fp32", "bf16" or "fp16". "auto" is bf16 where it is native to the
            device and within 50 dB PSNR of fp32 on the middle of the first image, else fp32.
        tile: side of a tile in pixels; 0 for the whole image; "auto" for the whole image if it
            fits into memory, else the largest tiles that fit.
        overlap: number of pixels shared by neighbouring tiles.
        window: side in pixels of the windows for attention statistics (TLC, Chu et al.,
            ECCV 2022); None for the whole image.
        ensemble: average over flips and rotations: 8 times the work, or 4 with `dual_pixel`.
        sharing: number of restorers that share the device and its memory.

    Raises:
        UsageError: an option is invalid, or options do not go together.
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
        if isinstance(self.weights, PathLike):
            object.__setattr__(self, "weights", fspath(self.weights))
        object.__setattr__(self, "device", str(self.device))  # of a torch.device, too
        check_precision(self.precision, PRECISIONS)
        _ = self.checkpoint, self.tiles, fusion_mode()  # for their UsageErrors
        window_size(self.window)
        whole_number("sharing", self.sharing, 1)
        if not isinstance(self.ensemble, bool):
            raise UsageError(f"ensemble is {self.ensemble!r}", "Give True or False.")

    @property
    def tiles(self) -> tuple[int, ...]:
        """Sides of tiles to try in turn, as multiples of 8; 0 for the whole image."""
        try:
            sides = (0, *FALLBACK_TILES) if self.tile == "auto" else (int(self.tile),)
        except (OverflowError, TypeError, ValueError):  # the first for infinity
            raise UsageError(
                f"invalid tile {self.tile!r}",
                "Use auto, 0 for the whole image, or a number of pixels.",
            ) from None
        return tuple(side and tile_size(side, self.overlap) for side in sides)


def check_precision(precision: str, known: Collection[str]) -> None:
    """Raise UsageError unless a precision is known."""
    if precision not in known:
        raise UsageError(f"unknown precision {precision!r}", f"Choose one of {', '.join(known)}.")


def tile_size(tile: int, overlap: int) -> int:
    """Return `tile` rounded up to a multiple of 8.

    Raises:
        UsageError: `tile` is too small, or `overlap` is negative or not smaller than `tile`.
    """
    if tile < MULTIPLE:
        raise UsageError(
            f"a tile of {tile} pixels is too small", f"The smallest is {MULTIPLE}; 512 is usual."
        )
    if not 0 <= whole_number("overlap", overlap, 0) < tile:
        raise UsageError(
            f"an overlap of {overlap} pixels does not fit tiles of {tile}",
            "The overlap must be smaller than the tile; 32 is usual.",
        )
    return round_up(tile)


def window_size(window: int | None) -> int | None:
    """Return `window` rounded up to a multiple of 8; None for the whole image.

    Raises:
        UsageError: `window` is no whole number, or too small.
    """
    if window is None:
        return None
    return round_up(whole_number("window", window, MULTIPLE, ", or None for the whole image"))


def whole_number(name: str, value: object, least: int, otherwise: str = "") -> int:
    """Return the value of an option.

    Raises:
        UsageError: it is no whole number, or less than `least`; the hint ends with `otherwise`.
    """
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(
            f"{name} is {value!r}", f"Give a whole number of at least {least}{otherwise}."
        )
    return number
