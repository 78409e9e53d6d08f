"""Types of the two callbacks that long operations take."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with a sentence for the user when something did not go as asked."""

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""
