"""Pages of one file: the number that an output can hold, and their common report."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ImageError
from ..imaging import FORMATS, UNDECODED, Array, Change, Image, Noise, Scale

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..imaging import ImageSequence
    from ..inference import Restoration

_ELSEWHERE = "In place they would be lost: write elsewhere."


class Page(NamedTuple):
    """A restored page and its report."""

    image: Image
    original: Array  # the pixels as read, if an observer needs them
    height: int
    width: int
    restoration: Restoration  # without pixels
    noise: Noise | None
    change: Change
    notes: list[str]
    warnings: list[str]
    scale: Scale | None = None  # of float samples

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def without_pixels(self) -> Page:
        """Return the page without its samples, to save memory."""
        image = replace(self.image, pixels=UNDECODED, alpha=None, bands=None)
        return self._replace(image=image, original=UNDECODED)


def count_pages(images: ImageSequence, kind: str, *, in_place: bool) -> tuple[int, list[str]]:
    """Return the number of pages to restore, and a warning if the format cannot hold all pages.

    Raises:
        ImageError: with `in_place`, the output would lose pages or other data of its input.
    """
    if in_place and images.omitted:
        raise ImageError(f"it holds {', and '.join(images.omitted)}", _ELSEWHERE)
    if images.count == 1 or FORMATS[kind].several == images.unit:
        return images.count, []
    text = f"{images.count} {images.unit}s, and {kind} holds one: {images.count - 1} are left out"
    if in_place:
        raise ImageError(text, _ELSEWHERE)
    return 1, [text]


def total_change(pages: list[Page]) -> Change:
    """Return the mean change of all pages, and the largest drift."""
    pixels = sum(page.pixels for page in pages)
    mean = sum(page.change.mean_absolute * page.pixels for page in pages) / pixels
    return Change(mean, max(page.change.drift for page in pages))


def merge_texts(texts_of_pages: Iterable[list[str]]) -> list[str]:
    """Return each text once, preceded by its pages unless it applies to all."""
    pages: dict[str, list[int]] = defaultdict(list)
    count = 0
    for count, texts in enumerate(texts_of_pages, 1):
        for text in dict.fromkeys(texts):
            pages[text].append(count)
    return [
        text if len(numbers) == count else f"{_page_ranges(numbers)}: {text}"
        for text, numbers in pages.items()
    ]


def _page_ranges(numbers: list[int]) -> str:
    """Return ascending page numbers as `page 3` or `pages 1-4, 7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    listed = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in ranges)
    return f"page{'s' if len(numbers) > 1 else ''} {listed}"
