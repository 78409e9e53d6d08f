"""A finished folder, told by its records: what each output was made of, and whether it still is."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from . import images, records, urls
from .errors import ImageError, UsageError
from .events import Restored, Weights
from .inputs import is_folder, is_there, natural
from .records import Fingerprint, Records, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pixels import Image
    from .records import Line

LOST = "its input is no longer there, or no longer what it was: only the result is shown"
EDITED = "it was changed after it was written"


@dataclass(frozen=True)
class Output:
    """An output, and the newest line about it."""

    path: Path
    line: Line

    def event(self) -> Restored:
        """What was told when it was restored, with the notes of today.

        Raises:
            ImageError: it is gone, or its record has not all of that.
        """
        if not is_there(self.path):
            raise ImageError("the output is no longer there", "Restore the image again.")
        names = {"input": self.line["input"]["name"], "output": str(self.path)}
        try:
            told = {f.name: self.line[f.name] for f in fields(Restored)} | names
            return Restored(**told | {"weights": Weights(**told["weights"])})
        except (KeyError, TypeError) as error:
            raise ImageError("the record does not tell how it was made") from error

    def input(self) -> Path | None:
        """The file that it was made of, if it is there and has not changed.

        Its name is relative to where the run was started: that is here, or above the output.
        """
        name, made_of = self.line["input"]["name"], fingerprint(self.line, "input")
        above = (folder / name for folder in self.path.absolute().parents)
        named = []
        with suppress(UsageError):  # a URL, of a kind that cannot be reached from here
            named.append(urls.path(name))
        return next((path for path in (*named, *above) if _is(made_of, path)), None)

    def read(self, source: Path | None, max_pixels: int) -> tuple[Image | None, Image, list[str]]:
        """Its input, if that can be shown beside it, and itself, with what is odd about them.

        Raises:
            ImageError: the output cannot be read.
        """
        odd = [] if _is(fingerprint(self.line, "output"), self.path) else [EDITED]
        after = images.read(self.path, max_pixels=max_pixels)
        if source is None:
            return None, after, [*odd, LOST]
        before = images.read(source, max_pixels=max_pixels)
        alike = before.pixels.shape[:2] == after.pixels.shape[:2]  # else it was edited
        return before if alike else None, after, odd


def _is(made_of: Fingerprint, path: Path) -> bool:
    return is_there(path) and path.is_file() and made_of.fits(path)


def outputs(folder: Path, past: Records) -> list[Output]:
    """All outputs that the records in a folder, and below it, tell of, in natural order.

    Raises:
        UsageError: it is no folder, or there is no record.
    """
    if not is_folder(folder):
        raise UsageError(f"{folder}: no such folder", "Name a folder of restored images.")
    found = [
        Output(path, lines[0]) for below in _recorded(folder) for path, lines in past.of(below)
    ]
    if not found:
        raise UsageError(
            f"{folder} has no record ({records.NAME}) of what was restored",
            "A run over a folder leaves one; of other images, restormer compare makes a page.",
        )
    return sorted(found, key=lambda output: [natural(part) for part in output.path.parts])


def _recorded(folder: Path) -> Iterator[Path]:
    for name, _, files in os.walk(folder):
        if records.NAME in files:
            yield Path(name)
