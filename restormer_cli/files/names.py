"""Rules for the names of files and folders: order, pictures, outputs, hidden and system folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from .checks import is_special

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


def natural_key(name: str | os.PathLike[str]) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that puts `2.png` before `10.png`."""
    text = os.fspath(name)
    # The first element separates numbers from words, which cannot be compared.
    pieces = [
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold())
        for piece in re.split(r"(\d+)", text)
    ]
    return pieces, text


def is_picture(file: Path, suffixes: Collection[str]) -> bool:
    """Return True for a file with one of these suffixes that is not hidden."""
    named = file.suffix.lower() in suffixes and not file.name.startswith(".")
    return named and not is_special(file)


def is_output(file: Path) -> bool:
    """Return True if a file is named like an output in the folder of its input."""
    return file.stem.endswith(RESTORED_MARK)


def is_hidden(folder: Path) -> bool:
    """Return True for a hidden folder and for one of a system."""
    return folder.name.startswith(".") or folder.name.casefold() in SYSTEM_FOLDERS


def is_output_folder(
    folder: Path, exists: Callable[[Path], bool], is_folder: Callable[[Path], bool]
) -> bool:
    """Return True if a folder is named like outputs, and its page or input is beside it."""
    name = folder.name
    page, original = name.removesuffix(PAGE_FOLDER_MARK), name.removesuffix(FOLDER_MARK)
    return (page != name and any(exists(folder.with_name(page + s)) for s in PAGE_SUFFIXES)) or (
        original not in (name, "") and is_folder(folder.with_name(original))
    )
