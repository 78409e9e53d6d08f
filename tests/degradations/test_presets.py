"""Test common properties of all degradations, and the mixtures of the tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from restormer_cli.degradations import noise as noises
from restormer_cli.degradations import presets, rain, sampling
from tests.support.scenes import scene, seeded

ALL = {
    "blind_gaussian_noise": noises.blind_gaussian_noise,
    "sensor_noise": noises.sensor_noise,
    "camera_noise": noises.camera_noise,
    "processed_noise": noises.processed_noise,
    "hard_rain": rain.hard_rain,
    "equal_noise": noises.equal_noise,
    **presets.DEGRADATIONS,
}


@pytest.mark.parametrize("degrade", ALL.values(), ids=ALL)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_shape_type_and_input_are_unchanged(degrade: sampling.Degradation, count: int) -> None:
    """Results are finite float32 in the shape of the batch; the clean images are unchanged."""
    clean = scene(count)
    before = clean.clone()
    bad = degrade(clean, seeded())
    assert bad.shape == clean.shape
    assert bad.dtype == torch.float32
    assert bad.isfinite().all()
    assert not torch.equal(bad, clean)
    assert torch.equal(clean, before)


@pytest.mark.parametrize("degrade", ALL.values(), ids=ALL)
def test_a_seed_determines_the_result(degrade: sampling.Degradation) -> None:
    """All randomness comes from the generator."""
    clean = scene(4)
    first = degrade(clean, seeded(1))
    torch.manual_seed(5)
    assert torch.equal(first, degrade(clean, seeded(1)))
    assert not torch.equal(first, degrade(clean, seeded(2)))


@pytest.mark.parametrize("degrade", ALL.values(), ids=ALL)
def test_each_image_has_its_own_severity(degrade: sampling.Degradation) -> None:
    """In one batch, some images are degraded several times as much as others."""
    clean = scene(32)
    errors = (degrade(clean, seeded()) - clean).square().mean((1, 2, 3)).sqrt()
    assert errors.max() > 4 * errors.min()


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 64), (1, 1)])
@pytest.mark.parametrize("degrade", ALL.values(), ids=ALL)
def test_images_of_any_size_are_degraded(
    degrade: sampling.Degradation, size: tuple[int, int]
) -> None:
    """Images of any height and width are supported."""
    clean = torch.full((3, 3, *size), 0.5)
    assert degrade(clean, seeded()).shape == clean.shape


@pytest.mark.parametrize(
    ("task", "part"), [("denoise", 0.12), ("derain", 0.22), ("deblur", 0.3), ("defocus", 0.3)]
)
def test_a_part_of_the_images_stays_clean(task: str, part: float) -> None:
    """The mixture of each task returns this fraction of the images unchanged."""
    clean = scene(400, 24, 24)
    bad = presets.DEGRADATIONS[task](clean, seeded())
    share = sum(map(torch.equal, bad, clean)) / len(clean)
    assert share == pytest.approx(part, abs=0.045)
    assert share > 0


@pytest.mark.parametrize("degrade", ALL.values(), ids=ALL)
def test_images_of_a_batch_are_independent(degrade: sampling.Degradation) -> None:
    """The result for an image does not depend on the others in the batch."""
    first = scene(6)
    second = first.clone()
    second[3] = 1 - second[3]
    result, changed = degrade(first, seeded()), degrade(second, seeded())
    rest = [0, 1, 2, 4, 5]
    # The rounding of an FFT depends on the batch and may change a value by 1/255.
    assert (result[rest] - changed[rest]).abs().max() < 1.01 / 255
    assert (result[rest] - changed[rest]).abs().mean() < 1e-5
    assert not torch.equal(result[3], changed[3])


def test_a_part_of_the_rain_is_hard() -> None:
    """About 40 % of the patches for deraining have streaks that are nearly opaque."""
    clean = torch.full((200, 3, 96, 96), 0.3)
    light = presets.DEGRADATIONS["derain"](clean, seeded()) - clean
    share = (torch.quantile(light.mean(1).flatten(1), 0.995, dim=1) > 0.3).float().mean()
    assert 0.3 < share < 0.6


def test_the_severities_of_streaks_are_the_pixels_that_they_cover() -> None:
    """On black, 5, 10 and 20 % of the pixels become brighter, give or take a half."""
    black = np.zeros((400, 400, 3), np.float32)
    for severity, cover in (("light", 0.05), ("medium", 0.1), ("heavy", 0.2)):
        wet = presets.parse_degradation(f"streaks:{severity}").apply(black)
        assert 0.5 * cover < (wet.max(axis=2) > 0.05).mean() < 1.5 * cover
