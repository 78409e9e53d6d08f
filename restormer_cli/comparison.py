"""Images compared with one another, whatever made them: on a sheet, or as a page."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__, change, images, looks, sheets
from .errors import ImageError, UsageError
from .inputs import PAGES
from .pixels import Image, to_float
from .report import Report
from .report import check as check_report
from .views import scaled, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .sheets import Panel
    from .views import Box

SHAPE = 0.01
"""How far, as a part of it, the ratio of the sides may be off in an image of another size."""


def check(output: Path, inputs: Sequence[Path]) -> None:
    """See beforehand that the comparison can be written.

    Raises:
        UsageError: it is neither a picture's name nor a page's, or an input's.
    """
    if output.suffix.lower() in PAGES:
        check_report(output)
    elif output.suffix.lower() not in looks.SHEETS:
        known = ", ".join([*looks.SHEETS, PAGES[0]])
        raise UsageError(f"{output}: no comparison can be called so", f"It takes {known}.")
    if output.resolve() in {path.resolve() for path in inputs}:
        raise UsageError(f"{output} is to be compared, and would be replaced", "Name another file.")


def read(before: Path, afters: Sequence[Path], max_pixels: int) -> list[Panel]:
    """The images to compare, all of the size of the first.

    Raises:
        ImageError: one cannot be read, or has another shape.
    """
    first = images.read(before, max_pixels=max_pixels)
    panels = [sheets.Panel(first, "Before", str(before), looks.about(first))]
    for path in afters:
        image = images.read(path, max_pixels=max_pixels)
        about = looks.about(image)
        if size(image) != size(first):
            image = _sized(image, first, path)
            about = f"{about}, scaled to compare"
        panels.append(sheets.Panel(image, "After", str(path), about))
    return panels


def _sized(image: Image, like: Image, path: Path) -> Image:
    """The image scaled to the size of another that has its shape."""
    (width, height), (wide, high) = size(image), size(like)
    if abs(width * high / (height * wide) - 1) > SHAPE:
        raise ImageError(
            f"{path}: {width} x {height} pixels, and {wide} x {high} before: another shape",
            "Cut the images alike.",
        )
    alpha = None if image.alpha is None else scaled(image.alpha, wide, high)
    return replace(image, pixels=scaled(image.pixels, wide, high), alpha=alpha)


def write(panels: Sequence[Panel], output: Path, parts: Sequence[Box] | None) -> None:
    """Write the sheet or, as the name says, the page.

    Raises:
        ImageError: it cannot be written, or a part lies outside the images.
    """
    looks.check_parts(parts, panels[0].image, panels[0].name)
    if output.suffix.lower() not in PAGES:
        looks.write_sheet(sheets.draw(panels[0], panels[1:], parts), output)
        return
    before = panels[0]
    page = Report(output, "Comparison", [])
    for number, after in enumerate(panels[1:]):
        moved = change.measure(to_float(before.image.pixels), to_float(after.image.pixels))
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
