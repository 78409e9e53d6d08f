"""Training pairs and the validation set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from restormer_cli.degradations.noise import blind_gaussian_noise
from restormer_cli.degradations.sampling import reflected
from restormer_cli.training.dataset import Sample, load_photos
from restormer_cli.training.pairs import SampleSpec, validation_set
from restormer_cli.training.patches import PhotoBuffer


def test_both_images_of_a_pair_are_cut_and_rotated_alike(photos: Path, tmp_path: Path) -> None:
    """If the degraded photos are the clean ones, the images of every pair are equal."""
    pairs = load_photos(photos, 5 * 50 * 50 * 6, lambda _: None, 16, [photos])
    assert {photo.pixels.shape for photo in pairs} == {(50, 50, 6)}
    degraded, clean = SampleSpec(views=1).draw(PhotoBuffer(pairs), 32, 8, np.random.default_rng(0))
    assert torch.equal(degraded, clean)
    assert degraded.shape == (8, 3, 32, 32)


def test_validation_pairs_depend_on_the_photo_alone() -> None:
    """The degradation is the same in every run, and different for each photo."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    first, second = (Sample(pixels, digest) for digest in ("1" * 16, "f" * 16))
    spec = SampleSpec(blind_gaussian_noise)
    pairs = validation_set([first, second], spec)
    ((again, _),) = validation_set([second], spec)
    assert torch.equal(pairs[1][0], again)
    assert not torch.equal(pairs[0][0], pairs[1][0])


def test_a_patch_is_blurred_with_the_pixels_beyond_it() -> None:
    """The border of a patch shows no reflection: a blurred ramp equals the ramp."""

    def box(x: Tensor, _: Generator) -> Tensor:
        return torch.nn.functional.avg_pool2d(reflected(x, 3), 7, stride=1)

    ramp = torch.linspace(0, 1, 48).expand(1, 3, 48, 48)
    blurred, clean = SampleSpec(box, reach=4).pair(ramp, Generator())
    assert blurred.shape == clean.shape == (1, 3, 40, 40)
    torch.testing.assert_close(blurred, clean)
    mirrored, whole = SampleSpec(box).pair(ramp, Generator())
    assert (mirrored - whole).abs().max() > 0.02


def test_clean_patches_are_augmented_in_training_only(photos: Path) -> None:
    """A structure that is drawn on a patch is in both images; validation uses the photo."""

    def inverted(x: Tensor, _: Generator) -> Tensor:
        return 1 - x

    samples = load_photos(photos, 5 * 50 * 50 * 3, lambda _: None, 16, [])
    plain, augmented = (
        SampleSpec(lambda x, _: x, augment=augment).draw(
            PhotoBuffer(list(samples)), 32, 4, np.random.default_rng(0)
        )
        for augment in (None, inverted)
    )
    for before, after in zip(plain, augmented, strict=True):
        torch.testing.assert_close(after, 1 - before)
    first, second = (
        validation_set(samples, SampleSpec(lambda x, _: x, augment=augment))
        for augment in (None, inverted)
    )
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
