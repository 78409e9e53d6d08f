"""Which images are meant: files, folders, patterns and lists, made one list without doubles."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path


# --- inputs --------------------------------------------------------------------------------------

RESTORED_MARK = ".restored"
"""What our own outputs have before their suffix, when they are written beside the input."""

FOLDER_MARK = "-restored"
"""What a folder of our own outputs ends in."""

PAGE_FOLDER_MARK = "_files"
"""What the folder beside a page ends in, which holds the page's pictures."""

PAGE_SUFFIXES = (".html", ".htm")
"""What pages end in."""


@dataclass(frozen=True)
class Input:
    """One image to restore.

    Attributes:
        path: the file; None: stdin.
        folder: the folder that was named and in which it was found; None: it was named itself.
    """

    path: Path | None
    folder: Path | None = None

    def __str__(self) -> str:
        return "-" if self.path is None else str(self.path)

    @property
    def relative(self) -> Path:
        """Its place in the folder that was named, or else its own name."""
        if self.path is None:
            return Path("-")
        named = self.folder or self.path.parent
        return Path(*self.path.relative_to(named).parts)  # no Url any more


@dataclass(frozen=True)
class Problem:
    """Something that was named and gives no image, or not one of its own."""

    name: str
    error: str
    hint: str = ""


@dataclass
class Inputs:
    """What was found, what could not be, and what was left out because we wrote it ourselves."""

    found: list[Input]
    problems: list[Problem]
    own: list[Path]


def find_inputs(
    names: Iterable[str],
    suffixes: Collection[str],
    *,
    listed: Iterable[str] = (),
    recursive: bool = False,
    outputs: Collection[Path] = (),
) -> Inputs:
    """The images that `names` mean, in their order; in a folder or pattern, 2.png before 10.png.

    Args:
        names: files, folders, patterns, or "-" for stdin. A file that has the very name wins over
            the pattern.
        suffixes: what images end in, in lower case with the dot; in folders others are left out.
        listed: files and folders by their exact names, never patterns.
        recursive: descend into folders' subfolders.
        outputs: folders that are written to, and so not searched.
    """
    result = Inputs([], [], [])
    for name in names:
        if not name:  # a variable of the shell's that is not set; as a path it is this folder
            result.problems.append(Problem("''", "an empty name is no file"))
        elif name == "-":
            result.found.append(Input(None))
        elif glob.has_magic(name) and not _has_this_very_name(name):
            count = len(result.problems)
            matches = sorted(_matches(name, result.problems), key=natural_key)
            for match in matches:
                _add(match, suffixes, recursive, outputs, result)
            if not matches and len(result.problems) == count:
                result.problems.append(Problem(name, "no file matches this pattern"))
        else:
            _add(paths.as_path(name), suffixes, recursive, outputs, result)
    for name in listed:
        _add(paths.as_path(name), suffixes, recursive, outputs, result)
    return _without_own_outputs(_without_doubles(result))


def is_folder(path: Path) -> bool:
    """Whether it is a folder, as far as one may look."""
    if isinstance(path, paths.UrlPath):
        return path.is_dir()
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises below a folder that is closed


def exists(path: Path) -> bool:
    """Whether there is something, as far as one may look; a broken link is nothing."""
    if isinstance(path, paths.UrlPath):
        return path.exists()
    return os.path.exists(path)  # noqa: PTH110 - likewise, and where the name is too long


