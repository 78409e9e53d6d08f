"""Validation on held-out photographs."""

from __future__ import annotations

import json

import pytest
import torch

from restormer_cli.training.validation import mean_psnr, validate
from tests.support.scenes import scene, seeded


def test_a_network_is_measured_on_degraded_and_on_clean_images() -> None:
    """One that darkens everything a little and keeps half of the noise is found out."""
    clean = scene(1, 96, 96)
    noise = torch.randn(clean.shape, generator=seeded()) * 0.05
    pairs = [(clean + noise, clean), (clean - noise, clean)]

    def restore(x: torch.Tensor) -> torch.Tensor:
        return clean + 0.5 * (x - clean) - 1 / 255

    validation = validate(restore, pairs)
    assert validation.psnr == pytest.approx(mean_psnr(restore, pairs))
    assert validation.clean == pytest.approx(48.13, abs=0.01)
    assert validation.residual.luma == pytest.approx([0.5] * 5, abs=0.01)
    assert validation.residual.chroma == pytest.approx([0.5] * 5, abs=0.01)
    assert validation.residual.drift == pytest.approx(1, abs=0.05)


def test_scores_are_valid_json() -> None:
    """A perfect network has no finite PSNR on clean images: null."""
    clean = scene(1, 96, 96)
    scores = validate(lambda _: clean, [(clean, clean)]).as_dict()
    assert json.loads(json.dumps(scores, allow_nan=False))["clean"] is None
    assert scores["psnr"] == 50
    assert scores["remains"]["drift"] == 0


def test_both_views_of_a_clean_image_are_given_to_a_dual_pixel_network() -> None:
    """The clean image takes the place of the left and of the right view."""
    clean, shapes = scene(1, 64, 64), []

    def restore(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return x[:, 3:]

    validate(restore, [(clean.repeat(1, 2, 1, 1), clean)])
    assert shapes == [(1, 6, 64, 64)] * 2
