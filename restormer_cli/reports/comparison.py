"""Images compared with one another, whatever made them: on a sheet, or as a page."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from .._version import __version__
from ..errors import ImageError, UsageError
from ..files import PAGE_SUFFIXES
from ..imaging import (
    Box,
    Image,
    amplification,
    block_differences,
    false_colour,
    make_folder,
    measure_change,
    most_changed,
    read_image,
    to_float,
    write_image,
)
from .display import fit_size, image_size, render, resize
from .page import Report
from .page import check_page as check_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..imaging import Array, Box, Image


# --- sheets --------------------------------------------------------------------------------------

WIDTH = 1960
"""What a sheet is wide at most, in pixels, unless its columns would become too narrow."""

NARROWEST = 280
PARTS = 2
"""How many parts are enlarged, if they are not named."""

_MARGIN, _GAP = 56, 20
_TALLEST = 1.25  # height of a picture, by the width that its column may have
_ENLARGED = 4  # pixels of the sheet a side for each of a part's
_LARGEST = 32  # likewise at most
_SHAPE = 2 / 3  # height of a part by its width
_PAPER, _INK, _FAINT, _LINE = "#ffffff", "#1b1c1e", "#6d7178", "#d9dbdf"
_MARK = "#ffffff"
_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf")


@dataclass(frozen=True)
class Panel:
    """An image with what is written over it: its part in the comparison, and what it is."""

    image: Image
    heading: str
    name: str
    about: str = ""


@dataclass(frozen=True)
class _Cell:
    """A picture of the sheet, with up to three lines over it: strong, plain and faint."""

    picture: PIL.Image.Image
    lines: tuple[str, str, str] = ("", "", "")


_STYLES = ((25, _INK, 33), (17, _INK, 25), (15, _FAINT, 22))  # size, colour, height of each line


def draw_sheet(
    before: Panel, afters: Sequence[Panel], parts: Sequence[Box] | None = None, footer: str = ""
) -> PIL.Image.Image:
    """The sheet, in RGB: a column for each image, and the difference of each to the first.

    Args:
        before: what the others are compared with.
        afters: images of the same size as it.
        parts: what is enlarged; None: where the images differ most, if they are large enough.
        footer: a line at the end.
    """
    count = 1 + len(afters)
    alone = count == 2  # then the difference has a column of its own, else a row
    columns = count + alone
    room = max(NARROWEST, (WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns)
    shown = _shown(*image_size(before.image), room)
    column = max(NARROWEST, shown[0])

    panels = [before, *afters]
    if parts is None:
        parts = _largest(panels, column)
    wholes = [
        _Cell(_picture(panel.image, None, shown), (panel.heading, panel.name, panel.about))
        for panel in panels
    ]
    maps = [_difference(before.image, after.image, shown, parts) for after in afters]
    rows: list[list[_Cell | None]]
    rows = [[*wholes, *maps]] if alone else [[*wholes], [None, *maps]]
    return _sheet([*rows, *_rows(panels, parts, column)], column, footer)


def _shown(width: int, height: int, room: int) -> tuple[int, int]:
    """What an image of this size is drawn at: enlarged by a whole number, or scaled down."""
    tallest = round(room * _TALLEST)
    factor = min(room // width, tallest // height, _LARGEST)
    if factor >= 1:
        return width * factor, height * factor
    return fit_size(width, height, room, tallest)


def _picture(image: Image, part: Box | None, shown: tuple[int, int]) -> PIL.Image.Image:
    """A view whose pixels, if it is enlarged, stay squares."""
    width, height = part[2:] if part else image_size(image)
    picture = render(image, min(width, shown[0]), min(height, shown[1]), part)
    return picture.resize(shown, PIL.Image.Resampling.NEAREST)


def _largest(panels: Sequence[Panel], column: int) -> list[Box]:
    """The parts in which the first of the others that differs at all differs most."""
    width = column // _ENLARGED
    height = round(width * _SHAPE)
    across, down = image_size(panels[0].image)
    if across < 2 * width or down < 2 * height:  # to be seen as it is
        return []
    before, *afters = (panel.image.pixels for panel in panels)
    found = (most_changed(before, after, width, height, PARTS) for after in afters)
    return next(filter(None, found), [])


def _difference(before: Image, after: Image, shown: tuple[int, int], parts: Sequence[Box]) -> _Cell:
    """The map of a difference, with the parts that are enlarged marked on it."""
    width, height = image_size(before)
    side = max(1, min(width // shown[0], height // shown[1]))
    cells = block_differences(before.pixels, after.pixels, side)
    factor = amplification(cells)
    picture = _map(cells, factor, shown)
    ink = ImageDraw.Draw(picture)
    scale = shown[0] / width
    for number, part in enumerate(parts, start=1):
        left, top, right, bottom = (
            round(at * scale) for at in (part.x, part.y, part.x + part.width, part.y + part.height)
        )
        ink.rectangle((left, top, right - 1, bottom - 1), outline=_MARK, width=2)
        ink.text((left + 7, top + 3), str(number), _MARK, _font(17))
    mean = 255 * float(cells.mean())
    about = f"on average {mean:.2g} of 255" if factor else "the images are equal"
    return _Cell(picture, (_amplified(factor), "", about))


def _map(cells: Array, factor: int, shown: tuple[int, int]) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(false_colour(cells, factor))
    how = PIL.Image.Resampling
    return picture.resize(shown, how.NEAREST if shown[0] >= cells.shape[1] else how.BOX)


def _amplified(factor: int) -> str:
    return f"Difference, {factor} times" if factor else "No difference"


def _rows(panels: Sequence[Panel], parts: Sequence[Box], column: int) -> list[list[_Cell | None]]:
    """The parts of every image, enlarged; of two images with their differences, amplified alike."""
    rows: list[list[_Cell | None]] = []
    sizes = [_shown(part.width, part.height, column) for part in parts]
    for number, (part, shown) in enumerate(zip(parts, sizes, strict=True), start=1):
        enlarged = shown[0] // part.width
        place = f"{number}   {part.width} x {part.height} pixels at {part.x}, {part.y}"
        about = f"{place}, enlarged {enlarged} times" if enlarged > 1 else place
        rows.append(
            [
                _Cell(_picture(panel.image, part, shown), ("", "", "" if at else about))
                for at, panel in enumerate(panels)
            ]
        )
    if len(panels) == 2:
        one, other = (panel.image.pixels for panel in panels)
        maps = [block_differences(part.of(one), part.of(other), 1) for part in parts]
        factor = min(map(amplification, maps), default=0)
        for row, cells, shown in zip(rows, maps, sizes, strict=True):
            row.append(_Cell(_map(cells, factor, shown), ("", "", _amplified(factor))))
    return rows


# --- on paper ------------------------------------------------------------------------------------


@lru_cache
def _font(points: int, *, plain: bool = True) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, which has little beyond ASCII; for other names what the system has."""
    for name in () if plain else _SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, points)
    return ImageFont.load_default(points)


