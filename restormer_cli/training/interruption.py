"""Let Ctrl-C and SIGTERM end a run between two steps, so that its state can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Requests of signals that a run should end.

    Attributes:
        requested: True after the first signal.
    """

    def __init__(self, *, alone: bool) -> None:
        """`alone` means that no other process takes part in the run."""
        self.requested = False
        self._alone = alone

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals that would raise KeyboardInterrupt only request the end.

        Signals that are handled otherwise or ignored stay so. Only the main thread handles signals.
        """
        raising = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if threading.current_thread() is threading.main_thread()
            and signal.getsignal(number) is signal.default_int_handler
        ]
        for number in raising:
            signal.signal(number, self._request)
        try:
            yield
        finally:
            for number in raising:
                signal.signal(number, signal.default_int_handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        # Under torchrun, one Ctrl-C comes twice, from the terminal and from torchrun. Otherwise a
        # second one does not wait for the step.
        if self.requested and self._alone:
            signal.default_int_handler(number, frame)
        self.requested = True
