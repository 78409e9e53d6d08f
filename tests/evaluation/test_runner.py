"""`eval` measures what the published protocols say, on pairs or on what it degrades itself."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from restormer_cli.degradations import presets
from restormer_cli.errors import UsageError
from restormer_cli.evaluation import published
from restormer_cli.files import discovery
from restormer_cli.imaging import io as image_io
from tests.support.program import Outcome, picture

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")


def smooth(name: str, seed: int = 0, shape: tuple[int, ...] = (24, 40, 3)) -> np.ndarray:
    """Write an image of soft shapes, on which degradations show; give it as float."""
    y, x, c = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    pixels = 128 + 90 * np.sin((x * (seed + 2) + y * 3 + 17 * c) / 9)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(image_io.Image(np.rint(pixels).astype(np.uint8)), path, quality=100)
    return image_io.read_image(path).pixels / 255


def reference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM by scikit-image, with the arguments that the paper's definition takes."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {
        "psnr": peak_signal_noise_ratio(a, b, data_range=1),
        "ssim": structural_similarity(a, b, data_range=1, channel_axis=2, **settings),
    }


def luma8(rgb: np.ndarray) -> np.ndarray:
    """MATLAB's Y of an 8-bit image, in 8 bits."""
    return np.rint(16 + rgb @ np.array([65.481, 128.553, 24.966]))[..., None] / 255


def report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.stdout.count(b"\n") == 1
    return json.loads(outcome.stdout)


