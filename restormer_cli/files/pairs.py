"""Match clean images with their degraded counterparts in other folders."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .discovery import list_images

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


@dataclass(frozen=True)
class Pair:
    """A clean image with its degraded counterpart, or None to degrade it artificially."""

    clean: Path
    degraded: Path | None = None
    right: Path | None = None

    @property
    def name(self) -> str:
        """File name of the clean image."""
        return self.clean.name


def match_pairs(
    clean: Path,
    *others: Path | None,
    suffixes: AbstractSet[str],
    by_order: bool = False,
    recursive: bool = False,
) -> tuple[list[Pair], list[Path]]:
    """Match the images of a folder with their counterparts in others.

    Images match by their path below the folder, with or without the suffix: `1.png` matches
    `1.jpg` unless one of the folders contains both.

    Args:
        clean: folder of clean images.
        others: folders of degraded images and of right views; None is skipped.
        suffixes: as in `InputQuery`.
        by_order: match the images by their position in natural order instead.
        recursive: search subfolders, too.

    Returns:
        The pairs in natural order, and the unmatched files.

    Raises:
        UsageError: a folder does not exist or contains no images, no images match, or, by order,
            the numbers of images differ.
    """
    folders = [clean, *(folder for folder in others if folder is not None)]
    files = [list_images(folder, suffixes, recursive=recursive) for folder in folders]
    if by_order:
        if len({len(images) for images in files}) > 1:
            counts = " and ".join(f"{len(i)} in {f}" for i, f in zip(files, folders, strict=True))
            raise UsageError(
                f"{counts}: different numbers of images cannot be matched by order",
                "Use folders with equal numbers of images, or match them by name.",
            )
        return [Pair(*row) for row in zip(*files, strict=True)], []
    tables = [_by_name(images, folder) for images, folder in zip(files, folders, strict=True)]
    rows: dict[Path, list[Path]] = {}
    for name, path in tables[0].items():
        if all(name in table for table in tables):
            rows.setdefault(path, [table[name] for table in tables])
    if not rows:
        raise UsageError(
            " and ".join(map(str, folders)) + ": no images have the same name",
            "Give the images of a pair the same name, or match them with --pair order.",
        )
    matched = {path for row in rows.values() for path in row}
    unmatched = [path for images in files for path in images if path not in matched]
    return [Pair(*rows[path]) for path in files[0] if path in rows], unmatched


def _by_name(images: list[Path], folder: Path) -> dict[Path, Path]:
    """Map paths below `folder` to images, with the suffix and, if unambiguous, without it."""
    names = {path.relative_to(folder): path for path in images}
    stems = Counter(name.with_suffix("") for name in names)
    unique = {name.with_suffix(""): path for name, path in names.items()}
    return names | {s: path for s, path in unique.items() if stems[s] == 1 and s not in names}
