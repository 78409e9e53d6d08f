"""Find the images that a command line names: files, folders, patterns, lists and pairs."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import counted, reason
from .checks import exists, is_folder, is_special
from .paths import UrlPath, as_path, local_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from collections.abc import Set as AbstractSet

RESTORED_MARK = ".restored"  # suffix of the stem of an output in the folder of its input
FOLDER_MARK = "-restored"  # suffix of a folder of outputs next to the folder of inputs
PAGE_SUFFIXES = (".html", ".htm")
PAGE_FOLDER_MARK = "_files"  # suffix of the folder of pictures next to a report page


SYSTEM_FOLDERS = frozenset(
    (
        *("#recycle", "#snapshot", "@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp"),
        *("$recycle.bin", "recycler", "system volume information"),
        *("__macosx", "lost+found", "network trash folder", "temporary items"),
    )
)
"""Folders of systems, in lower case: bins, snapshots and thumbnails. Hidden folders come on top."""

PICTURE_SUFFIXES = frozenset(
    (
        # Pictures that Pillow may read if they are named.
        *(".blp", ".bufr", ".cur", ".dcx", ".dds", ".fit", ".fits", ".fli", ".fts", ".grib"),
        *(".icns", ".ico", ".im", ".j2c", ".jpc", ".jpf", ".mic", ".pcd", ".pcx"),
        *(".psb", ".psd", ".ras", ".rgb", ".rgba", ".sgi", ".sun", ".vda", ".vst", ".xbm", ".xpm"),
        # Pictures of other programs.
        *(".avci", ".avifs", ".bpg", ".cin", ".czi", ".dcm", ".djvu", ".dpx", ".exr", ".flif"),
        *(".hdr", ".heics", ".heifs", ".jng", ".jps", ".jxl", ".jxr", ".kra", ".lsm", ".mng"),
        *(".ndpi", ".nii", ".ora", ".pbf", ".pdn", ".pic", ".pict", ".pct", ".pns", ".rgbe"),
        *(".stk", ".svs", ".wbmp", ".wdp", ".hdp", ".xcf", ".xyze"),
        # Vector graphics.
        *(".ai", ".cdr", ".cgm", ".emf", ".eps", ".epsf", ".svg", ".svgz", ".wmf"),
        # Raw files of further cameras.
        *(".ari", ".bay", ".braw", ".cap", ".crw", ".dcs", ".drf", ".eip", ".fff", ".gpr"),
        *(".k25", ".mdc", ".ptx", ".pxn", ".r3d", ".raw", ".rwz"),
    )
)
"""Further suffixes of pictures: a folder's files with these are left out, and counted."""


@dataclass(frozen=True)
class Input:
    """One image to restore."""

    path: Path | None  # None stands for stdin
    folder: Path | None = None  # the named folder that contains it, unless the file was named

    def __str__(self) -> str:
        return "-" if self.path is None else str(self.path)

    @property
    def relative(self) -> Path:
        """Path below the named folder, or else the file's name."""
        if self.path is None:
            return Path("-")
        folder = self.folder or self.path.parent
        return Path(*self.path.relative_to(folder).parts)  # a plain path, even of a URL


@dataclass(frozen=True)
class Problem:
    """A name without images, the reason and the remedy."""

    name: str
    error: str
    hint: str = ""


@dataclass(frozen=True)
class Inputs:
    """Result of `find_inputs`."""

    found: list[Input]
    problems: list[Problem]
    own: list[Path]  # outputs of other inputs, which are left out
    unread: list[Path] = field(default_factory=list)  # pictures in folders, by their suffixes
    linked: list[Path] = field(default_factory=list)  # subfolders searched under another name
    results: list[Path] = field(default_factory=list)  # outputs in folders, by their names


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


