"""What can go wrong, in words a user can act on.

Every error that `restormer` raises on purpose says what happened to which thing
(`message`) and what to do about it (`hint`). `cli.main` shows it once, as one line and a
hint, and leaves with the class's `exit_status`.
"""


class RestormerError(Exception):
    """A failure with its remedy; `exit_status` is what the process returns for it."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ImageError(RestormerError):
    """One image could not be read, restored or written; the others go on."""


class DamagedError(ImageError):
    """An image file is damaged, cut off or empty."""


class UsageError(RestormerError):
    """The request makes no sense as it stands; nothing was touched."""

    exit_status = 2


class CheckpointError(RestormerError):
    """A checkpoint cannot be had, is not what it should be, or does not fit the task."""

    exit_status = 3


class DeviceError(RestormerError):
    """The device that was asked for is not there, or cannot do what was asked."""

    exit_status = 3
