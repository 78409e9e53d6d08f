"""Test JPEG compression against libjpeg."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restormer_cli.degradations import jpeg, sampling
from restormer_cli.degradations.noise import gaussian_noise
from tests.support.scenes import scene, seeded


def libjpeg(image: Tensor, quality: int, subsampling: int) -> Tensor:
    """Compress and decompress an image (3 H W) with Pillow."""
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with PIL.Image.open(file) as decoded:
        return torch.from_numpy(np.array(decoded)).permute(2, 0, 1).float() / 255


def grainy() -> Tensor:
    return gaussian_noise(scene(1, 96, 80), seeded(), 12.0).clamp(0, 1)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_equals_libjpeg(quality: int) -> None:
    """At full chroma resolution, the mean difference from libjpeg is below 1 of 255."""
    image = grainy()
    ours = jpeg.jpeg(
        image, torch.full((1, 1, 1, 1), float(quality)), torch.zeros(1, 1, 1, 1).bool()
    )
    difference = (ours[0] - libjpeg(image[0], quality, 0)).abs().mean()
    assert difference < 1 / 255
    assert (ours - image).abs().mean() > 3 * difference


def test_jpeg_at_half_chroma_equals_libjpeg() -> None:
    """At 4:2:0, chroma is reduced, coded and enlarged as in libjpeg."""
    image = scene(1, 96, 80)
    ours = jpeg.jpeg(image, torch.full((1, 1, 1, 1), 90.0), torch.ones(1, 1, 1, 1).bool())
    assert (ours[0] - libjpeg(image[0], 90, 2)).abs().mean() < 1 / 255


def test_jpeg_treats_images_of_a_batch_separately() -> None:
    """Each image has its own quality and subsampling, also if its sides are padded."""
    images = torch.cat([grainy(), grainy().flip(3)])[..., :90, :75]
    quality = torch.tensor([40.0, 92.0]).view(2, 1, 1, 1)
    half = torch.tensor([True, False]).view(2, 1, 1, 1)
    together = jpeg.jpeg(images, quality, half)
    for n in range(2):
        alone = jpeg.jpeg(images[n : n + 1], quality[n : n + 1], half[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1.01 / 255, rtol=0)
        assert F.l1_loss(together[n : n + 1], alone) < 1e-4


def test_jpeg_improves_with_quality() -> None:
    """The error decreases with the quality, down to rounding at 100."""
    image = grainy()
    full = torch.zeros(1, 1, 1, 1).bool()
    errors = [
        float(F.mse_loss(jpeg.jpeg(image, torch.full((1, 1, 1, 1), q), full), image))
        for q in (1.0, 10.0, 40.0, 60.0, 90.0, 100.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < (1 / 255) ** 2


def test_half_of_the_images_go_through_jpeg() -> None:
    """About half of the images are compressed."""
    clean = scene(200)
    result = jpeg.maybe_jpeg(sampling.to_8_bit(clean), seeded(), 75)
    packed = (result != sampling.to_8_bit(clean)).flatten(1).any(1)
    assert 70 < packed.sum() < 130
