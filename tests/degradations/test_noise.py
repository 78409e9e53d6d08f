"""Common properties of all degradations; noise and JPEG, compared with references."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from restormer_cli.degradations import jpeg, presets, sampling
from restormer_cli.degradations import noise as noises

ALL = {
    "blind_gaussian_noise": noises.blind_gaussian_noise,
    "sensor_noise": noises.sensor_noise,
    "camera_noise": noises.camera_noise,
    "equal_noise": noises.equal_noise,
    **presets.DEGRADATIONS,
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scene(count: int = 1, height: int = 64, width: int = 64) -> Tensor:
    """Return smooth colours with an edge, well inside 0..1: B 3 H W."""
    y = torch.linspace(0, 3, height)[:, None]
    x = torch.linspace(0, 4, width)[None, :]
    planes = [0.5 + 0.2 * torch.sin(y * a + x * b) for a, b in ((1, 1), (2, 1), (1, 3))]
    image = torch.stack(planes) - 0.1 * (torch.arange(width) > width // 2)
    return image.expand(count, 3, height, width).contiguous()


def is_8_bit(x: Tensor) -> bool:
    return bool(((x * 255).round() / 255 - x).abs().max() < 1e-6)


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
    """Sides need not be multiples of any number."""
    clean = torch.full((3, 3, *size), 0.5)
    assert degrade(clean, seeded()).shape == clean.shape


@pytest.mark.parametrize(
    ("task", "part"), [("denoise", 0.03), ("derain", 0.1), ("deblur", 0.3), ("defocus", 0.3)]
)
def test_a_part_of_the_images_stays_clean(task: str, part: float) -> None:
    """The mixture of each task returns this share of images unchanged to the bit."""
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
    # The rounding of an FFT depends on the batch, and may change a value by one of 255 levels.
    assert (result[rest] - changed[rest]).abs().max() < 1.01 / 255
    assert (result[rest] - changed[rest]).abs().mean() < 1e-5
    assert not torch.equal(result[3], changed[3])


@pytest.mark.parametrize("sigma", [5.0, 25.0, 50.0])
def test_gaussian_noise_has_its_level(sigma: float) -> None:
    """The standard deviation is sigma / 255 to 2 %, the mean is 0, and values are not clipped."""
    clean = torch.full((2, 3, 128, 128), 0.02)
    noise = noises.gaussian_noise(clean, seeded(), sigma) - clean
    assert float(noise.std()) == pytest.approx(sigma / 255, rel=0.02)
    assert abs(float(noise.mean())) < sigma / 255 * 0.02
    assert (clean + noise).min() < 0


def test_half_of_blind_noise_is_in_8_bits() -> None:
    """About half of the images are clipped and rounded, the others are not."""
    noisy = noises.blind_gaussian_noise(torch.full((400, 3, 8, 8), 0.5), seeded())
    share = sum(is_8_bit(image) for image in noisy) / len(noisy)
    assert 0.42 < share < 0.58


def test_equal_noise_leaves_colours_alone() -> None:
    """All channels of a pixel get the same noise."""
    clean = scene(8)
    noise = noises.equal_noise(clean, seeded()) - clean
    assert noise.std() > 0.05
    unrounded = [n for n, x in zip(noise, noise + clean, strict=True) if not is_8_bit(x)]
    assert unrounded
    for image in unrounded:
        torch.testing.assert_close(image, image[:1].expand_as(image), atol=1e-6, rtol=0)


def test_blind_levels_are_spread_evenly_up_to_55() -> None:
    """Sigma is uniform in 0..55."""
    noisy = noises.blind_gaussian_noise(torch.full((400, 3, 24, 24), 0.5), seeded())
    sigma = (noisy - 0.5).flatten(1).std(1) * 255
    assert sigma.max() < 60
    quartiles = torch.quantile(sigma, torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([13.75, 27.5, 41.25]), atol=4, rtol=0)


def test_srgb_and_linear_light_are_inverses() -> None:
    """A round trip is exact to 1e-6; black, white and middle grey have the standard's values."""
    x = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(sampling.to_srgb(sampling.to_linear(x)), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        sampling.to_linear(torch.tensor([0, 0.04045, 0.5, 1])),
        torch.tensor([0, 0.0031308, 0.2140411, 1]),
        atol=1e-6,
        rtol=0,
    )


