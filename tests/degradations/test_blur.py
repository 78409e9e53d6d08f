"""Test properties of motion blur and defocus."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from restormer_cli.degradations import blur
from restormer_cli.degradations.sampling import to_linear
from tests.support.scenes import column, seeded

ALL = {
    f.__name__: f for f in (blur.camera_shake, blur.varying_shake, blur.moving_region, blur.defocus)
}
every_blur = pytest.mark.parametrize("degrade", ALL.values(), ids=ALL)
Degrade = Callable[[Tensor, Generator], Tensor]


def texture(count: int, height: int = 48, width: int = 48) -> Tensor:
    """Return coarse random colours, the same for each image: B 3 H W."""
    cells = torch.rand(1, 3, (height + 3) // 4, (width + 3) // 4, generator=seeded(9))
    image = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :height, :width]
    return (0.1 + 0.7 * image).repeat(count, 1, 1, 1)


def motion(count: int, extent: float, seed: int = 0) -> Tensor:
    """Return kernels of one extent for `count` images: B 1 25 25."""
    x = torch.zeros(count, 3, 8, 8)
    paths = blur.trajectories(1, x, seeded(seed))
    return blur.motion_kernels(paths, torch.full((count, 1, 1, 1), extent))


def aperture(radius: Tensor, softness: float = 1.0, blades: int = 0) -> Tensor:
    one = torch.ones(len(radius), 1, 1, 1)
    return blur.aperture_kernels(radius, softness * one, blades * one, 0.3 * one)


@every_blur
@pytest.mark.parametrize("size", [(48, 48), (17, 31), (3, 40), (1, 1)])
def test_images_of_any_size_are_blurred(degrade: Degrade, size: tuple[int, int]) -> None:
    """Results are in 8 bits, also for images smaller than the kernel; the input is unchanged."""
    clean = texture(5, *size)
    before = clean.clone()
    bad = degrade(clean, seeded())
    assert bad.shape == clean.shape
    assert bad.dtype == torch.float32
    assert 0 <= bad.min() <= bad.max() <= 1
    assert ((bad * 255).round() / 255 - bad).abs().max() < 1e-6
    assert torch.equal(clean, before)


@every_blur
def test_a_seed_determines_the_result(degrade: Degrade) -> None:
    """Equal seeds give identical results, and other seeds give different results."""
    clean = texture(4)
    first = degrade(clean, seeded(1))
    assert torch.equal(first, degrade(clean, seeded(1)))
    assert not torch.equal(first, degrade(clean, seeded(2)))


@every_blur
def test_each_image_has_its_own_severity(degrade: Degrade) -> None:
    """In one batch, some images are blurred several times as much as others."""
    clean = texture(32)
    errors = (degrade(clean, seeded()) - clean).square().mean((1, 2, 3)).sqrt()
    assert errors.max() > 3 * errors.min()


@every_blur
@pytest.mark.parametrize("grey", [0.3, 0.9])
def test_flat_grey_stays_flat(degrade: Degrade, grey: float) -> None:
    """A flat image stays flat, including borders and outlines, except for noise."""
    flat = torch.full((24, 3, 40, 40), grey)
    difference = degrade(flat, seeded()) - flat
    assert difference.mean((0, 1)).abs().max() < 0.01
    assert difference.mean((1, 2, 3)).abs().max() < 0.003
    assert difference.std() < 0.01


@pytest.mark.parametrize("extent", [1e-3, 1.0, 9.0, 24.0])
def test_motion_kernels_keep_light(extent: float) -> None:
    """Motion kernels are non-negative, sum to one, and have their mean in the middle."""
    kernels = motion(50, extent)
    line = torch.arange(-12.0, 13.0)
    assert kernels.shape == (50, 1, 25, 25)
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((2, 3)), torch.ones(50, 1))
    assert (kernels.sum(3) @ line).abs().max() < 1e-3
    assert (kernels.sum(2) @ line).abs().max() < 1e-3


def test_motion_kernels_have_their_extent() -> None:
    """The kernel of a 12-pixel path covers 12 pixels, and that of a tiny path is a point."""
    lit = motion(50, 12.0)[:, 0] > 0
    rows, columns = lit.any(2).sum(1), lit.any(1).sum(1)
    diagonal = (rows.square() + columns.square()).float().sqrt()
    assert diagonal.min() >= 12
    assert diagonal.max() < 17
    assert (motion(50, 1e-3)[:, 0, 12, 12] > 0.99).all()


def test_trajectories_are_smooth() -> None:
    """The direction of a path changes slowly, except for rare shakes."""
    step = blur.trajectories(20, torch.zeros(5, 3, 8, 8), seeded()).diff(dim=2)
    cosine = torch.cosine_similarity(step[:, :, 1:], step[:, :, :-1], dim=3)
    assert (cosine > 0.5).float().mean() > 0.97


@pytest.mark.parametrize("blades", [0, 5, 6, 8])
def test_aperture_kernels_keep_light(blades: int) -> None:
    """Aperture kernels are non-negative, sum to one, and cover the area of their circle."""
    radius = torch.linspace(0.3, blur.DEFOCUS_RADIUS, 20).view(20, 1, 1, 1)
    kernels = aperture(radius, 1.0, blades)
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((2, 3)), torch.ones(20, 1))
    area = 1 / kernels[10:].amax((2, 3)).flatten()
    torch.testing.assert_close(area, math.pi * radius[10:].flatten() ** 2, rtol=0.06, atol=0)


def test_softer_apertures_fade() -> None:
    """A soft edge spreads light outwards from the rim, within the kernel."""
    hard, soft = aperture(column(blur.DEFOCUS_RADIUS)), aperture(column(blur.DEFOCUS_RADIUS), 2.0)
    middle = hard.shape[-1] // 2
    assert soft[0, 0, middle, middle + 8] > hard[0, 0, middle, middle + 9]
    assert soft[0, 0, middle, middle + 9] == hard[0, 0, middle, middle + 9] == 0
    assert ((soft > 0) & (soft < soft.max())).sum() > ((hard > 0) & (hard < hard.max())).sum()


def test_blur_keeps_light() -> None:
    """The sum of the light is unchanged in every colour."""
    light = torch.zeros(6, 3, 64, 64)
    light[:, :, 30:34, 30:34] = torch.rand(6, 3, 4, 4, generator=seeded())
    for kernels in (motion(6, 20.0), aperture(torch.full((6, 1, 1, 1), 6.5))):
        result = blur.blurred(light, kernels)[:, 0]
        torch.testing.assert_close(result.sum((2, 3)), light.sum((2, 3)))
        assert result.max() < light.max() / 2


def test_blur_is_the_convolution() -> None:
    """A point of light becomes the kernel of its image, not mirrored."""
    light = torch.zeros(4, 1, 60, 70)
    light[:, :, 33, 20] = 1
    kernels = motion(4, 18.0)
    result = blur.blurred(light, kernels)[:, 0, :, 21:46, 8:33]
    torch.testing.assert_close(result, kernels, atol=1e-6, rtol=0)


def test_borders_do_not_darken() -> None:
    """Every kind of blur keeps flat light flat to 1e-5 up to the border."""
    light = torch.full((3, 3, 20, 33), 0.7)
    noise = torch.rand(3, 1, 20, 33, generator=seeded())
    two = torch.cat([motion(3, 24.0, 1), motion(3, 24.0, 2)], 1)
    one = torch.ones(3, 1, 1, 1)
    for result in (
        blur.blurred(light, two)[:, 0],
        blur.blended(light, two, torch.cat([noise, 1 - noise], 1)),
        blur.moved(light, noise.round(), two),
        blur.defocused(light, 0.3 + 7 * noise, one, 0 * one, one),
    ):
        torch.testing.assert_close(result, light, atol=1e-5, rtol=0)


def test_the_still_background_stays_sharp() -> None:
    """Far from the moving region, a background that does not move is unchanged."""
    light = to_linear(texture(2, 64, 64))
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., :20, :] = 1
    kernels = torch.cat([motion(2, 20.0), motion(2, 1e-4)], 1)
    result = blur.moved(light, mask, kernels)
    torch.testing.assert_close(result[..., 34:, :], light[..., 34:, :], atol=1e-3, rtol=0)
    assert (result - light)[..., :20, :].abs().mean() > 0.02


def test_depth_determines_the_blur() -> None:
    """Texture is kept under small circles of confusion, and removed under large ones."""
    light = to_linear(texture(1, 64, 64))
    radius = torch.full((1, 1, 64, 64), 0.3)
    radius[..., 32:] = 6.0
    one = torch.ones(1, 1, 1, 1)
    result = blur.defocused(light, radius, one, 0 * one, one)
    assert (result - light)[..., :32].abs().max() < 1e-5
    assert result[..., 32:].std() < 0.6 * light[..., 32:].std()


def test_highlights_leave_trails() -> None:
    """In half of the images, white becomes brighter and is clipped again; grey is unchanged."""
    image = torch.full((200, 3, 2, 2), 0.8)
    image[..., 0] = 1
    light = blur.scene_light(image, seeded())
    share = (light[:, 0, 0, 0] > 1).float().mean()
    assert 0.4 < share < 0.6
    assert light.max() <= 4
    torch.testing.assert_close(light[..., 1], to_linear(image[..., 1]))
    assert blur.exposed(light, seeded()).max() == 1