def natural_key(name: str | os.PathLike[str]) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key by which `2.png` comes before `10.png`."""
    text = os.fspath(name)
    # Digits become numbers; the first element keeps numbers and words apart.
    pieces = [
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold())
        for piece in re.split(r"(\d+)", text)
    ]
    return pieces, text


def _has_this_very_name(name: str) -> bool:
    where = paths.as_path(name)
    return where.is_file() if isinstance(where, paths.UrlPath) else os.path.lexists(name)


def _matches(pattern: str, problems: list[Problem]) -> Iterable[Path]:
    where = paths.as_path(pattern)
    if isinstance(where, paths.UrlPath):
        try:
            return where.matches()
        except OSError as error:
            problems.append(Problem(pattern, f"cannot be searched ({error.strerror or error})"))
            return []
    return map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob drops `./` and absolute patterns


def _add(
    path: Path,
    suffixes: Collection[str],
    recursive: bool,
    outputs: Collection[Path],
    result: Inputs,
) -> None:
    if not is_folder(path):
        # Whether it is there and an image is seen when its turn comes: it may fail, not the run.
        result.found.append(Input(path))
        return
    count = len(result.problems)
    files = _images_in(path, suffixes, recursive, outputs, result.problems)
    result.found += [Input(file, path) for file in files]
    if not files and len(result.problems) == count:
        hint = "" if recursive else "-r looks into its subfolders, too."
        result.problems.append(Problem(str(path), "there are no images in this folder", hint))


def _images_in(
    folder: Path,
    suffixes: Collection[str],
    recursive: bool,
    outputs: Collection[Path],
    problems: list[Problem],
) -> list[Path]:
    """The images in a folder that are neither hidden nor written by us, in natural order."""

    def unreadable(error: OSError) -> None:
        problems.append(Problem(str(error.filename), f"cannot be searched ({error.strerror})"))

    def is_one(file: Path) -> bool:
        named = not file.name.startswith(".") and file.suffix.lower() in suffixes
        return named and not file.stem.endswith(RESTORED_MARK) and not is_special(file)

    if isinstance(folder, paths.UrlPath):
        try:
            return _in_store(folder, recursive, outputs, is_one)
        except OSError as error:
            problems.append(Problem(str(folder), f"cannot be searched ({error.strerror or error})"))
            return []
    left_out = {output.resolve() for output in outputs}
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for name, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        parent = Path(name)
        stat = parent.stat()
        if (stat.st_dev, stat.st_ino) in seen:  # a link that leads back up, or a second link here
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(
            (f for f in folders if recursive and not _left_out(parent / f, left_out)),
            key=natural_key,
        )
        found += filter(is_one, (parent / file for file in files))
    return _in_order(found)


def _in_store(
    folder: paths.UrlPath,
    recursive: bool,
    outputs: Collection[Path],
    is_one: Callable[[Path], bool],
) -> list[Path]:
    """Likewise, where one asks for all the files below a folder at once."""

    def hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(folder).parts)

    files = folder.files(recursive=recursive)
    there = {above for file in files for above in (file, *file.parents)}

    def made(above: Path) -> bool:
        pages, originals = _made_for(above)
        return above in outputs or not there.isdisjoint([*pages, *originals])

    def written(file: Path) -> bool:
        return any(made(above) for above in file.parents if folder in above.parents)

    return _in_order(f for f in files if is_one(f) and not hidden(f) and not written(f))


def _in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: [natural_key(part) for part in path.parts])


def _left_out(folder: Path, outputs: Collection[Path]) -> bool:
    if folder.name.startswith(".") or folder.resolve() in outputs:
        return True
    pages, originals = _made_for(folder)
    return any(map(exists, pages)) or any(map(is_folder, originals))


def _made_for(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pages, and the folder of inputs, that a folder of this name would be beside if ours."""
    name = folder.name
    page, original = name.removesuffix(PAGE_FOLDER_MARK), name.removesuffix(FOLDER_MARK)
    return (
        [folder.with_name(page + suffix) for suffix in PAGE_SUFFIXES if page != name],
        [folder.with_name(original)] if original not in (name, "") else [],
    )


def is_special(path: Path) -> bool:
    """Whether it is a pipe or a device, which may block; a broken link is not: it shall fail."""
    return not isinstance(path, paths.UrlPath) and exists(path) and not path.is_file()


def _without_doubles(inputs: Inputs) -> Inputs:
    first: dict[str, Input] = {}
    for one in inputs.found:
        # Links are followed by no one here: a link and its file are two names, with two outputs.
        key = "-" if one.path is None else os.path.abspath(one.path)  # noqa: PTH100
        first.setdefault(key, one)
    inputs.found = list(first.values())
    return inputs


def _without_own_outputs(inputs: Inputs) -> Inputs:
    """Leave out `a.restored.png` where `a.*` is there: in a second run `*.png` names both."""
    paths = [one.path for one in inputs.found if one.path is not None]
    originals = {path.with_suffix("") for path in paths}
    inputs.own = [
        path
        for path in paths
        if path.stem.endswith(RESTORED_MARK)
        and path.with_name(path.stem.removesuffix(RESTORED_MARK)) in originals
    ]
    own = set(inputs.own)
    inputs.found = [one for one in inputs.found if one.path not in own]
    return inputs


def read_list(data: bytes, *, null: bool) -> list[str]:
    """The paths in a list of them, one a line or, with `null`, each ended by a NUL byte."""
    if null:
        entries = data.split(b"\0")
    else:
        entries = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(entry) for entry in entries if entry]


# --- pairs ---------------------------------------------------------------------------------------


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


def match_pairs(
    clean: Path,
    *others: Path | None,
    suffixes: Collection[str],
    by_order: bool = False,
    recursive: bool = False,
) -> tuple[list[Pair], list[Path]]:
    """The pairs in a folder of clean images and up to two others (degraded, right view).

    Names are those of the files, with or without their suffix: `1.png` and `1.jpg` are a pair
    unless one of the folders holds both. In subfolders, theirs belong to the names.

    Args:
        clean: the folder of clean images.
        others: folders of their counterparts; None: there are none.
        suffixes: as `find_inputs` takes them.
        recursive: look into subfolders, too.
        by_order: the first belongs to the first and so on, in natural order, whatever the names.

    Returns:
        The pairs in natural order, and the files without a partner.

    Raises:
        UsageError: one is no folder or has no image, there is no pair at all, or, by order, the
            folders hold different numbers of images.
    """
    folders = [clean, *(folder for folder in others if folder is not None)]
    files = [_images(folder, suffixes, recursive) for folder in folders]
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


def _images(folder: Path, suffixes: Collection[str], recursive: bool) -> list[Path]:
    if not is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of images.")
    found = find_inputs([str(folder)], suffixes, recursive=recursive)
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