def _sheet(rows: Sequence[Sequence[_Cell | None]], column: int, footer: str) -> PIL.Image.Image:
    """The rows of cells under each other, each as high as its highest picture and its lines."""
    heads = [_head(row) for row in rows]
    highest = [max(cell.picture.height for cell in row if cell) for row in rows]
    columns = max(map(len, rows))
    width = 2 * _MARGIN + columns * column + (columns - 1) * _GAP
    height = 2 * _MARGIN + sum(heads) + sum(highest) + (len(rows) - 1) * _GAP
    sheet = PIL.Image.new("RGB", (width, height + (44 if footer else 0)), _PAPER)
    ink = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, head, high in zip(rows, heads, highest, strict=True):
        for at, cell in enumerate(row):
            if cell is not None:
                left = _MARGIN + at * (column + _GAP)
                _write(ink, cell.lines, left, top, column)
                sheet.paste(cell.picture, (left, top + head))
        top += head + high + _GAP
    if footer:
        ink.line((_MARGIN, top, width - _MARGIN, top), _LINE)
        _write(ink, ("", "", footer), _MARGIN, top + 14, width - 2 * _MARGIN)
    return sheet


def _head(row: Sequence[_Cell | None]) -> int:
    """How high the lines are that any cell of a row has."""
    written = [
        any(cell.lines[at] for cell in row if cell is not None) for at in range(len(_STYLES))
    ]
    heights = [high for there, (_, _, high) in zip(written, _STYLES, strict=True) if there]
    return sum(heights) + (8 if heights else 0)


def _write(
    ink: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int, column: int
) -> None:
    for line, (points, colour, high) in zip(lines, _STYLES, strict=True):
        if line:
            font = _font(points, plain=line.isascii())
            ink.text((left, top), _short(line, column, font), colour, font)
            top += high


