"""Find the images that a command line names: files, folders, patterns and lists."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..text import counted, reason
from .checks import exists, is_folder
from .names import (
    PICTURE_SUFFIXES,
    RESTORED_MARK,
    is_hidden,
    is_output,
    is_output_folder,
    is_picture,
    natural_key,
)
from .paths import UrlPath, as_path, local_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet


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
    """Result of a search."""

    found: list[Input]
    problems: list[Problem]
    own: list[Path]  # outputs of other inputs, which are left out
    unread: list[Path] = field(default_factory=list)  # pictures in folders, by their suffixes
    linked: list[Path] = field(default_factory=list)  # subfolders searched under another name
    results: list[Path] = field(default_factory=list)  # outputs in folders, by their names


@dataclass(frozen=True)
class InputQuery:
    """The names of a command line, and how folders are searched.

    Matches of a folder or pattern are in natural order: 2.png before 10.png. Hidden files, folders
    of the system and outputs of `restormer` in folders are left out.

    Attributes:
        names: files, folders, patterns, or "-" for stdin. An existing name is not a pattern.
        suffixes: suffixes of the images in a folder, in lower case with the dot.
        listed: files and folders by their exact names, never patterns.
        recursive: search subfolders, too.
        outputs: output folders, which are not searched.
        may_be_empty: a folder without images is no problem.
    """

    names: Sequence[str]
    suffixes: AbstractSet[str]
    listed: Sequence[str] = ()
    recursive: bool = False
    outputs: Collection[Path] = ()
    may_be_empty: bool = False

    def find(self) -> Inputs:
        """Find the images, in the order of the names and without duplicates."""
        search = _Search(self)
        for name in self.names:
            search.add_name(name)
        for name in self.listed:
            search.add_path(as_path(name))
        return search.result()

    def find_changed(self, changed: Iterable[Path]) -> list[Input] | None:
        """Find the images among paths that changed, as `find` finds them.

        All names must be local folders of which no subfolder is searched under two names.

        Args:
            changed: absolute paths.

        Returns:
            The images in natural order. None if only a search of the folders can find them, because
            a folder changed, or a path leads through a link.
        """
        found: dict[Path, Input] = {}
        left_out = {output.resolve() for output in self.outputs}
        roots = {path: Path(os.path.abspath(path)) for path in map(as_path, self.names)}  # noqa: PTH100
        for path in sorted(changed, key=lambda file: [natural_key(p) for p in file.parts]):
            for folder, root in roots.items():
                if path == root or not path.is_relative_to(root):
                    continue
                relative = path.relative_to(root)
                if len(relative.parts) > 1 and not self.recursive:
                    continue
                above = [root / parent for parent in [*relative.parents][-2::-1]]
                subfolder = is_folder(path)
                if any(
                    each.resolve() in left_out
                    or is_hidden(each)
                    or is_output_folder(each, exists, is_folder)
                    for each in [*above, *[path] * subfolder]
                ):
                    continue
                if any(each.is_symlink() for each in above) or (subfolder and self.recursive):
                    return None
                if (
                    not subfolder
                    and exists(path)
                    and is_picture(path, self.suffixes)
                    and not is_output(path)
                ):
                    found.setdefault(path, Input(folder / relative, folder))
            if not any(path != root and path.is_relative_to(root) for root in roots.values()):
                return None
        return [*found.values()]


@dataclass
class _Search:
    """What a search has found so far."""

    query: InputQuery
    inputs: dict[str, Input] = field(default_factory=dict)  # by their absolute paths
    problems: list[Problem] = field(default_factory=list)
    unread: dict[Path, None] = field(default_factory=dict)
    linked: list[Path] = field(default_factory=list)
    results: dict[Path, None] = field(default_factory=dict)

    def add_name(self, name: str) -> None:
        """Add what a name stands for."""
        if not name:  # an unset shell variable; as a path it would be the current folder
            self.problems.append(Problem("''", "the name is empty", "Check the shell variable."))
        elif name == "-":
            self.inputs.setdefault("-", Input(None))
        elif glob.has_magic(name):
            try:
                matches = sorted(_match(name), key=natural_key)
            except OSError as error:
                self.add_error(str(error.filename or name), error)
                return
            if not matches:
                self.problems.append(
                    Problem(name, "no file matches this pattern", "Check the path.")
                )
            for match in matches:
                self.add_path(match)
        else:
            self.add_path(as_path(name))

    def add_path(self, path: Path) -> None:
        """Add a file, or the images in a folder."""
        if is_folder(path):
            self.add_folder(path)
        else:  # a missing file is reported when it is read, so that it does not stop the others
            self.add_file(path)

    def add_file(self, path: Path, folder: Path | None = None) -> None:
        """Add a file, found in a folder or named."""
        # Links are not followed: a link and its target are two names with two outputs.
        self.inputs.setdefault(os.path.abspath(path), Input(path, folder))  # noqa: PTH100

    def add_folder(self, folder: Path) -> None:
        """Add the images in a folder, and what is left out of it."""
        query = self.query
        problems, outputs, unread = len(self.problems), len(self.results), len(self.unread)
        try:
            files = self.list_url(folder) if isinstance(folder, UrlPath) else self.walk(folder)
            suffixes = query.suffixes | PICTURE_SUFFIXES
            pictures = [file for file in files if is_picture(file, suffixes)]
        except OSError as error:
            self.add_error(str(folder), error)
            return
        empty = True
        for picture in sorted(pictures, key=lambda file: [natural_key(p) for p in file.parts]):
            if is_output(picture):
                self.results[picture] = None
            elif picture.suffix.lower() in query.suffixes:
                self.add_file(picture, folder)
                empty = False
            else:
                self.unread[picture] = None
        if empty and not query.may_be_empty and len(self.problems) == problems:
            left_out = len(self.results) - outputs, len(self.unread) - unread
            self.problems.append(_no_images(folder, query.recursive, *left_out))

    def add_error(self, name: str, error: OSError) -> None:
        """Add the problem of a path that cannot be searched."""
        cause = f"cannot be searched ({reason(error)})"
        self.problems.append(Problem(name, cause, "Check the path and its permissions."))

    def walk(self, folder: Path) -> Iterator[Path]:
        """Yield the files in a folder, except in hidden subfolders and folders of outputs."""

        def report(error: OSError) -> None:
            self.add_error(str(error.filename), error)

        left_out = {output.resolve() for output in self.query.outputs}
        visited: set[tuple[int, int]] = set()
        for name, subfolders, files in os.walk(folder, followlinks=True, onerror=report):
            parent = Path(name)
            status = parent.stat()
            if (status.st_dev, status.st_ino) in visited:  # links may form a loop
                self.linked.append(parent)
                subfolders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            # Sorted, because a folder is searched under the first of its links only.
            paths = [
                parent / sub for sub in sorted(subfolders, key=natural_key) if self.query.recursive
            ]
            paths = [
                path for path in paths if path.resolve() not in left_out and not is_hidden(path)
            ]
            named = {path: None for path in paths if is_output_folder(path, exists, is_folder)}
            self.results |= named
            subfolders[:] = [path.name for path in paths if path not in named]
            yield from (parent / file for file in files)

    def list_url(self, folder: UrlPath) -> list[UrlPath]:
        """List the same files as `walk` with a single request."""
        files = folder.files(recursive=self.query.recursive)
        known = {path for file in files for path in (file, *file.parents)}
        below = {path for path in known if folder in path.parents}
        left_out = {path for path in below if path in self.query.outputs or is_hidden(path)}
        named = {
            path: None
            for path in sorted(below - left_out, key=natural_key)
            if left_out.isdisjoint(path.parents)
            and is_output_folder(path, known.__contains__, known.__contains__)
        }
        self.results |= named
        left_out |= named.keys()
        return [file for file in files if left_out.isdisjoint(file.parents)]

    def result(self) -> Inputs:
        """Return what was found, without outputs of other inputs."""
        inputs = self.inputs.values()
        own = _outputs_of_others([image.path for image in inputs if image.path is not None])
        found = [image for image in inputs if image.path not in own]
        folders = {image.folder for image in inputs if image.folder is not None}
        named = self.inputs.keys() | {os.path.abspath(folder) for folder in folders}  # noqa: PTH100
        left_out = [path for path in self.results if os.path.abspath(path) not in named]  # noqa: PTH100
        return Inputs(found, self.problems, list(own), list(self.unread), self.linked, left_out)


def list_images(folder: Path, suffixes: AbstractSet[str], *, recursive: bool = False) -> list[Path]:
    """List the images in a folder in natural order, as `InputQuery.find` does.

    Raises:
        UsageError: the folder does not exist, cannot be searched, or contains no images.
    """
    if not is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of images.")
    inputs = InputQuery((), suffixes, listed=[str(folder)], recursive=recursive).find()
    if inputs.problems:
        name, cause = inputs.problems[0].name, inputs.problems[0].error
        raise UsageError(f"{name}: {cause}", "Name the folder that contains the images.")
    return [image.path for image in inputs.found if image.path is not None]


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
