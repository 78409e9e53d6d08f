"""Make the README's picture of a report.

    python tools/screenshot.py FOLDER PHOTO...

The photos get the noise of a high-ISO exposure and are restored into FOLDER with the lite weights.
Chromium takes two screenshots of the report: the overview, and one image before and after. The
README uses dragonfly and wren (CC0, from budgie-backgrounds) and windmill and lake (Unsplash, from
elementary's wallpapers), scaled to 1100 pixels a side and held out from training.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from pictures import noisy
from playwright.sync_api import sync_playwright

from restormer_cli.cli import main as restormer
from restormer_cli.imaging import Image, read_image, write_image

DOCS = Path(__file__).absolute().parents[1] / "docs"
WIDTH, HEIGHTS, GAP = 1100, (590, 650), 12
SHOWN = 0  # index of the image that is opened


def degrade(photos: list[Path]) -> None:
    """Write the photos with noise, as JPEG."""
    Path("holiday").mkdir(exist_ok=True)
    for photo in photos:
        image = Image(noisy(read_image(photo).pixels))
        write_image(image, Path("holiday", f"{photo.stem}.jpg"), quality=95)


def take_screenshot() -> None:
    """Write the overview of the report and, below it, one of its images."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHTS[0]})
        tab.goto(Path("report.html").absolute().as_uri())
        tab.wait_for_timeout(500)
        tab.screenshot(path="page.png")
        tab.set_viewport_size({"width": WIDTH, "height": HEIGHTS[1]})
        tab.locator(".card").nth(SHOWN).click()
        tab.wait_for_timeout(500)
        tab.screenshot(path="viewer.png")
        browser.close()
    page, viewer = (read_image(Path(name)).pixels for name in ("page.png", "viewer.png"))
    gap = np.full((GAP, WIDTH, 3), 128, np.uint8)
    write_image(Image(np.concatenate([page, gap, viewer])), DOCS / "report.jpg", quality=74)


def main() -> None:
    """Degrade and restore the photos, and take the screenshots."""
    if len(sys.argv) < 3 or "--help" in sys.argv:
        sys.exit(__doc__)
    photos = [Path(photo).absolute() for photo in sys.argv[2:]]
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    degrade(photos)
    try:
        restormer(["denoise", "holiday", "--weights", "lite", "--report", "report.html"])
    except SystemExit as exit_:
        if exit_.code:
            raise
    take_screenshot()


if __name__ == "__main__":
    main()
