"""Pages of one file: how they are read, which an output can hold, and their common report."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ImageError
from ..imaging import (
    FORMATS,
    UNDECODED,
    Array,
    Change,
    Image,
    Noise,
    Scale,
    check_side,
    decode,
    estimate_noise,
    fit,
    output_format,
    requested_format,
)
from ..memory import MemoryGuard
from ..text import counted
from .masks import check_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..imaging import ImageSequence, NetworkView
    from ..inference import Restoration
    from .jobs import BatchConfig, Job
    from .masks import Mask

_NAMES = {"heif": "HEIF", "raw": "camera raw file", "webp": "WebP", "jpeg2000": "JPEG 2000"}
"""Names of formats in messages; all others are in upper case."""


class DecodedPage(NamedTuple):
    """A page to restore."""

    image: Image
    right: Array | None  # the pixels of its right view
    mask: Array | None
    noise: Noise | None  # estimated, only for denoising

    @property
    def scale(self) -> Scale | None:
        """Scale of float samples, None for integers."""
        return self.image.scale if self.image.pixels.dtype.kind == "f" else None


class PreparedPage(NamedTuple):
    """A page as the network sees it."""

    number: int
    decoded: DecodedPage
    view: NetworkView


class ComputedPage(NamedTuple):
    """A page and the network's answer."""

    prepared: PreparedPage
    result: Restoration


@dataclass
class OpenedImage:
    """An image whose pages are decoded on demand."""

    in_place: bool
    kind: str  # the output's format
    total: int  # pages to restore
    pages: Iterator[DecodedPage]
    notes: list[str]
    warnings: list[str]


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


def open_image(
    job: Job,
    task: str,
    config: BatchConfig,
    data: bytes,
    right: bytes | None = None,
    mask: Mask | None = None,
) -> OpenedImage:
    """Decode the files of a job: its image and, if they are given, its right view and its mask.

    Raises:
        ImageError: a file cannot be decoded, they do not fit one another, or the output cannot
            hold the image. It is raised here or while iterating over the pages.
    """
    requested, in_place = requested_format(job.target, job.format), job.in_place
    images = _decode(data, config, job.names[0], requested)
    kind, notes = output_format(job.target, job.format, images.format)
    total, warnings = count_pages(images, kind, in_place=in_place)
    rights: Iterator[Array | None] = repeat(None)
    if right is not None:
        views = _decode(right, config, str(job.right), requested)
        if views.count != images.count:
            unit = images.unit
            raise ImageError(f"it has {images.count} {unit}s, its right view {views.count}")
        rights = (view.display_pixels() for view in views.images)
    masks: Iterator[Array | None] = repeat(None)
    if mask is not None:
        masks = mask.pages(images.count)

    def decode_pages() -> Iterator[DecodedPage]:
        decoded = zip(islice(images.images, total), rights, masks, strict=False)
        for number, (image, view, weights) in enumerate(decoded):
            with named_page(number + 1, total):
                check_page(image, kind, in_place=in_place)
                check_mask(weights, image, job.mask)
                check_right(view, image, job.right)
            yield DecodedPage(image, view, weights, _noise(task, job, number, image))

    return OpenedImage(in_place, kind, total, decode_pages(), notes, warnings)


@MemoryGuard("to read it")
def first_noise(data: bytes, config: BatchConfig, name: str) -> Noise | None:
    """Return the estimated noise of the first page of a file; None if it is unknown.

    Raises:
        ImageError: the page cannot be decoded.
    """
    return estimate_noise(next(_decode(data, config, name).images).visible_pixels())


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


def check_right(view: Array | None, image: Image, name: object) -> None:
    """Raise ImageError if the right view has another size than the image."""
    height, width = image.pixels.shape[:2]
    if view is not None and view.shape[:2] != (height, width):
        raise ImageError(
            f"{name}: the right view has {view.shape[1]} x {view.shape[0]} pixels, "
            f"the image {width} x {height}",
            "The two views of a dual-pixel image must have the same size.",
        )


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


def _noise(task: str, job: Job, number: int, image: Image) -> Noise | None:
    """Return the estimated noise of a page (from 0) for denoising, else None."""
    if task != "denoise":
        return None
    return job.noise if job.noise and number == 0 else estimate_noise(image.visible_pixels())


def _decode(data: bytes, config: BatchConfig, name: str, kind: str | None = None) -> ImageSequence:
    """Decode a file within the limits of a run; see `imaging.decode`."""
    return decode(
        data,
        max_pixels=config.max_pixels,
        name=name,
        allow_damaged=config.allow_damaged,
        kind=kind,
    )
