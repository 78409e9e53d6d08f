"""Errors that `restormer` raises on purpose, each with its cause and its remedy.

`cli.main` prints such an error once, as one line and a hint, and exits with its `exit_status`.
"""


class RestormerError(Exception):
    """Base class of all errors that a user can act on.

    Attributes:
        message: the thing that failed and the cause.
        hint: a sentence with the remedy; empty if there is none.
        exit_status: exit status of the process; set to 1 if images were restored before.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, and the hint on a second line: what a traceback shows."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ImageError(RestormerError):
    """One image could not be read, restored or written; a batch continues with the next."""


class DamagedError(ImageError):
    """An image file is damaged, truncated or empty."""


class DiskFullError(RestormerError):
    """The disk is full, which ends a run."""


class UsageError(RestormerError):
    """The request is invalid."""

    exit_status = 2


class CheckpointError(RestormerError):
    """A checkpoint is missing, invalid, or unsuitable for the task."""

    exit_status = 3


class DeviceError(RestormerError):
    """The requested device is missing or does not support the request."""

    exit_status = 3
