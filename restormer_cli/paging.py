"""Pages of one file: how many of them an output holds, and what is said of them together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .change import Change
from .containers import FORMATS
from .errors import ImageError
from .pixels import UNDECODED, Array, Image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .events import Noise
    from .pixels import Pictures
    from .restorer import Restoration


_WRITE_ELSEWHERE = "In place they would be lost: write elsewhere."


class Page(NamedTuple):
    """A restored page, and what there is to say of it."""

    image: Image
    height: int
    width: int
    restoration: Restoration  # without its pixels
    noise: Noise | None
    change: Change
    notes: list[str]
    warnings: list[str]
    original: Array  # its pixels as they were read, if it is looked at

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.height * self.width

    def without_pixels(self) -> Page:
        """What there is to say of it, alone."""
        image = replace(self.image, pixels=UNDECODED)
        return self._replace(image=image, original=UNDECODED)


def held(found: Pictures, kind: str, *, in_place: bool = False) -> tuple[int, list[str]]:
    """How many of a file's pages an output of this format holds, and what to say of the others.

    Raises:
        ImageError: with `in_place` the others, or what the file holds besides, would be lost.
    """
    if in_place and found.besides:
        raise ImageError(f"it holds {', and '.join(found.besides)}", _WRITE_ELSEWHERE)
    if found.count == 1 or FORMATS[kind].several == found.unit:
        return found.count, []
    text = f"{found.count} {found.unit}s, and {kind} holds one: {found.count - 1} are left out"
    if in_place:
        raise ImageError(text, _WRITE_ELSEWHERE)
    return 1, [text]


def together(pages: list[Page]) -> Change:
    """The mean change of all, and the drift of the page that drifts most."""
    pixels = sum(page.pixels for page in pages)
    mean = sum(page.change.mean_absolute * page.pixels for page in pages) / pixels
    return Change(mean, max(page.change.drift for page in pages))


def said(of_each: Iterable[list[str]]) -> list[str]:
    """What is said of each page, once: with the pages, if it is not true of all of them."""
    pages: dict[str, list[int]] = defaultdict(list)
    count = 0
    for count, texts in enumerate(of_each, 1):
        for text in dict.fromkeys(texts):
            pages[text].append(count)
    return [text if len(of) == count else f"{_named(of)}: {text}" for text, of in pages.items()]


def _named(numbers: list[int]) -> str:
    """`page 3` or `pages 1-4, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    listed = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
    return f"page{'s' if len(numbers) > 1 else ''} {listed}"
