"""Noise estimation, its reports, and the weights that `--sigma auto` selects by it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from scipy.stats import gamma

from restormer_cli.batch import pages
from restormer_cli.checkpoints import TRAINED_SIGMAS
from restormer_cli.imaging import io as image_io
from restormer_cli.imaging.analysis.noise import PATCH, QUANTILE, Noise, estimate_noise, sigma_for
from restormer_cli.imaging.image import Image
from tests.support.program import Outcome, picture, pixels

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")


def scene(height: int = 160, width: int = 200, channels: int = 3) -> np.ndarray:
    """Return shapes, edges, plain areas and a corner of fine texture: float, 0.2..0.8."""
    y, x = np.mgrid[:height, :width] / 40.0
    image = 0.5 + 0.15 * np.sin(x[..., None] + y[..., None] * np.arange(1, channels + 1))
    image[height // 3 :, width // 4 : width // 2] *= 0.6
    image[: height // 4, : width // 4] += 0.1 * np.sin(x * 90)[: height // 4, : width // 4, None]
    return image.astype(np.float32)


def noisy(sigma: float, image: np.ndarray | None = None) -> np.ndarray:
    clean = scene() if image is None else image
    noise = np.random.default_rng(1).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


def in_8_bits(image: np.ndarray) -> np.ndarray:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2, 5, 15, 25, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_estimate_matches_known_noise(sigma: float, channels: int) -> None:
    """The estimate is within a twelfth, in colour and grey, at any depth without clipping."""
    image = noisy(sigma, scene(channels=channels))
    estimate = estimate_noise(image)
    assert estimate is not None
    assert estimate.sigma == pytest.approx(sigma, rel=1 / 12)
    assert estimate.white
    assert not estimate.clean
    if sigma < 50:  # 8 bits clip stronger noise
        deep = np.rint(image.clip(0, 1) * 65535).astype(np.uint16)
        for stored in (in_8_bits(image), deep):
            assert estimate_noise(stored).sigma == pytest.approx(estimate.sigma, rel=0.05)


def test_a_clean_image_looks_clean() -> None:
    """Texture is not estimated as noise, and an image of one colour is clean."""
    for image in (scene(), np.full((40, 40, 3), 0.4, np.float32)):
        assert estimate_noise(in_8_bits(image)).clean


def test_white_corners_do_not_hide_noise() -> None:
    """Clipped areas do not affect the estimate."""
    image = in_8_bits(noisy(15))
    image[:, :100] = 255
    assert estimate_noise(image).sigma == pytest.approx(15, rel=1 / 12)


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 1, 3), 0.5, np.float32),
        np.full((12, 300, 1), 0.5, np.float32)[:, :12],
        np.zeros((90, 90, 3), np.uint8),
        np.tile(np.array([0, 255], np.uint8), (90, 45))[..., None],
    ],
    ids=["a pixel", "tiny", "black", "black and white"],
)
def test_too_few_patches_give_no_estimate(image: np.ndarray) -> None:
    """Images that are too small, or black and white only, have no estimate."""
    assert estimate_noise(image) is None
    assert sigma_for(None, TRAINED_SIGMAS) == "blind"


def test_compressed_noise_is_coarse() -> None:
    """Noise after JPEG compression is neither white nor clean."""
    _, data = cv2.imencode(".jpg", in_8_bits(noisy(15)), [cv2.IMWRITE_JPEG_QUALITY, 75])
    estimate = estimate_noise(cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert not estimate.white
    assert not estimate.clean
    assert sigma_for(estimate, TRAINED_SIGMAS) == "blind"


@pytest.mark.parametrize(
    ("noise", "level"),
    [
        (Noise(15.4, 15.9), "15"),
        (Noise(22.1, 22.0), "25"),
        (Noise(19.5, 19.5), "blind"),
        (Noise(48.0, 40.0), "50"),
        (Noise(70.0, 70.0), "blind"),
        (Noise(25.0, 40.0), "blind"),
        (Noise(0.5, 0.5), "blind"),
    ],
)
def test_fitting_weights_are_selected(noise: Noise, level: str) -> None:
    """White noise near a level selects it, and all other noise the blind weights."""
    assert sigma_for(noise, TRAINED_SIGMAS) == level


def test_the_quantile_matches_the_paper() -> None:
    """The quantile follows from rank and trace of the derivatives' products."""
    side = PATCH
    basis = np.eye(side**2).reshape(-1, side, side)
    across = ((basis[:, :, 2:] - basis[:, :, :-2]) / 2).reshape(side**2, -1)
    down = ((basis[:, 2:] - basis[:, :-2]) / 2).reshape(side**2, -1)
    products = across @ across.T + down @ down.T
    rank, trace = np.linalg.matrix_rank(products), np.trace(products)
    assert (rank, trace) == (45, pytest.approx(35))
    quantile = gamma.ppf(1 - 1e-6, rank / 2, scale=2 * trace / rank)
    assert pytest.approx(quantile, abs=1e-3) == QUANTILE


def save(name: str, image: np.ndarray) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(Image(in_8_bits(image)), Path(name))


