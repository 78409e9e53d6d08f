"""Arrays of every kind through a network made ready for a task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import restormer_cli
from restormer_cli.errors import CheckpointError, DeviceError, ImageError, UsageError
from restormer_cli.restorer import Restorer


def picture(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
@pytest.mark.parametrize("network_channels", [1, 3])
def test_every_kind_of_array_comes_back(identity, dtype, channels, network_channels):
    """Grey and colour, with and without alpha, 8, 16 bit and float: shape, type and values stay."""
    weights = identity(in_channels=network_channels, out_channels=network_channels)
    restorer = Restorer("denoise", weights=str(weights), device="cpu", precision="fp32")
    image = picture((19, 26, *channels), dtype)
    restored = restorer(image)
    assert restored.dtype == image.dtype
    assert np.array_equal(restored, image)


def test_bf16_loses_nothing_of_the_image(identity):
    """In half precision the image itself is still added in fp32: 16 bits survive."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu", precision="bf16")
    image = picture((24, 24, 3), "uint16")
    assert np.array_equal(restorer(image), image)


def test_float_values_beyond_the_range_pass(identity):
    """What a float image holds beyond 0..1, highlights or negative noise, is not cut off."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu")
    image = picture((16, 16, 3), "float32") * 6 - 2
    assert np.array_equal(restorer(image), image)


def test_a_grey_image_is_restored_as_grey(tiny):
    """A grey image through an RGB network is the mean of what it makes of three equal channels."""
    restorer = Restorer("denoise", weights=str(tiny()), device="cpu", precision="fp32")
    grey = picture((16, 24), "float32")
    colour = restorer(np.repeat(grey[..., None], 3, axis=2))
    assert restorer(grey) == pytest.approx(colour.mean(axis=2), abs=1e-6)


def test_alpha_is_not_restored(tiny):
    """A fourth channel stays as it is, and the others do not see it."""
    restorer = Restorer("denoise", weights=str(tiny()), device="cpu")
    image = picture((16, 24, 4), "uint8")
    restored = restorer(image)
    assert np.array_equal(restored[..., 3], image[..., 3])
    assert np.array_equal(restored[..., :3], restorer(image[..., :3]))


def test_two_views(tiny):
    """A dual-pixel network takes the left and the right view, and needs both."""
    weights = str(tiny(in_channels=6, dual_pixel=True))
    restorer = Restorer("defocus", weights=weights, device="cpu", dual_pixel=True)
    left, right = picture((20, 24, 3), "uint8", 1), picture((20, 24, 3), "uint8", 2)
    restored = restorer(left, right)
    assert restored.shape == left.shape
    assert not np.array_equal(restored, restorer(left, left))
    with pytest.raises(UsageError):
        restorer(left)
    with pytest.raises(ImageError, match="24 x 20"):
        restorer(left, right[:16])


def test_one_view_for_a_network_of_one(tiny):
    """A right view, and weights for two views, are refused where they do not fit."""
    restorer = Restorer("defocus", weights=str(tiny()), device="cpu")
    image = picture((16, 16, 3), "uint8")
    with pytest.raises(UsageError):
        restorer(image, image)
    with pytest.raises(UsageError):
        Restorer("defocus", weights=str(tiny(in_channels=6, dual_pixel=True)), device="cpu")


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
def test_what_is_no_image_is_refused(identity, image):
    """Shapes and types that are no image are an error that says what is."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu")
    with pytest.raises(ImageError, match="is no image"):
        restorer(image)


def test_nan_in_the_image_is_refused(identity):
    """An image that holds NaN is an error, not a black result."""
    restorer = Restorer("denoise", weights=str(identity()), device="cpu")
    image = np.full((16, 16, 3), np.nan, np.float32)
    with pytest.raises(ImageError, match="NaN"):
        restorer(image)


def test_what_is_not_there_is_said():
    """An unknown task, an absent device and unknown weights are named."""
    with pytest.raises(UsageError, match="dehaze"):
        Restorer("dehaze")
    with pytest.raises(DeviceError, match="tpu"):
        Restorer("denoise", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            Restorer("denoise", device="cuda")
    with pytest.raises(CheckpointError):
        Restorer("denoise", weights="no/such/file.pth", device="cpu")


def test_the_python_api_is_importable_by_name(tiny):
    """Restorer, load_network and restore come from the package itself."""
    network = restormer_cli.load_network(str(tiny()))
    x = torch.rand(1, 3, 13, 17)
    assert not network.training
    assert restormer_cli.restore(network, x).shape == x.shape
    assert restormer_cli.Restorer is Restorer
    with pytest.raises(AttributeError):
        restormer_cli.no_such_name  # noqa: B018