def find_inputs(
    names: Iterable[str],
    suffixes: AbstractSet[str],
    *,
    listed: Iterable[str] = (),
    recursive: bool = False,
    outputs: Collection[Path] = (),
    may_be_empty: bool = False,
) -> Inputs:
    """Find the images that `names` stand for, in their order and without duplicates.

    Matches of a folder or pattern are in natural order: 2.png before 10.png. Hidden files, folders
    of the system and outputs of `restormer` in folders are left out.

    Args:
        names: files, folders, patterns, or "-" for stdin. An existing name is not a pattern.
        suffixes: suffixes of the images in a folder, in lower case with the dot.
        listed: files and folders by their exact names, never patterns.
        recursive: search subfolders, too.
        outputs: output folders, which are not searched.
        may_be_empty: a folder without images is no problem.
    """
    inputs: dict[str, Input] = {}
    problems: list[Problem] = []
    unread: dict[Path, None] = {}
    linked: list[Path] = []
    results: dict[Path, None] = {}

    def report(name: str, error: OSError) -> None:
        cause = f"cannot be searched ({reason(error)})"
        problems.append(Problem(name, cause, "Check the path and its permissions."))

    def include(path: Path, folder: Path | None = None) -> None:
        # Links are not followed: a link and its target are two names with two outputs.
        inputs.setdefault(os.path.abspath(path), Input(path, folder))  # noqa: PTH100

    def add(path: Path) -> None:
        if not is_folder(path):
            # A missing file is reported when it is read, so that it does not stop the others.
            include(path)
            return
        count, outputs_before, unread_before = len(problems), len(results), len(unread)
        try:
            if isinstance(path, UrlPath):
                files: Iterable[Path] = _list_url(path, recursive, outputs, results)
            else:
                files = _walk(
                    path, recursive, outputs, lambda e: report(str(e.filename), e), linked, results
                )
            pictures = [file for file in files if _is_picture(file, suffixes | PICTURE_SUFFIXES)]
        except OSError as error:
            report(str(path), error)
            return
        images = []
        for picture in sorted(pictures, key=lambda file: [natural_key(p) for p in file.parts]):
            if _is_output(picture):
                results[picture] = None
            elif picture.suffix.lower() in suffixes:
                images.append(picture)
                include(picture, path)
            else:
                unread[picture] = None
        if not (images or may_be_empty) and len(problems) == count:
            left_out = len(results) - outputs_before, len(unread) - unread_before
            problems.append(_no_images(path, recursive, *left_out))

    for name in names:
        if not name:  # an unset shell variable; as a path it would be the current folder
            problems.append(Problem("''", "the name is empty", "Check the shell variable."))
        elif name == "-":
            inputs.setdefault("-", Input(None))
        elif glob.has_magic(name):
            try:
                matches = sorted(_match(name), key=natural_key)
            except OSError as error:
                report(str(error.filename or name), error)
                continue
            if not matches:
                problems.append(Problem(name, "no file matches this pattern", "Check the path."))
            for match in matches:
                add(match)
        else:
            add(as_path(name))
    for name in listed:
        add(as_path(name))
    own = _outputs_of_others([image.path for image in inputs.values() if image.path is not None])
    found = [i for i in inputs.values() if i.path not in own]
    folders = {image.folder for image in inputs.values() if image.folder is not None}
    named = inputs.keys() | {os.path.abspath(folder) for folder in folders}  # noqa: PTH100
    left_out = [path for path in results if os.path.abspath(path) not in named]  # noqa: PTH100
    return Inputs(found, problems, list(own), list(unread), linked, left_out)


