"""Real Chromium for the tests of pages."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def launch() -> Iterator[Any]:
    """Start a headless Chromium with a temporary profile, or skip the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    # On some systems this is a stub that only explains how to install the browser.
    if path is None or subprocess.run([path, "--version"], capture_output=True).returncode:  # noqa: S603
        pytest.skip(f"there is no browser ({', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


def until(tab: Any, condition: str) -> None:
    """Wait for a condition. It is polled here because the page's policy forbids `eval`."""
    deadline = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(20)


def watch(tab: Any, problems: list[str], *allowed: str) -> None:
    """Add errors, dialogs and requests to addresses that do not start with `allowed`."""
    tab.set_default_timeout(10_000)
    tab.on("console", lambda message: problems.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    tab.on(
        "request",
        lambda request: (
            request.url.startswith(allowed) or problems.append(f"request: {request.url}")
        ),
    )