@pytest.mark.usefixtures("weights")
def test_denoise_reports_the_noise(restormer: Callable[..., Outcome]) -> None:
    """Noise is reported with -v, in a dry run and in events; other tasks do not estimate it."""
    save("a.png", noisy(15))
    assert "a.png: noise of sigma 15." in restormer("denoise", "a.png", "-v").stderr
    assert "noise of sigma" not in restormer("denoise", "a.png").stderr
    assert ", noise of sigma 15." in restormer("denoise", "a.png", "--dry-run").stderr
    events = restormer("denoise", "a.png", "--json").events
    assert [event.get("noise") for event in events[:2]] == [None, None]
    assert events[2]["noise"]["sigma"] == pytest.approx(15, abs=1)
    planned = restormer("denoise", "a.png", "--json", "--dry-run").events[0]
    assert planned["noise"] == events[2]["noise"]
    assert restormer("derain", "a.png", "--json").events[2]["noise"] is None


def test_changing_a_clean_image_gives_a_warning(
    tiny: Callable[..., Path], identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """The warning needs a clean input and a change."""
    save("clean.png", scene())
    save("noisy.png", noisy(15))
    command = ("denoise", "--device", "cpu", "--weights")
    assert "looks clean" in restormer(*command, tiny(), "clean.png").stderr
    assert "looks clean" not in restormer(*command, tiny(), "noisy.png").stderr
    assert "looks clean" not in restormer(*command, identity(), "clean.png").stderr


@pytest.fixture
def levels(publish: Callable[..., Any], tiny: Callable[..., Path]) -> None:
    """Publish different weights for each level."""
    for seed, level in enumerate(("blind", "sigma15", "sigma25", "sigma50")):
        name = f"gaussian_color_denoising_{level}"
        publish(name, tiny(name, seed=seed).read_bytes())


@pytest.mark.usefixtures("levels")
def test_each_image_gets_the_weights_for_its_noise(restormer: Callable[..., Outcome]) -> None:
    """Other noise selects the blind weights; an unreadable image does not stop the others."""
    for name, sigma in (("f/a.png", 25), ("f/b.png", 15), ("f/c.png", 8), ("f/d.png", 26)):
        save(name, noisy(sigma))
    Path("f/e.png").write_text("hello")
    fast = ("--device", "cpu", "--precision", "fp32")
    command = ("denoise", "f", "--sigma", "auto", *fast, "--json")
    outcome = restormer(*command)
    assert outcome.status == 1
    done = {e["input"]: e["weights"]["name"] for e in outcome.events if e["event"] == "restored"}
    assert done == {
        "f/a.png": "gaussian_color_denoising_sigma25",
        "f/b.png": "gaussian_color_denoising_sigma15",
        "f/c.png": "gaussian_color_denoising_blind",
        "f/d.png": "gaussian_color_denoising_sigma25",
    }
    assert outcome.events[-1]["restored"] == 4
    assert "note: f/b.png: noise of sigma 15" in outcome.stderr
    again = restormer(*command, "--skip-existing")
    assert again.events[-1]["skipped"] == 4
    assert restormer(*command, "--dry-run").events[-1]["failed"] == 1


@pytest.mark.usefixtures("levels")
def test_a_defect_of_the_estimate_fails_one_image(
    restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is reported when the image is restored, and the others are restored."""
    estimate = pages.estimate_noise
    save("f/a.png", noisy(25))
    save("f/b.png", noisy(15))

    def defective(samples: np.ndarray) -> Any:
        return 1 / 0 if np.array_equal(samples, pixels("f/a.png")) else estimate(samples)

    monkeypatch.setattr(pages, "estimate_noise", defective)
    outcome = restormer("denoise", "f", "--sigma", "auto", "--device", "cpu")
    assert outcome.status == 1
    assert "f/a.png: this is a defect of restormer (ZeroDivisionError:" in outcome.stderr
    assert "f/b.png -> f-restored/b.png" in outcome.stderr


@pytest.mark.usefixtures("levels")
def test_the_noise_of_stdin_is_estimated(restormer: Callable[..., Outcome]) -> None:
    """For stdin, the estimate selects the same weights as the explicit level."""
    save("a.png", noisy(15))
    data = Path("a.png").read_bytes()
    auto = restormer("denoise", "-", "--sigma", "auto", "--device", "cpu", stdin=data)
    explicit = restormer("denoise", "-", "--sigma", "15", "--device", "cpu", stdin=data)
    assert auto.status == explicit.status == 0
    assert auto.stdout == explicit.stdout
    different = restormer("denoise", "-", "--sigma", "25", "--device", "cpu", stdin=data)
    assert auto.stdout != different.stdout


@pytest.mark.usefixtures("weights")
def test_given_weights_are_used_without_selection(restormer: Callable[..., Outcome]) -> None:
    """With given weights, a note says that --sigma auto has no effect."""
    before = picture("a.png")
    outcome = restormer("denoise", "a.png", "--sigma", "auto")
    assert outcome.status == 0
    assert "no effect" in outcome.stderr
    assert np.array_equal(pixels("a.restored.png"), before)
    assert restormer("denoise", "a.png", "--sigma", "auto", "--noise", "real").status == 2


def test_unavailable_weights_are_requested_once(restormer: Callable[..., Outcome]) -> None:
    """Without a network the bundled weights replace all levels, with one warning."""
    for name, sigma in (("f/a.png", 25), ("f/b.png", 15)):
        save(name, noisy(sigma))
    outcome = restormer("denoise", "f", "--sigma", "auto", "--device", "cpu")
    assert outcome.status == 0
    assert outcome.stderr.count("using the bundled lite weights") == 1