def find_changed(
    changed: Iterable[Path],
    folders: Iterable[Path],
    suffixes: AbstractSet[str],
    *,
    recursive: bool = False,
    outputs: Collection[Path] = (),
) -> list[Input] | None:
    """Find the images among paths that changed, as `find_inputs` finds them in folders.

    Args:
        changed: absolute paths.
        folders: local folders, of which no subfolder is searched under two names.
        suffixes: as in `find_inputs`.
        recursive: as in `find_inputs`.
        outputs: as in `find_inputs`.

    Returns:
        The images in natural order. None if only a search of the folders can find them, because a
        folder changed, or a path leads through a link.
    """
    found: dict[Path, Input] = {}
    left_out = {output.resolve() for output in outputs}
    roots = {folder: Path(os.path.abspath(folder)) for folder in folders}  # noqa: PTH100
    for path in sorted(changed, key=lambda file: [natural_key(p) for p in file.parts]):
        for folder, root in roots.items():
            if path == root or not path.is_relative_to(root):
                continue
            relative = path.relative_to(root)
            if len(relative.parts) > 1 and not recursive:
                continue
            above = [root / parent for parent in [*relative.parents][-2::-1]]
            subfolder = is_folder(path)
            if any(
                each.resolve() in left_out
                or _is_hidden(each)
                or _is_output_folder(each, exists, is_folder)
                for each in [*above, *[path] * subfolder]
            ):
                continue
            if any(each.is_symlink() for each in above) or (subfolder and recursive):
                return None
            if (
                not subfolder
                and exists(path)
                and _is_picture(path, suffixes)
                and not _is_output(path)
            ):
                found.setdefault(path, Input(folder / relative, folder))
        if not any(path != root and path.is_relative_to(root) for root in roots.values()):
            return None
    return [*found.values()]


def list_images(folder: Path, suffixes: AbstractSet[str], *, recursive: bool = False) -> list[Path]:
    """List the images in a folder in natural order, as `find_inputs` does.

    Raises:
        UsageError: the folder does not exist, cannot be searched, or contains no images.
    """
    if not is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of images.")
    inputs = find_inputs((), suffixes, listed=[str(folder)], recursive=recursive)
    if inputs.problems:
        name, cause = inputs.problems[0].name, inputs.problems[0].error
        raise UsageError(f"{name}: {cause}", "Name the folder that contains the images.")
    return [image.path for image in inputs.found if image.path is not None]


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
        suffixes: as in `find_inputs`.
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


def natural_key(name: str | os.PathLike[str]) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that puts `2.png` before `10.png`."""
    text = os.fspath(name)
    # The first element separates numbers from words, which cannot be compared.
    pieces = [
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold())
        for piece in re.split(r"(\d+)", text)
    ]
    return pieces, text


def _no_images(folder: Path, recursive: bool, outputs: int, unread: int) -> Problem:
    """Return the problem of a folder without images, with the numbers of what is left out of it."""
    cause, hint = "there are no images in this folder", "Name another folder."
    left_out = []
    if outputs:
        count = counted(outputs, "file or folder", "files and folders")
        left_out.append(f"{count} named like outputs of earlier runs")
    if unread:
        left_out.append(f"{counted(unread, 'file')} of other kinds of pictures")
    if left_out:
        cause += f", except {' and '.join(left_out)}"
        hint = "Name one of these to restore it, or another folder."
    if not recursive and _has_subfolders(folder):
        hint = "Search its subfolders, too, with -r."
    return Problem(str(folder), cause, hint)


def _has_subfolders(folder: Path) -> bool:
    """Return True if a folder has subfolders; False if it cannot be listed any more."""
    with suppress(OSError):
        if isinstance(folder, UrlPath):
            return folder.has_subfolders()
        return any(is_folder(path) for path in folder.iterdir())
    return False


def _match(pattern: str) -> Iterable[Path]:
    """Return the matches of a pattern; if its name exists, it matches only itself.

    Raises:
        OSError: nothing matches, and a folder that the pattern leads to cannot be searched.
    """
    path = as_path(pattern)
    if path.is_file() if isinstance(path, UrlPath) else os.path.lexists(path):
        return [path]
    if isinstance(path, UrlPath):
        return path.matches()
    pattern = local_name(pattern)
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
    if not matches:
        _check_searchable(pattern)
    return map(Path, matches)


def _check_searchable(pattern: str) -> None:
    """Raise the OSError of a folder that a pattern leads to, which `glob` ignores."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    for number, part in enumerate(parts[first:], first):
        above = str(Path(*parts[:number]))
        for folder in [above] if number == first else glob.glob(above, recursive=True):  # noqa: PTH207
            with suppress(FileNotFoundError, NotADirectoryError):
                if glob.has_magic(part):
                    os.scandir(folder).close()
                else:
                    os.lstat(os.path.join(folder, part))  # noqa: PTH118


