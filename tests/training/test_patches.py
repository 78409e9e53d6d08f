"""Cutting, choosing and augmenting patches."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restormer_cli.errors import UsageError
from restormer_cli.training.dataset import Sample
from restormer_cli.training.pairs import CHOICES, Choice, SampleSpec
from restormer_cli.training.patches import PhotoBuffer, choose_by_detail, detail
from tests.support.training import coordinates, grains


def cut(photos: list[Sample], side: int, count: int, seed: int = 0, **spec: Any) -> Tensor:
    """Cut patches without degrading them."""
    buffer = PhotoBuffer(list(photos))
    return SampleSpec(**spec).draw(buffer, side, count, np.random.default_rng(seed))[1]


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(16, 80),
    width=st.integers(16, 80),
    side=st.sampled_from([16, 32, 48]),
    seed=st.integers(0, 2**32),
)
def test_patches_are_rotated_or_reflected_squares_of_the_photo(
    height: int, width: int, side: int, seed: int
) -> None:
    """A patch is a contiguous part of a photo, in one of eight orientations."""
    photos = [coordinates(height, width), coordinates(64, 48)]
    patches = cut(photos, side, 5, seed)
    assert patches.shape == (5, 3, side, side)
    assert patches.permute(0, 2, 3, 1).is_contiguous()
    for patch in (patches * 255).round().int().numpy():
        rows, columns = patch[:2]
        if rows[0, 0] == rows[0, -1]:  # rotated by 0 or 180 degrees
            assert (np.abs(np.diff(rows, axis=0)) == 1).all()
            assert (np.abs(np.diff(columns, axis=1)) == 1).all()
        else:
            assert (np.abs(np.diff(rows, axis=1)) == 1).all()
            assert (np.abs(np.diff(columns, axis=0)) == 1).all()
        assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1


def test_all_positions_and_all_eight_orientations_are_drawn() -> None:
    """Every corner of a photo is reached, in every rotation and reflection."""
    patches = cut([coordinates(20, 20)], 16, 400)
    corners = (patches[:, :2, [0, 0, -1], [0, -1, 0]] * 255).round().int()  # B 2 3
    tops = corners[:, 0].amin(1)
    assert set(tops.tolist()) == set(range(5))
    orientations = {tuple((c - c.amin(1, keepdim=True)).flatten().tolist()) for c in corners}
    assert len(orientations) == 8


def test_two_views_stay_side_by_side_in_all_four_orientations() -> None:
    """In every orientation the views stay shifted to the left and to the right."""
    wide = coordinates(20, 22).pixels
    photo = Sample(np.concatenate([wide[:, 1:-1], wide[:, 2:], wide[:, :-2]], axis=2), "0")
    views, clean = SampleSpec(views=2).draw(PhotoBuffer([photo]), 16, 100, np.random.default_rng(0))
    left, right = views.chunk(2, dim=1)
    assert torch.equal(left[..., :-1], clean[..., 1:])
    assert torch.equal(right[..., 1:], clean[..., :-1])
    corners = (clean[:, :2, [0, 0, -1], [0, -1, 0]] * 255).round().int()  # B 2 3
    orientations = {tuple((c - c.amin(1, keepdim=True)).flatten().tolist()) for c in corners}
    assert len(orientations) == 4


def test_photos_are_drawn_by_area() -> None:
    """A photo four times as large is drawn four times as often, one too small never."""
    photos = [coordinates(16, 16), coordinates(32, 32), coordinates(64, 64)]
    for n, photo in enumerate(photos):
        photo.pixels[..., 2] = n
    drawn = (cut(photos, 32, 1000)[:, 2, 0, 0] * 255).round()
    assert set(drawn.tolist()) == {1, 2}
    assert 0.76 < float((drawn == 2).float().mean()) < 0.84


def test_patches_larger_than_all_photos_are_refused() -> None:
    """If no photo is large enough, the usage error names the size."""
    with pytest.raises(UsageError, match="no photo is 32 pixels"):
        cut([coordinates(16, 99)], 32, 1)


def test_the_sharpest_of_several_positions_becomes_a_patch() -> None:
    """With 2 candidates, a detailed photo gives three patches for one of a flat photo."""
    photos = [Sample(np.full((64, 64, 3), 9, np.uint8), "0"), Sample(grains(64, 64), "1")]
    for choice, share in ((Choice(), 1 / 2), (Choice(2, (1,)), 3 / 4)):
        patches = cut(photos, 16, 400, choice=choice)
        assert float((patches.std((1, 2, 3)) > 0).float().mean()) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("task", CHOICES)
def test_every_batch_has_the_patches_of_the_ranks(task: str) -> None:
    """Patch by patch, the ranks of the task are used in turn, from the flattest to the sharpest."""
    candidates, ranks = CHOICES[task]
    contrasts = np.random.default_rng(0).permuted(
        np.tile(np.arange(1, candidates + 1), (6, 1)), axis=1
    )
    patches = torch.from_numpy(np.stack([grains(16, 16) // 16 * c for c in contrasts.flat]))
    chosen = choose_by_detail(patches, candidates, ranks)
    expected = [ranks[n % len(ranks)] for n in range(6)]
    highest = chosen.flatten(1).amax(1) // patches[contrasts.flatten() == 1].max()
    assert (highest - 1).tolist() == expected
    assert max(ranks) < candidates


def test_noise_is_removed_from_flat_patches_too() -> None:
    """Denoising and deraining learn from flat and detailed patches in every batch of four."""
    for task in ("denoise", "derain"):
        candidates, ranks = CHOICES[task]
        assert {0, candidates - 1} <= set(ranks[:2])


def test_detail_is_the_laplacian() -> None:
    """The measure is OpenCV's Laplacian without the border, as an exact sum."""
    pixels = grains(20, 20)
    laplacian = cv2.Laplacian(np.ascontiguousarray(pixels[..., 0]), cv2.CV_16S)[1:-1, 1:-1]
    assert detail(torch.from_numpy(pixels[None])).tolist() == [int(np.abs(laplacian).sum())]


def test_the_buffer_takes_the_photos_over() -> None:
    """The list of photos is emptied, so that each is in memory once; digests are kept."""
    photos = [coordinates(16, 20), coordinates(18, 16)]
    digests = [photo.digest for photo in photos]
    buffer = PhotoBuffer(photos)
    assert photos == []
    assert buffer.digests == digests
    assert len(buffer) == 2
    assert buffer.pixels.shape == (16 * 20 + 18 * 16, 3)
