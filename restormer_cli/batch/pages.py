"""Pages of one file: the number that an output can hold, and their common report."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ImageError
from ..imaging import FORMATS, UNDECODED, Array, Change, Image, Noise, Scale, check_side, fit
from ..text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..imaging import ImageSequence
    from ..inference import Restoration

_NAMES = {"heif": "HEIF", "raw": "camera raw file", "webp": "WebP", "jpeg2000": "JPEG 2000"}
"""Names of formats in messages; all others are in upper case."""


class Page(NamedTuple):
    """A restored page and its report."""

    image: Image
    original: Array  # the pixels as read, if an observer needs them
    height: int
    width: int
    restoration: Restoration  # without pixels
    noise: Noise | None
    change: Change
    losses: list[str]
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
    if in_place and images.format != kind:
        raise ImageError(
            f"it is {_with_article(images.format)}, not {_with_article(kind)}",
            "Rename it, or write elsewhere.",
        )
    if images.count == 1 or FORMATS[kind].several == images.unit:
        several = []
    else:
        others = images.count - 1
        left_out = f"{others} {'is' if others == 1 else 'are'} left out"
        several = [f"{counted(images.count, images.unit)}, and {kind} holds one: {left_out}"]
    if in_place:
        refuse_losses([*(f"{content}: left out" for content in images.omitted), *several])
    return 1 if several else images.count, several


def check_page(image: Image, kind: str, *, in_place: bool) -> None:
    """Check before the restoration that the format can hold a decoded page.

    Raises:
        ImageError: the page is too large or, with `in_place`, the output would lose a part of it.
    """
    check_side(image, kind)
    if in_place:
        damage = [] if image.damage is None else [f"damaged: {image.damage}"]
        refuse_losses([*damage, *image.losses, *fit(image, kind).losses])


def refuse_losses(losses: list[str]) -> None:
    """Raise ImageError if there are losses: an output in place must hold all of its input."""
    if losses:
        raise ImageError(
            f"in place something would be lost: {'; '.join(losses)}",
            "Write elsewhere, with -o.",
        )


def _with_article(kind: str) -> str:
    name = _NAMES.get(kind, kind.upper())
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


@contextmanager
def named_page(number: int, total: int) -> Iterator[None]:
    """Let errors name the page if there are several."""
    try:
        yield
    except ImageError as error:
        if total == 1:
            raise
        raise ImageError(f"page {number}: {error.message}", error.hint) from error


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