def _is_picture(file: Path, suffixes: Collection[str]) -> bool:
    named = file.suffix.lower() in suffixes and not file.name.startswith(".")
    return named and not is_special(file)


def _is_output(file: Path) -> bool:
    return file.stem.endswith(RESTORED_MARK)


def _walk(
    folder: Path,
    recursive: bool,
    outputs: Iterable[Path],
    onerror: Callable[[OSError], None],
    linked: list[Path],
    results: dict[Path, None],
) -> Iterator[Path]:
    """Yield the files in a folder, except in hidden subfolders and folders of outputs.

    Subfolders that were searched under another name are added to `linked`, and those that have the
    name of outputs to `results`.
    """
    left_out = {output.resolve() for output in outputs}
    visited: set[tuple[int, int]] = set()
    for name, subfolders, files in os.walk(folder, followlinks=True, onerror=onerror):
        parent = Path(name)
        status = parent.stat()
        if (status.st_dev, status.st_ino) in visited:  # links may form a loop
            linked.append(parent)
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # Sorted, because a folder is searched under the first of its links only.
        paths = [parent / sub for sub in sorted(subfolders, key=natural_key) if recursive]
        paths = [path for path in paths if path.resolve() not in left_out and not _is_hidden(path)]
        named = {path: None for path in paths if _is_output_folder(path, exists, is_folder)}
        results |= named
        subfolders[:] = [path.name for path in paths if path not in named]
        yield from (parent / file for file in files)


def _list_url(
    folder: UrlPath, recursive: bool, outputs: Collection[Path], results: dict[Path, None]
) -> list[UrlPath]:
    """List the same files as `_walk` with a single request."""
    files = folder.files(recursive=recursive)
    known = {path for file in files for path in (file, *file.parents)}
    below = {path for path in known if folder in path.parents}
    left_out = {path for path in below if path in outputs or _is_hidden(path)}
    named = {
        path: None
        for path in sorted(below - left_out, key=natural_key)
        if left_out.isdisjoint(path.parents)
        and _is_output_folder(path, known.__contains__, known.__contains__)
    }
    results |= named
    left_out |= named.keys()
    return [file for file in files if left_out.isdisjoint(file.parents)]


def _is_hidden(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name.casefold() in SYSTEM_FOLDERS


def _is_output_folder(
    folder: Path, exists: Callable[[Path], bool], is_folder: Callable[[Path], bool]
) -> bool:
    """Return True if a folder is named like outputs, and its page or input is beside it."""
    name = folder.name
    page, original = name.removesuffix(PAGE_FOLDER_MARK), name.removesuffix(FOLDER_MARK)
    return (page != name and any(exists(folder.with_name(page + s)) for s in PAGE_SUFFIXES)) or (
        original not in (name, "") and is_folder(folder.with_name(original))
    )


def _outputs_of_others(paths: list[Path]) -> dict[Path, None]:
    """Return `a.restored.png` if `a.*` is an input, too, since `*.png` matches both."""
    originals = {path.with_suffix("") for path in paths}
    return dict.fromkeys(
        path
        for path in paths
        if path.stem.endswith(RESTORED_MARK)
        and path.stem != RESTORED_MARK  # a hidden file
        and path.with_name(path.stem.removesuffix(RESTORED_MARK)) in originals
    )


def _by_name(images: list[Path], folder: Path) -> dict[Path, Path]:
    """Map paths below `folder` to images, with the suffix and, if unambiguous, without it."""
    names = {path.relative_to(folder): path for path in images}
    stems = Counter(name.with_suffix("") for name in names)
    unique = {name.with_suffix(""): path for name, path in names.items()}
    return names | {s: path for s, path in unique.items() if stems[s] == 1 and s not in names}
