"""Compare images: side by side on a sheet, which is one picture, or on a page with a slider."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from ..errors import ImageError, UsageError
from ..files import PAGE_SUFFIXES, is_foreign
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
from ..text import format_number
from .display import fit_size, image_size, render, resize
from .page import Report, check_page, timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..imaging import Array

    _Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
    _Rows = list[list["_Cell | None"]]

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_SOFTWARE = "restormer comparison sheet"
"""Text in the metadata of sheets, which other pictures do not have."""

_HEAD = 4096
"""Bytes at the start of a PNG or JPEG sheet that contain this text; in WebP it is at the end."""

_ASPECT_TOLERANCE = 0.01  # relative difference up to which an image is scaled to the first
_MAX_WIDTH = 1960  # of a sheet in pixels, unless its columns would be too narrow
_MIN_COLUMN = 280
_MARGIN, _GAP, _FOOTER = 56, 20, 44
_MAX_ASPECT = 1.25  # height of a picture by the width of its column
_MAX_SCALE = 32
_MAX_CROPS, _CROP_SCALE, _CROP_ASPECT = 2, 4, 2 / 3  # of crops that the program chooses
_PAPER, _INK, _FAINT, _RULE, _MARK = "#ffffff", "#1b1c1e", "#6d7178", "#d9dbdf", "#ffffff"
_STYLES = ((25, _INK, 33), (17, _INK, 25), (15, _FAINT, 22))  # size, colour, height of each line
_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf")
_DEPTHS = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating point"}


@dataclass(frozen=True)
class Panel:
    """An image of a comparison, its name, and an optional note about it."""

    image: Image
    name: str
    note: str = ""

    @property
    def details(self) -> str:
        """Size and sample type of the image, and the note."""
        width, height = image_size(self.image)
        text = f"{width} x {height}, {_DEPTHS[self.image.pixels.dtype.name]}"
        return f"{text}, {self.note}" if self.note else text


class _Cell(NamedTuple):
    """A picture of a sheet below its caption: strong, plain and faint, each line optional."""

    picture: PIL.Image.Image
    lines: tuple[str, str, str] = ("", "", "")


def parse_crop(text: str) -> Box:
    """Parse the x,y,width,height of `--crop`.

    Raises:
        UsageError: the text has another form, or the region is empty.
    """
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise UsageError(
            f"--crop {text!r}: not x,y,width,height",
            "Give pixels from the upper left corner, for example 100,80,200,150.",
        )
    box = Box(*map(int, numbers))
    if not (box.width and box.height):
        raise UsageError(f"--crop {text!r}: no pixels", "Give a width and a height of 1 or more.")
    return box


def check_comparison(output: Path, inputs: Sequence[Path]) -> None:
    """Check that a comparison of `inputs` can be written to `output`.

    Raises:
        UsageError: the name is neither that of a sheet nor of a page, it is an input's, or the file
            exists and is neither a sheet nor a report.
    """
    if output.suffix.lower() in PAGE_SUFFIXES:
        check_page(output)
    elif output.suffix.lower() not in SHEET_SUFFIXES:
        supported = ", ".join([*SHEET_SUFFIXES, PAGE_SUFFIXES[0]])
        raise UsageError(
            f"{output}: unsupported format for a comparison", f"Choose one of {supported}."
        )
    if output.resolve() in {path.resolve() for path in inputs}:
        raise UsageError(f"{output}: would overwrite a compared image", "Choose another file.")
    if output.suffix.lower() in SHEET_SUFFIXES:
        check_sheet(output)


def check_sheet(path: Path) -> None:
    """Raise UsageError if a file exists at `path` that is no comparison sheet."""
    within = -1 if path.suffix.lower() == ".webp" else _HEAD
    if is_foreign(path, _SOFTWARE.encode(), within=within):
        raise UsageError(
            f"{path}: exists and is not a comparison sheet of restormer",
            "Choose another path, or remove it.",
        )


def read_panels(before: Path, afters: Sequence[Path], max_pixels: int) -> list[Panel]:
    """Read the images to compare, scaled to the size of the first.

    Raises:
        ImageError: an image cannot be read, or has another aspect ratio.
    """
    first = read_image(before, max_pixels=max_pixels)
    panels = [Panel(first.on_unit_scale(), str(before))]
    for path in afters:
        image, note = read_image(path, max_pixels=max_pixels).on_unit_scale(first), ""
        (width, height), (to_width, to_height) = image_size(image), image_size(first)
        if (width, height) != (to_width, to_height):
            if abs(width * to_height / (height * to_width) - 1) > _ASPECT_TOLERANCE:
                raise ImageError(
                    f"{path}: {width} x {height} pixels, but {before} has {to_width} x {to_height}",
                    "Crop them to the same aspect ratio.",
                )
            alpha = None if image.alpha is None else resize(image.alpha, to_width, to_height)
            image = replace(image, pixels=resize(image.pixels, to_width, to_height), alpha=alpha)
            note = f"scaled from {width} x {height}"
        panels.append(Panel(image, str(path), note))
    return panels


def write_comparison(panels: Sequence[Panel], output: Path, crops: Sequence[Box] | None) -> None:
    """Write a sheet, or a page without `crops`, depending on the suffix of `output`.

    Raises:
        ImageError: the file cannot be written, or a crop lies outside the images.
    """
    if output.suffix.lower() not in PAGE_SUFFIXES:
        write_sheet(output, panels, crops)
        return
    before = panels[0]
    page = Report(output, "Comparison", [])
    for number, after in enumerate(panels[1:]):
        change = measure_change(to_float(before.image.pixels), to_float(after.image.pixels))
        page.previews.write(str(number), before.image, after.image)
        page.image(
            str(number),
            name=after.name,
            facts=[
                after.details,
                f"mean change {format_number(255 * change.mean_absolute, 2)} of 255",
            ],
            change=change.mean_absolute,
            links={"before": before.name, "after": after.name},
        )
    page.write(f"compared with {before.name}; {timestamp()}", [])


def write_sheet(
    path: Path, panels: Sequence[Panel], crops: Sequence[Box] | None = None, footer: str = ""
) -> None:
    """Write a comparison sheet: a column for each image, and its difference to the first.

    Args:
        path: its suffix determines the format.
        panels: two or more images of the same size. The first is "before".
        crops: regions to enlarge below the images; by default those that differ most, if the
            images are large.
        footer: last line of the sheet.

    Raises:
        ImageError: the sheet cannot be written, or a crop lies outside the images.
    """
    width, height = image_size(panels[0].image)
    for crop in crops or ():
        if not crop.inside(width, height):
            raise ImageError(
                f"{panels[0].name}: {width} x {height} pixels do not contain the crop "
                f"{','.join(map(str, crop))}",
                "Give --crop as x,y,width,height in pixels, from the upper left corner.",
            )
    one_result = len(panels) == 2  # its difference has a column, those of several have a row
    columns = len(panels) + one_result
    available = max(_MIN_COLUMN, (_MAX_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns)
    size = _drawn_size(width, height, available)
    column = max(_MIN_COLUMN, size[0])
    if crops is None:
        crops = _find_crops(panels, column)
    images: list[_Cell] = []
    for panel in panels:
        caption = "After" if images else "Before", panel.name, panel.details
        images.append(_Cell(_draw(panel.image, None, size), caption))
    maps = [_difference_cell(panels[0].image, panel.image, size, crops) for panel in panels[1:]]
    rows: _Rows = [[*images, *maps]] if one_result else [[*images], [None, *maps]]
    sheet = _arrange([*rows, *_crop_rows(panels, crops, column)], column, footer)
    make_folder(path.parent)
    image = Image(np.asarray(sheet), texts=(("Software", _SOFTWARE),))
    write_image(image, path, quality=92)


def _drawn_size(width: int, height: int, available: int) -> tuple[int, int]:
    """Return the size, scaled down or up by an integer factor to the available width."""
    max_height = round(available * _MAX_ASPECT)
    scale = min(available // width, max_height // height, _MAX_SCALE)
    if scale >= 1:
        return width * scale, height * scale
    return fit_size(width, height, available, max_height)


def _draw(image: Image, crop: Box | None, size: tuple[int, int]) -> PIL.Image.Image:
    """Return the image or a crop at this size. Enlarging repeats pixels."""
    width, height = crop[2:] if crop else image_size(image)
    picture = render(image, min(width, size[0]), min(height, size[1]), crop)
    return picture.resize(size, PIL.Image.Resampling.NEAREST)


def _find_crops(panels: Sequence[Panel], column: int) -> list[Box]:
    """Return the crops that changed most in the first result that differs from "before"."""
    width = column // _CROP_SCALE
    height = round(width * _CROP_ASPECT)
    total_width, total_height = image_size(panels[0].image)
    if total_width < 2 * width or total_height < 2 * height:  # the sheet shows all details
        return []
    before, *afters = (panel.image.pixels for panel in panels)
    candidates = (most_changed(before, after, width, height, _MAX_CROPS) for after in afters)
    return next(filter(None, candidates), [])


def _difference_cell(
    before: Image, after: Image, size: tuple[int, int], crops: Sequence[Box]
) -> _Cell:
    """Return the difference map, with the crops marked on it."""
    width, height = image_size(before)
    side = max(1, min(width // size[0], height // size[1]))
    differences = block_differences(before.pixels, after.pixels, side)
    factor = amplification(differences)
    picture = _draw_map(differences, factor, size)
    draw = ImageDraw.Draw(picture)
    scale = size[0] / width
    for number, crop in enumerate(crops, start=1):
        edges = crop.x, crop.y, crop.x + crop.width, crop.y + crop.height
        left, top, right, bottom = (round(edge * scale) for edge in edges)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_MARK, width=2)
        draw.text((left + 7, top + 3), str(number), _MARK, _font(17))
    mean = f"mean {format_number(255 * float(differences.mean()), 2)} of 255"
    return _Cell(picture, (_heading(factor), "", mean if factor else "the images are identical"))


def _draw_map(differences: Array, factor: int, size: tuple[int, int]) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(false_colour(differences, factor))
    enlarged = size[0] >= differences.shape[1]
    resampling = PIL.Image.Resampling.NEAREST if enlarged else PIL.Image.Resampling.BOX
    return picture.resize(size, resampling)


def _heading(factor: int) -> str:
    return f"Difference, amplified {factor} times" if factor else "No difference"


def _crop_rows(panels: Sequence[Panel], crops: Sequence[Box], column: int) -> _Rows:
    """Return a row for each crop; with one result also its difference, amplified as in all rows."""
    rows: _Rows = []
    maps: list[Array] = []
    if len(panels) == 2:
        before, after = (panel.image.pixels for panel in panels)
        maps = [block_differences(crop.of(before), crop.of(after), 1) for crop in crops]
    factor = min(map(amplification, maps), default=0)
    for index, crop in enumerate(crops):
        size = _drawn_size(crop.width, crop.height, column)
        details = f"{index + 1}   {crop.width} x {crop.height} pixels at {crop.x}, {crop.y}"
        if size[0] > crop.width:
            details += f", enlarged {size[0] // crop.width} times"
        first, *others = (_draw(panel.image, crop, size) for panel in panels)
        row = [_Cell(first, ("", "", details)), *map(_Cell, others)]
        if maps:
            row.append(_Cell(_draw_map(maps[index], factor, size), ("", "", _heading(factor))))
        rows.append([*row])
    return rows


def _arrange(rows: _Rows, column: int, footer: str) -> PIL.Image.Image:
    """Return the sheet with these rows. The pictures of a row begin at the same height."""
    captions = [max(_caption_height(cell) for cell in row if cell) for row in rows]
    heights = [max(cell.picture.height for cell in row if cell) for row in rows]
    width = 2 * _MARGIN + max(map(len, rows)) * (column + _GAP) - _GAP
    height = 2 * _MARGIN + sum(captions) + sum(heights) + (len(rows) - 1) * _GAP
    sheet = PIL.Image.new("RGB", (width, height + (_FOOTER if footer else 0)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, caption, height in zip(rows, captions, heights, strict=True):
        for number, cell in enumerate(row):
            if cell:
                left = _MARGIN + number * (column + _GAP)
                _write_lines(draw, cell.lines, left, top, column)
                sheet.paste(cell.picture, (left, top + caption))
        top += caption + height + _GAP
    if footer:
        draw.line((_MARGIN, top, width - _MARGIN, top), _RULE)
        _write_lines(draw, ("", "", footer), _MARGIN, top + 14, width - 2 * _MARGIN)
    return sheet


def _caption_height(cell: _Cell) -> int:
    lines = zip(cell.lines, _STYLES, strict=True)
    return sum(height for text, (_, _, height) in lines if text) + 8


def _write_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int, width: int
) -> None:
    for text, (points, colour, height) in zip(lines, _STYLES, strict=True):
        if text:
            font = _font(points, ascii_only=text.isascii())
            draw.text((left, top), _shorten(text, width, font), colour, font)
            top += height


def _shorten(text: str, width: int, font: _Font) -> str:
    """Return the text with its middle shortened to fit the width."""
    keep = len(text)
    shortened = text
    while font.getlength(shortened) > width and keep > 2:
        keep -= 1
        shortened = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
    return shortened


@lru_cache
def _font(points: int, *, ascii_only: bool = True) -> _Font:
    """Return Pillow's own font, or a system font for text with characters beyond ASCII."""
    for name in () if ascii_only else _SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, points)
    return ImageFont.load_default(points)
