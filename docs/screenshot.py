"""Make the README's picture of a report: `python docs/screenshot.py FOLDER PHOTO...`.

The photos, from Debian's lomiri-wallpapers, are given a camera's noise, restored with the lite
weights into FOLDER, and the report of that is opened in Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from restormer_cli import cli, images
from restormer_cli.degradations import camera_noise
from restormer_cli.images import Image

DOCS = Path(__file__).parent


def degrade(photos: list[str], folder: Path) -> None:
    """Write the photos with noise, each with its own seed, as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, photo in enumerate(photos):
        clean = torch.from_numpy(images.to_float(images.read(Path(photo)).pixels))
        generator = torch.Generator().manual_seed(seed)
        noisy = camera_noise(clean.permute(2, 0, 1).unsqueeze(0), generator)[0]
        pixels = images.from_float(noisy.permute(1, 2, 0).numpy(), "uint8")
        images.write(Image(pixels), folder / Path(photo).name.lower(), quality=95)


def photograph(page: Path) -> None:
    """The report in its gallery and, of one image, before and after."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.goto(page.absolute().as_uri())
        tab.locator(".card").first.click()
        tab.wait_for_timeout(500)
        tab.screenshot(path=DOCS / "report.jpg", quality=80, type="jpeg")
        browser.close()


def main() -> None:
    """Degrade, restore, photograph."""
    folder = Path(sys.argv[1])
    degrade(sys.argv[2:], folder / "holiday")
    arguments = ["denoise", folder / "holiday", "--weights", "lite", "--report"]
    try:
        cli.main([str(argument) for argument in [*arguments, folder / "report.html"]])
    except SystemExit as left:
        if left.code:
            raise
    photograph(folder / "report.html")


if __name__ == "__main__":
    main()