@pytest.mark.parametrize(("channels", "folder_"), [(3, "McMaster"), (1, "Set12")])
def test_noise_is_added_and_measured_as_published(
    channels: int, folder_: str, restormer: Callable[..., Outcome], weights: Path
) -> None:
    """RandomState(0) for each image, neither clipped nor rounded; the result is, to 8 bits."""
    clean = {f"{i}.png": smooth(f"{folder_}/{i}.png", i, (24, 40, channels)) for i in range(2)}
    told = report(restormer("eval", "denoise", "--clean", folder_, "--sigma", "15,50", "--json"))
    assert [condition["name"] for condition in told["conditions"]] == ["sigma 15", "sigma 50"]
    for condition, sigma in zip(told["conditions"], (15, 50), strict=True):
        scores = []
        for measured, (name, image) in zip(condition["images"], clean.items(), strict=True):
            noise = np.random.RandomState(0).normal(0, sigma / 255, image.shape)
            noisy = (image.astype(np.float32) + noise).astype(np.float32)
            assert measured["image"] == name
            assert measured["degraded"] == pytest.approx(reference(noisy, image), abs=1e-5)
            restored = np.rint(noisy.clip(0, 1) * 255) / 255  # the network changes nothing
            scores.append(reference(restored, image))
            assert measured["restored"] == pytest.approx(scores[-1], abs=1e-5)
        mean = {key: np.mean([score[key] for score in scores]) for key in ("psnr", "ssim")}
        assert condition["mean"]["restored"] == pytest.approx(mean, abs=1e-5)
        found = {("McMaster", 15): 35.55, ("McMaster", 50): 30.29, ("Set12", 15): 33.35}
        expected = found.get((folder_, sigma), 28.01)
        assert condition["published"] == {"variant": "blind", "psnr": expected, "ssim": None}
        assert condition["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_rain_is_measured_on_luma(restormer: Callable[..., Outcome]) -> None:
    """PSNR and SSIM are those of MATLAB's Y, in 8 bits, of pairs with the same name."""
    clean, rainy = smooth("Rain100L/target/1.png"), smooth("Rain100L/input/1.jpg", 1)
    smooth("Rain100L/target/10.png")
    command = ("eval", "derain", "--clean", "Rain100L/target", "--degraded", "Rain100L/input")
    outcome = restormer(*command, "--json")
    told = report(outcome)
    assert outcome.status == 1
    assert "Rain100L/target/10.png: no image of this name" in outcome.stderr
    assert told["unpaired"] == ["Rain100L/target/10.png"]
    assert told["set"] == "Rain100L"
    (condition,) = told["conditions"]
    (measured,) = condition["images"]
    expected = reference(luma8(rainy), luma8(clean))
    assert measured["degraded"] == pytest.approx(expected, abs=1e-5)
    assert measured["restored"] == pytest.approx(expected, abs=1e-5)
    assert condition["published"] == {"variant": "", "psnr": 38.99, "ssim": 0.978}


def test_blur_is_measured_on_rgb(restormer: Callable[..., Outcome]) -> None:
    """GoPro's figures stand beside, and its remark; with TLC's windows, TLC's."""
    clean, blurry = smooth("GoPro/test/target/a.png"), smooth("GoPro/test/input/a.png", 1)
    command = ("eval", "deblur", "--clean", "GoPro/test/target", "--degraded", "GoPro/test/input")
    told = report(restormer(*command, "--json"))
    (condition,) = told["conditions"]
    expected = reference(blurry, clean)
    assert condition["mean"]["restored"] == pytest.approx(expected, abs=1e-5)
    assert condition["published"]["psnr"] == 32.92
    assert "0.950" in told["remark"]
    told = report(restormer(*command, "--json", "--window", "384"))
    assert told["conditions"][0]["published"]["psnr"] == 33.57


def test_two_views_are_measured(
    tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--degraded holds the left views, --right the right ones, by order if names differ."""
    dual = tiny("dual.pth", in_channels=6, dual_pixel=True)
    smooth("DPDD/indoor/target/9.png"), smooth("l/1.png", 1), smooth("r/1.png", 2)
    command = ("eval", "defocus", "--clean", "DPDD/indoor/target", "--degraded", "l")
    command = (*command, "--right", "r", "--weights", dual, "--json")
    assert restormer(*command).status == 2
    outcome = restormer(*command, "--pair", "order")
    assert outcome.status == 0
    assert report(outcome)["conditions"][0]["published"]["psnr"] == 29.48


def test_the_table_says_what_was_done(restormer: Callable[..., Outcome], weights: Path) -> None:
    """Weights with their hash, protocol, precision, every image, means, and the paper's."""
    for i in range(2):
        smooth(f"McMaster/{i}.png", i)
    outcome = restormer("eval", "denoise", "--clean", "McMaster", "--sigma", "25")
    assert outcome.status == 0
    shown = outcome.stdout.decode()
    words = " ".join(shown.split())
    for said in (
        "McMaster, 2 of 18 images, denoise",
        "identity.pth (file)",
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        "whole, in fp32 on cpu",
        "RandomState(0)",
        "clamped and rounded to 8 bits",
        "Wang et al. 2004",
        "the paper's, blind 33.31",
    ):
        assert said in words
    lines = [line.split() for line in shown.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("0.png", "1.png", "mean")] == [
        "0.png",
        "1.png",
        "mean",
    ]


def test_the_csv_holds_the_table(restormer: Callable[..., Outcome]) -> None:
    """A line for each image and one for the mean, with what decides on them."""
    for i in range(2):
        smooth(f"a/{i}.png", i)
    command = ("eval", "derain", "--clean", "a", "--degrade", "rain:light")
    outcome = restormer(*command, "--csv", "t.csv")
    assert outcome.status == 0
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["0.png", "1.png", "mean"]
    mean = (float(rows[0]["restored_psnr"]) + float(rows[1]["restored_psnr"])) / 2
    assert float(rows[2]["restored_psnr"]) == pytest.approx(mean)
    assert {row["condition"] for row in rows} == {"rain:light"}
    assert {row["weights"] for row in rows} == {"identity.pth"}
    assert rows[0]["precision"] == "fp32"
    refused = restormer(*command, "--csv", "no/such/t.csv")  # before anything is measured
    assert refused.status == 2
    assert refused.stdout == b""
    assert refused.stderr.startswith("error: no/such/t.csv: there is no such folder")


def test_a_bad_image_costs_only_itself(restormer: Callable[..., Outcome]) -> None:
    """Damaged, of another size or too small for SSIM: named, the rest is measured, status 1."""
    for name in ("a/1.png", "b/1.png", "a/2.png"):
        smooth(name)
    smooth("b/2.png", shape=(24, 32, 3))
    for name in ("a/3.png", "b/3.png"):
        smooth(name, shape=(8, 40, 3))
    smooth("b/4.png")
    Path("a/4.png").write_text("hello")
    outcome = restormer("eval", "deblur", "--clean", "a", "--degraded", "b", "--json")
    assert outcome.status == 1
    (condition,) = report(outcome)["conditions"]
    assert [image["image"] for image in condition["images"]] == ["1.png"]
    assert [failure["image"] for failure in condition["failed"]] == ["2.png", "3.png", "4.png"]
    for said in ("b/2.png is 32 x 24 pixels, a/2.png 40 x 24", "needs 11 x 11", "a/4.png: not an"):
        assert said in outcome.stderr


def test_a_perfect_result_has_no_number_in_json(restormer: Callable[..., Outcome]) -> None:
    """JSON knows no infinity."""
    smooth("a/1.png"), smooth("b/1.png")
    outcome = restormer("eval", "deblur", "--clean", "a", "--degraded", "b", "--json")
    assert report(outcome)["conditions"][0]["mean"]["restored"] == {
        "psnr": None,
        "ssim": pytest.approx(1),
    }


@pytest.mark.parametrize(
    "options",
    [
        ("dehaze", "--clean", "a"),
        ("derain", "--clean", "a"),
        ("derain", "--clean", "a", "--sigma", "15"),
        ("derain", "--clean", "a", "--degrade", "snow:light"),
        ("derain", "--clean", "a", "--degrade", "rain:torrential"),
        ("denoise", "--clean", "a", "--degraded", "a", "--sigma", "15"),
        ("denoise", "--clean", "a", "--sigma", "loud"),
        ("denoise", "--clean", "a", "--sigma", "nan"),
        ("denoise", "--clean", "a", "--sigma", "20", "--per-sigma"),
        ("denoise", "--clean", "a", "--right", "a"),
        ("denoise", "--clean", "gone"),
        ("denoise", "--clean", "empty"),
        ("denoise", "--clean", "a", "--degraded", "b"),
        ("denoise", "--clean", "a", "--degraded", "b2", "--pair", "order"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(
    options: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """With status 2, before anything is computed, and with a way out."""
    for name in ("a/1.png", "b/2.png", "b2/1.png", "b2/2.png"):
        smooth(name)
    Path("empty").mkdir()
    outcome = restormer("eval", *options)
    assert outcome.status == 2
    assert "error: " in outcome.stderr
    assert "hint: " in outcome.stderr
    assert outcome.stdout == b""


def test_each_level_can_have_its_own_weights(
    publish: Callable[..., Any], identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--per-sigma takes the official checkpoint of each level, and says which."""
    for level in (15, 25):
        publish(
            f"gaussian_gray_denoising_sigma{level}",
            identity(in_channels=1, out_channels=1).read_bytes(),
        )
    smooth("Set12/1.png")  # in colour: --gray makes it grey
    command = ("eval", "denoise", "--clean", "Set12", "--sigma", "15,25", "--per-sigma", "--gray")
    told = report(restormer(*command, "--weights", "official", "--json"))
    assert [condition["weights"]["name"] for condition in told["conditions"]] == [
        "gaussian_gray_denoising_sigma15",
        "gaussian_gray_denoising_sigma25",
    ]
    assert [condition["published"]["psnr"] for condition in told["conditions"]] == [33.42, 31.08]
    assert told["conditions"][0]["images"][0]["channels"] == 1


# --- what is degraded here ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", presets.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_severities_are_what_they_say(kind: str, channels: int) -> None:
    """Each is farther from the clean image than the one before; 8 bits, shape and grey stay."""
    clean = smooth("a.png", 3, (64, 80, channels)).astype(np.float32)
    errors = []
    for severity in presets.SEVERITIES:
        degraded = presets.parse_degradation(f"{kind}:{severity}").apply(clean)
        assert degraded.shape == clean.shape
        assert np.array_equal(degraded, (np.rint(degraded * 255) / 255).astype(np.float32))
        errors.append(float(np.square(degraded - clean).mean()))
    assert 1e-5 < errors[0] < errors[1] < errors[2]


def test_an_image_is_always_degraded_alike(restormer: Callable[..., Outcome]) -> None:
    """Its pixels decide, not its name, format or place; other pixels meet other rain."""
    smooth("a/1.png"), smooth("a/2.png", 1)
    smooth("b/1.png", 1), smooth("b/zwei.tif")
    told = [
        report(restormer("eval", "derain", "--clean", folder, "--degrade", "rain:heavy", "--json"))
        for folder in ("a", "b")
    ]
    first, second = (
        [image["degraded"] for image in one["conditions"][0]["images"]] for one in told
    )
    assert first == second[::-1]
    assert first[0] != first[1]
    one, other = (torch.zeros(4, 6, 3).numpy(), torch.zeros(6, 4, 3).numpy())
    assert presets.seed(one) != presets.seed(other)


# --- pairs and sets -----------------------------------------------------------------------------


def test_names_win_over_stems() -> None:
    """With two images of one stem, only the whole name is a partner's."""
    for name in ("a/1.png", "a/2.png", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        picture(name, (12, 12, 3))
    found, lonely = discovery.match_pairs(Path("a"), Path("b"), suffixes={".png", ".jpg"})
    assert [(str(pair.clean), str(pair.degraded)) for pair in found] == [
        ("a/1.png", "b/1.jpg"),
        ("a/2.jpg", "b/2.jpg"),
    ]
    assert lonely == [Path("a/2.png")]
    with pytest.raises(UsageError, match="3 in a and 2 in b"):
        discovery.match_pairs(Path("a"), Path("b"), suffixes={".png", ".jpg"}, by_order=True)


@pytest.mark.parametrize(
    ("folder_", "known"),
    [
        ("data/Rain100L", "rain100l"),
        ("Rain100H/test/target", "rain100h"),
        ("RealBlur-J/target", "realblurj"),
        ("real_blur_r", "realblurr"),
        ("DPDD/test/outdoor/target", "dpddoutdoor"),
        ("CBSD68", "cbsd68"),
        ("my photos", None),
    ],
)
def test_sets_are_known_by_their_folders(folder_: str, known: str | None) -> None:
    """However they are spelled, and by a folder above."""
    assert published.known_set(Path("sets") / folder_) == known


def test_every_published_figure_is_of_a_known_set() -> None:
    """No figure is out of reach, and none is out of range."""
    reached = set()
    for row in published.ROWS.values():
        for (name, _), result in row.results.items():
            reached.add(name)
            assert 20 < result.psnr < 45
            assert result.ssim is None or 0.7 < result.ssim < 1
    assert reached == set(published.SETS)
    assert set(published.REMARKS) <= reached
    assert not math.isnan(
        published.published_row("denoise", sigma=True).results["kodak24", "sigma 25"].psnr
    )