def _short(text: str, room: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`text` with so much of its middle left out that it fits."""
    keep = len(text)
    shown = text
    while font.getlength(shown) > room and keep > 2:
        keep -= 1
        shown = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
    return shown


# --- comparison ----------------------------------------------------------------------------------

SHAPE = 0.01
"""How far, as a part of it, the ratio of the sides may be off in an image of another size."""


def check_comparison(output: Path, inputs: Sequence[Path]) -> None:
    """See beforehand that the comparison can be written.

    Raises:
        UsageError: it is neither a picture's name nor a page's, or an input's.
    """
    if output.suffix.lower() in PAGE_SUFFIXES:
        check_report(output)
    elif output.suffix.lower() not in SHEET_SUFFIXES:
        known = ", ".join([*SHEET_SUFFIXES, PAGE_SUFFIXES[0]])
        raise UsageError(f"{output}: no comparison can be called so", f"It takes {known}.")
    if output.resolve() in {path.resolve() for path in inputs}:
        raise UsageError(f"{output} is to be compared, and would be replaced", "Name another file.")


def read_panels(before: Path, afters: Sequence[Path], max_pixels: int) -> list[Panel]:
    """The images to compare, all of the size of the first.

    Raises:
        ImageError: one cannot be read, or has another shape.
    """
    first = read_image(before, max_pixels=max_pixels)
    panels = [Panel(first, "Before", str(before), describe_image(first))]
    for path in afters:
        image = read_image(path, max_pixels=max_pixels)
        about = describe_image(image)
        if image_size(image) != image_size(first):
            image = _sized(image, first, path)
            about = f"{about}, scaled to compare"
        panels.append(Panel(image, "After", str(path), about))
    return panels


def _sized(image: Image, like: Image, path: Path) -> Image:
    """The image scaled to the size of another that has its shape."""
    (width, height), (wide, high) = image_size(image), image_size(like)
    if abs(width * high / (height * wide) - 1) > SHAPE:
        raise ImageError(
            f"{path}: {width} x {height} pixels, and {wide} x {high} before: another shape",
            "Cut the images alike.",
        )
    alpha = None if image.alpha is None else resize(image.alpha, wide, high)
    return replace(image, pixels=resize(image.pixels, wide, high), alpha=alpha)


def write_comparison(panels: Sequence[Panel], output: Path, parts: Sequence[Box] | None) -> None:
    """Write the sheet or, as the name says, the page.

    Raises:
        ImageError: it cannot be written, or a part lies outside the images.
    """
    check_parts(parts, panels[0].image, panels[0].name)
    if output.suffix.lower() not in PAGE_SUFFIXES:
        write_sheet(draw_sheet(panels[0], panels[1:], parts), output)
        return
    before = panels[0]
    page = Report(output, "Comparison", [])
    for number, after in enumerate(panels[1:]):
        moved = measure_change(to_float(before.image.pixels), to_float(after.image.pixels))
        page.previews.write(str(number), before.image, after.image)
        page.image(
            str(number),
            name=after.name,
            facts=[after.about, f"{255 * moved.mean_absolute:.2g} of 255 changed on average"],
            change=moved.mean_absolute,
            links={"before": before.name, "after": after.name},
        )
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    page.write(f"with {before.name}; {when}, restormer {__version__}", [])


SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


_DEPTHS = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating point"}


def describe_image(image: Image) -> str:
    """Its size and its samples."""
    width, height = image_size(image)
    return f"{width} x {height}, {_DEPTHS[image.pixels.dtype.name]}"


def check_parts(parts: Iterable[Box] | None, image: Image, name: str) -> None:
    """See that an image has all the parts that are asked for.

    Raises:
        ImageError: one lies outside.
    """
    width, height = image_size(image)
    for part in parts or ():
        if not part.inside(width, height):
            raise ImageError(
                f"{name}: {width} x {height} pixels have no part {','.join(map(str, part))}",
                "--crop takes x,y,width,height in pixels from the upper left corner.",
            )


def write_sheet(sheet: object, path: Path) -> None:
    """Write a sheet, whole, in the format that its name says.

    Raises:
        ImageError: it cannot be written.
    """
    make_folder(path.parent)
    write_image(Image(np.asarray(sheet)), path, quality=92)


def parse_crop(text: str) -> Box:
    """A part of an image as `--crop` takes it: x,y,width,height.

    Raises:
        UsageError: it is none.
    """
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise UsageError(
            f"--crop is {text!r}", "It takes x,y,width,height in pixels, such as 100,80,200,150."
        )
    return Box(*map(int, numbers))
