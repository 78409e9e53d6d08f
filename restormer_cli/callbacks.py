"""Types of the callbacks that long operations take."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[str], None]
"""Called with a sentence for the user when a fallback is used or an input is left out."""

Progress = Callable[[int, int], None]
"""Called with the number of finished steps and the total."""
