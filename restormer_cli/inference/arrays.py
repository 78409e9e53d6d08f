"""Check the arrays and tensors to restore, and divide arrays into colours and alpha."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..errors import ImageError

DTYPES = ("uint8", "uint16", "float32")
"""Types of arrays that can be restored."""

NOT_FINITE = ("the image contains NaN or infinity", "Replace these values first.")
"""Error and hint for an image that no network can restore."""


def check_array(image: object, name: str = "") -> None:
    """Raise ImageError unless an image, of which `name` is the beginning of errors, is an array."""
    if isinstance(image, np.ndarray):
        return
    raise ImageError(
        f"{name}cannot restore a value of type {_type_name(image)}",
        "Pass a NumPy array, such as numpy.asarray(image) of a PIL image: H W or H W C (1 to 4 "
        f"channels) of {', '.join(DTYPES)}.",
    )


def check_tensor(x: object) -> None:
    """Raise ImageError unless `x` is a tensor of images."""
    if isinstance(x, Tensor) and x.ndim == 4 and x.numel() and x.is_floating_point():
        return
    described = f"a value of type {_type_name(x)}"
    if isinstance(x, Tensor):
        described = f"a tensor of shape {tuple(x.shape)} and type {x.dtype}"
    raise ImageError(
        f"cannot restore {described}",
        "Pass a float tensor B C H W in 0..1. Arrays are restored by `Restorer`.",
    )


def split_alpha(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours, H W C, and the alpha channel, H W 1 or H W 0, of an image.

    Raises:
        ImageError: it is no array, or its shape or type is not supported.
    """
    check_array(image)
    channels = _native(np.atleast_3d(image))
    is_image = image.ndim in (2, 3) and image.size and channels.shape[2] <= 4
    if not is_image or image.dtype.name not in DTYPES:
        raise ImageError(
            f"cannot restore an array of shape {image.shape} and type {image.dtype}",
            f"Pass H W or H W C (1 to 4 channels) of {', '.join(DTYPES)}.",
        )
    alpha = channels[..., 3:] if channels.shape[2] > 2 else channels[..., 1:]
    return channels[..., : channels.shape[2] - alpha.shape[2]], alpha


def right_view(right: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the colours of the right view, H W C; float samples in 0..1.

    Raises:
        ImageError: its size, channels or type do not fit the left view, whose colours are given.
    """
    if right.shape[:2] != colours.shape[:2]:
        raise ImageError(
            f"the left view is {colours.shape[1]} x {colours.shape[0]} pixels, "
            f"the right one {right.shape[1]} x {right.shape[0]}",
            "The two views of a dual-pixel image must have the same size.",
        )
    if right.dtype.name not in DTYPES:
        raise ImageError(
            f"the right view is of type {right.dtype}", "Use the type of the left one."
        )
    right = _native(np.atleast_3d(right)[..., : colours.shape[2]])
    return right.clip(0, 1) if right.dtype == np.float32 else right


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _native(samples: np.ndarray) -> np.ndarray:
    """Return samples in the byte order of this machine, copied if theirs differs."""
    return samples.astype(samples.dtype.newbyteorder("="), copy=False)