def test_light_outside_of_srgb_is_clipped() -> None:
    """Negative light and light above white become black and white."""
    assert sampling.to_srgb(torch.tensor([-0.5, 2.0])).tolist() == pytest.approx([0, 1])


def neighbours(noise: Tensor) -> float:
    """Return the correlation of horizontally adjacent values."""
    centred = noise - noise.mean()
    return float((centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean())


@pytest.mark.parametrize("corner", range(4))
def test_demosaicked_noise_is_correlated(corner: int) -> None:
    """White noise is spread over adjacent pixels, for every corner of the pattern."""
    noise = torch.randn(2, 3, 96, 96, generator=seeded())
    spread = noises.demosaicked(noise, torch.tensor([corner, corner]))
    assert abs(neighbours(noise)) < 0.03
    assert all(neighbours(spread[:, colour]) > 0.25 for colour in range(3))


def test_demosaicking_keeps_sampled_values() -> None:
    """A flat colour is unchanged up to the border, and so are the sampled values of red."""
    flat = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(4, 3, 7, 9)
    torch.testing.assert_close(noises.demosaicked(flat, torch.arange(4)), flat)
    noise = torch.randn(1, 3, 8, 8, generator=seeded()).expand(4, 3, 8, 8)
    spread = noises.demosaicked(noise, torch.arange(4))
    for corner, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(
            spread[corner, 0, top::2, left::2], noise[corner, 0, top::2, left::2]
        )


def test_sensor_noise_leaves_the_signal_sharp() -> None:
    """The mean of many noisy versions of an edge, in linear light, is that edge."""
    edge = torch.full((1500, 3, 8, 16), 0.45)
    edge[..., 8:] = 0.65
    light = sampling.to_linear(edge)
    mean = sampling.to_linear(noises.sensor_noise(edge, seeded())).mean((0, 2))
    step = float(light[0, 0, 0, 8] - light[0, 0, 0, 7])
    assert (mean - light[0, :, 0]).abs().max() < 0.07 * step


def test_bright_parts_are_noisier_in_linear_light() -> None:
    """The variance of shot noise grows with the light."""
    grey = torch.full((64, 3, 16, 16), 0.25)
    grey[..., 8:] = 0.6
    noise = sampling.to_linear(noises.sensor_noise(grey, seeded())) - sampling.to_linear(grey)
    assert noise[..., 8:].var() > 2 * noise[..., :8].var()


def test_half_of_the_images_go_through_jpeg() -> None:
    """`filed` compresses about half of the images."""
    clean = scene(200)
    filed = jpeg.filed(sampling.to_8_bit(clean), seeded(), 75)
    packed = (filed != sampling.to_8_bit(clean)).flatten(1).any(1)
    assert 70 < packed.sum() < 130


def test_camera_noise_is_rounded_to_8_bits() -> None:
    """All images with camera noise are in 8 bits."""
    assert is_8_bit(noises.camera_noise(scene(8), seeded()))


def libjpeg(image: Tensor, quality: int, subsampling: int) -> Tensor:
    """Compress and decompress an image (3 H W) with Pillow."""
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with PIL.Image.open(file) as decoded:
        return torch.from_numpy(np.array(decoded)).permute(2, 0, 1).float() / 255


def grainy() -> Tensor:
    return noises.gaussian_noise(scene(1, 96, 80), seeded(), 12.0).clamp(0, 1)


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
    """Each image has its own quality and subsampling; padding has no effect."""
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


def test_a_mixture_draws_by_weight() -> None:
    """Each image gets one part, with the probability of its weight."""
    parts = [(value, lambda x, _, value=value: torch.full_like(x, value)) for value in (0.2, 0.8)]
    values = sampling.mixture(*parts)(torch.zeros(2000, 1, 1, 1), seeded()).flatten()
    assert set(values.tolist()) == {np.float32(0.2), np.float32(0.8)}
    assert float((values > 0.5).float().mean()) == pytest.approx(0.8, abs=0.03)


def test_a_part_gets_only_its_images() -> None:
    """A part is called with the images that were drawn for it, not with the batch."""
    seen = []

    def record(x: Tensor, _: Generator) -> Tensor:
        seen.append(x.flatten().tolist())
        return x

    sampling.mixture((1, record), (1, record), (0, record))(
        torch.arange(9.0).view(9, 1, 1, 1), seeded()
    )
    assert len(seen) == 2
    assert sorted(seen[0] + seen[1]) == list(range(9))
