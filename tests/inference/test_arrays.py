"""Test the errors for arrays and tensors that cannot be restored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import restormer_cli
from restormer_cli.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_ARRAYS = {
    "PIL.Image.Image": Image.new("RGB", (16, 16)),
    "str": "photo.png",
    "list": [[0, 1]],
    "torch.Tensor": torch.zeros(1, 3, 16, 16),
    "NoneType": None,
}


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4, 4), np.int32),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["five channels", "int32", "one axis", "empty"],
)
def test_unsupported_arrays_are_rejected(identity: Callable[..., Path], image: np.ndarray) -> None:
    """Unsupported shapes and types raise an error."""
    restorer = restormer_cli.Restorer("denoise", weights=str(identity()), device="cpu")
    with pytest.raises(ImageError, match="cannot restore an array"):
        restorer(image)


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_what_is_no_array_is_rejected(identity: Callable[..., Path], name: str) -> None:
    """The error names the type, and a traceback shows what to pass instead."""
    restorer = restormer_cli.Restorer("denoise", weights=str(identity()), device="cpu")
    value: Any = NO_ARRAYS[name]
    with pytest.raises(ImageError) as raised:
        restorer(value)
    error = str(raised.value)
    assert error.startswith(f"cannot restore a value of type {name}\nhint: Pass a NumPy array")


@pytest.mark.parametrize("name", [name for name in NO_ARRAYS if name != "NoneType"])
def test_a_right_view_that_is_no_array_is_rejected(tiny: Callable[..., Path], name: str) -> None:
    """The error names the view, for images in and beyond 0..1."""
    weights = str(tiny(in_channels=6, dual_pixel=True))
    restorer = restormer_cli.Restorer("defocus", weights=weights, device="cpu", dual_pixel=True)
    value: Any = NO_ARRAYS[name]
    for white in (1, 255):
        left = np.full((16, 16, 3), white, np.float32)
        with pytest.raises(ImageError, match=f"the right view: cannot .* type {re.escape(name)}"):
            restorer(left, value)


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (np.zeros((1, 3, 16, 16), np.float32), "a value of type numpy.ndarray"),
        (torch.zeros(3, 16, 16), "a tensor of shape (3, 16, 16) and type torch.float32"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "and type torch.uint8"),
    ],
    ids=["array", "three axes", "uint8"],
)
def test_only_tensors_of_images_are_restored(
    tiny: Callable[..., Path], value: Any, described: str
) -> None:
    """`restore` describes what it got, and says what to pass."""
    network = restormer_cli.load_network(str(tiny()))
    with pytest.raises(ImageError, match=re.escape(described)) as raised:
        restormer_cli.restore(network, value)
    assert "B C H W" in raised.value.hint
