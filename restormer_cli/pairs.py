"""Clean images and their degraded counterparts in other folders, matched by name or by order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import inputs
from .errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A clean image, and what it is to be restored from; None: it is degraded by us."""

    clean: Path
    degraded: Path | None = None
    right: Path | None = None

    @property
    def name(self) -> str:
        """What the pair is called."""
        return self.clean.name


def matched(
    clean: Path, *others: Path | None, by_order: bool = False, recursive: bool = False
) -> tuple[list[Pair], list[Path]]:
    """The pairs in a folder of clean images and up to two others (degraded, right view).

    Names are those of the files, with or without their suffix: `1.png` and `1.jpg` are a pair
    unless one of the folders holds both. In subfolders, theirs belong to the names.

    Args:
        clean: the folder of clean images.
        others: folders of their counterparts; None: there are none.
        recursive: look into subfolders, too.
        by_order: the first belongs to the first and so on, in natural order, whatever the names.

    Returns:
        The pairs in natural order, and the files without a partner.

    Raises:
        UsageError: one is no folder or has no image, there is no pair at all, or, by order, the
            folders hold different numbers of images.
    """
    folders = [clean, *(folder for folder in others if folder is not None)]
    files = [_images(folder, recursive) for folder in folders]
    if by_order:
        if len({len(images) for images in files}) > 1:
            counts = " and ".join(f"{len(i)} in {f}" for i, f in zip(files, folders, strict=True))
            raise UsageError(
                f"{counts}: by order each image needs its partner", "Match them by name."
            )
        return [Pair(*row) for row in zip(*files, strict=True)], []
    tables = [_by_name(images, folder) for images, folder in zip(files, folders, strict=True)]
    shared = set.intersection(*(set(table) for table in tables))
    rows = []
    for path in files[0]:
        names = _names(path, clean)
        keys = (k for k in names if k in shared and tables[0][k] == path)
        if (key := next(keys, None)) is not None:
            rows.append([table[key] for table in tables])
    used = {path for row in rows for path in row}
    lonely = [path for images in files for path in images if path not in used]
    if not rows:
        raise UsageError(
            "no image has the name of one in the other folder: "
            + " and ".join(str(images[0]) for images in files),
            "Give partners the same name, or say --pair order.",
        )
    return [Pair(*row) for row in rows], lonely


def _images(folder: Path, recursive: bool) -> list[Path]:
    if not inputs.is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of images.")
    found = inputs.find([str(folder)], recursive=recursive)
    for problem in found.problems:
        raise UsageError(f"{problem.name}: {problem.error}", "Name the folder that holds them.")
    return [one.path for one in found.found if one.path is not None]


def _names(path: Path, folder: Path) -> tuple[Path, Path]:
    """What an image is called below its folder, with its suffix and without."""
    name = path.relative_to(folder)
    return name, name.with_suffix("")


def _by_name(images: list[Path], folder: Path) -> dict[Path, Path]:
    """Each image under its name and, if only it has that, under its stem."""
    names = [_names(path, folder) for path in images]
    stems = Counter(stem for _, stem in names)
    unique = {stem: path for (_, stem), path in zip(names, images, strict=True) if stems[stem] < 2}
    return unique | {name: path for (name, _), path in zip(names, images, strict=True)}
