"""The command `eval`: scores by the published protocols, on pairs or on degraded images."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from restormer_cli import evaluation
from restormer_cli.degradations import presets
from restormer_cli.imaging import Image
from restormer_cli.imaging import io as image_io
from tests.support.program import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder", "weights")


def smooth(name: str, seed: int = 0, shape: tuple[int, ...] = (24, 40, 3)) -> np.ndarray:
    """Write an image of smooth shapes, and return it as float."""
    y, x, c = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    pixels = 128 + 90 * np.sin((x * (seed + 2) + y * 3 + 17 * c) / 9)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_io.write_image(Image(np.rint(pixels).astype(np.uint8)), path, quality=100)
    return image_io.read_image(path).pixels / 255


def reference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return PSNR and SSIM by scikit-image, with the parameters of the paper."""
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {
        "psnr": peak_signal_noise_ratio(a, b, data_range=1),
        "ssim": structural_similarity(a, b, data_range=1, channel_axis=2, **settings),
    }


def luma8(rgb: np.ndarray) -> np.ndarray:
    """Return MATLAB's Y of an 8-bit image, rounded to 8 bits."""
    return np.rint(16 + rgb @ np.array([65.481, 128.553, 24.966]))[..., None] / 255


def report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.stdout.count(b"\n") == 1
    return json.loads(outcome.stdout)


@pytest.mark.parametrize(("channels", "folder_", "size"), [(3, "McMaster", 18), (1, "Set12", 12)])
def test_noise_is_added_and_measured_as_published(
    channels: int, folder_: str, size: int, restormer: Callable[..., Outcome], weights: Path
) -> None:
    """The noisy image is neither clipped nor rounded; the result is rounded to 8 bits."""
    clean = {f"{i}.png": smooth(f"{folder_}/{i}.png", i, (24, 40, channels)) for i in range(2)}
    result = report(restormer("eval", "denoise", "--clean", folder_, "--sigma", "15,50", "--json"))
    assert [condition["name"] for condition in result["conditions"]] == ["sigma 15", "sigma 50"]
    for condition, sigma in zip(result["conditions"], (15, 50), strict=True):
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
        published = {("McMaster", 15): 35.55, ("McMaster", 50): 30.29, ("Set12", 15): 33.35}
        expected = published.get((folder_, sigma), 28.01)
        shown = {"variant": "blind", "psnr": expected, "ssim": None, "images": size}
        assert condition["published"] == shown
        assert condition["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_rain_is_measured_on_luma(restormer: Callable[..., Outcome]) -> None:
    """PSNR and SSIM are computed on MATLAB's Y in 8 bits, for pairs with the same name."""
    clean, rainy = smooth("Rain100L/target/1.png"), smooth("Rain100L/input/1.jpg", 1)
    smooth("Rain100L/target/10.png")
    command = ("eval", "derain", "--clean", "Rain100L/target", "--degraded", "Rain100L/input")
    outcome = restormer(*command, "--json")
    result = report(outcome)
    assert outcome.status == 1
    assert "Rain100L/target/10.png: no image of this name" in outcome.stderr
    assert result["unpaired"] == ["Rain100L/target/10.png"]
    assert result["set"] == "Rain100L"
    (condition,) = result["conditions"]
    (measured,) = condition["images"]
    expected = reference(luma8(rainy), luma8(clean))
    assert measured["degraded"] == pytest.approx(expected, abs=1e-5)
    assert measured["restored"] == pytest.approx(expected, abs=1e-5)
    shown = {"variant": "", "psnr": 38.99, "ssim": 0.978, "images": 100}
    assert condition["published"] == shown


def test_blur_is_measured_on_rgb(restormer: Callable[..., Outcome]) -> None:
    """The paper's result and a remark are added; with --window, the published result of TLC."""
    clean, blurry = smooth("GoPro/test/target/a.png"), smooth("GoPro/test/input/a.png", 1)
    command = ("eval", "deblur", "--clean", "GoPro/test/target", "--degraded", "GoPro/test/input")
    result = report(restormer(*command, "--json"))
    (condition,) = result["conditions"]
    expected = reference(blurry, clean)
    assert condition["mean"]["restored"] == pytest.approx(expected, abs=1e-5)
    assert condition["published"]["psnr"] == 32.92
    assert "0.950" in result["remark"]
    result = report(restormer(*command, "--json", "--window", "384"))
    assert result["conditions"][0]["published"]["psnr"] == 33.57


@pytest.mark.parametrize("channels", [1, 3])
def test_two_views_are_measured(
    channels: int, tiny: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--degraded has the left views, --right the right ones; --pair order matches by order."""
    dual = tiny("dual.pth", in_channels=6, dual_pixel=True)
    for seed, name in enumerate(("DPDD/indoor/target/9.png", "l/1.png", "r/1.png")):
        smooth(name, seed, (24, 40, channels))
    command = ("eval", "defocus", "--clean", "DPDD/indoor/target", "--degraded", "l")
    command = (*command, "--right", "r", "--weights", dual, "--json")
    assert restormer(*command).status == 2
    outcome = restormer(*command, "--pair", "order")
    assert outcome.status == 0
    assert report(outcome)["conditions"][0]["published"]["psnr"] == 29.48


def test_a_pair_of_float_images_is_on_the_scale_of_the_clean_one(
    restormer: Callable[..., Outcome],
) -> None:
    """A dark degraded image is not brightened to its own range before it is measured."""
    x = np.tile(np.linspace(0, 200, 40, dtype=np.float32), (24, 1))[..., None]
    for folder, image in (("clean", x), ("dark", x / 8)):
        Path(folder).mkdir()
        image_io.write_image(Image(image), Path(folder, "a.tif"))
    outcome = restormer("eval", "deblur", "--clean", "clean", "--degraded", "dark", "--json")
    (measured,) = report(outcome)["conditions"][0]["images"]
    expected = peak_signal_noise_ratio(x / 255, x / 8 / 255, data_range=1)
    assert measured["degraded"]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_the_table_shows_the_protocol_and_all_scores(
    restormer: Callable[..., Outcome], weights: Path
) -> None:
    """The table has weights, hash, protocol, precision, images, means and published results."""
    for i in range(2):
        smooth(f"McMaster/{i}.png", i)
    outcome = restormer("eval", "denoise", "--clean", "McMaster", "--sigma", "25")
    assert outcome.status == 0
    shown = outcome.stdout.decode()
    words = " ".join(shown.split())
    for text in (
        "McMaster, 2 of 18 images, denoise",
        "identity.pth (file)",
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        "whole, in fp32 on cpu",
        "RandomState(0)",
        "clamped and rounded to 8 bits",
        "Wang et al. 2004",
        "the paper's, blind 33.31",
    ):
        assert text in words
    lines = [line.split() for line in shown.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("0.png", "1.png", "mean")] == [
        "0.png",
        "1.png",
        "mean",
    ]


@pytest.mark.parametrize("count", [11, 12])
def test_an_incomplete_set_is_not_comparable_with_the_paper(
    count: int, restormer: Callable[..., Outcome]
) -> None:
    """A remark has both numbers of images, unless they are equal; the CSV has the published one."""
    for i in range(count):
        smooth(f"Set12/{i}.png", i, (11, 11, 1))
    command = ("eval", "denoise", "--clean", "Set12", "--sigma", "25")
    remark = "Not comparable: the paper measured all 12 images of Set12, this run 11."
    outcome = restormer(*command, "--json", "--csv", "t.csv")
    assert report(outcome)["remark"] == (remark if count == 11 else "")
    *images, mean = csv.DictReader(Path("t.csv").read_text().splitlines())
    assert {row["published_images"] for row in images} == {""}
    assert (mean["published_psnr"], mean["published_images"]) == ("31.04", "12")
    shown = " ".join(restormer(*command).stdout.decode().split())
    assert (remark in shown) == (count == 11)


def test_the_csv_contains_the_table(restormer: Callable[..., Outcome]) -> None:
    """The file has a line for each image and one for the mean, with the settings."""
    for i in range(2):
        smooth(f"a/{i}.png", i)
    command = ("eval", "derain", "--clean", "a", "--degrade", "rain:light")
    outcome = restormer(*command, "--csv", "t.csv")
    assert outcome.status == 0
    assert Path("t.csv").read_bytes().startswith(evaluation.TABLE_START)
    rows = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["0.png", "1.png", "mean"]
    mean = (float(rows[0]["restored_psnr"]) + float(rows[1]["restored_psnr"])) / 2
    assert float(rows[2]["restored_psnr"]) == pytest.approx(mean)
    assert {row["condition"] for row in rows} == {"rain:light"}
    assert {row["weights"] for row in rows} == {"identity.pth"}
    assert rows[0]["precision"] == "fp32"
    refused = restormer(*command, "--csv", "no/such/t.csv")  # refused before measuring
    assert refused.status == 2
    assert refused.stdout == b""
    assert refused.stderr.startswith("error: no/such/t.csv: there is no such folder")


def test_the_csv_replaces_only_tables(restormer: Callable[..., Outcome]) -> None:
    """A photograph or text is refused before measuring; a table or an empty file is replaced."""
    smooth("a/1.png")
    command = ("eval", "derain", "--clean", "a", "--degrade", "rain:light", "--csv")
    Path("notes.txt").write_text("a,condition,image,\n")
    for name in ("a/1.png", "notes.txt"):
        before = Path(name).read_bytes()
        outcome = restormer(*command, name)
        assert (outcome.status, outcome.stdout) == (2, b"")
        assert f"{name}: exists and is not a table of restormer" in outcome.stderr
        assert Path(name).read_bytes() == before
    Path("t.csv").touch()
    for _ in range(2):
        assert restormer(*command, "t.csv").status == 0
        assert Path("t.csv").stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="names must be text elsewhere")
def test_the_csv_has_the_bytes_of_names(restormer: Callable[..., Outcome]) -> None:
    """A name that is not UTF-8 is written as it is in the file system."""
    smooth("a/1.png")
    os.rename(b"a/1.png", b"a/\xff.png")  # noqa: PTH104 - Path takes no bytes
    command = ("eval", "derain", "--clean", "a", "--degrade", "rain:light", "--csv", "t.csv")
    assert restormer(*command).status == 0
    assert Path("t.csv").read_bytes().splitlines()[1].startswith(b"rain:light,\xff.png,")


def test_an_unusable_image_does_not_stop_the_evaluation(restormer: Callable[..., Outcome]) -> None:
    """Damaged images, unequal sizes and images too small for SSIM are reported, with status 1."""
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
    for text in ("b/2.png is 32 x 24 pixels, a/2.png 40 x 24", "needs 11 x 11", "a/4.png: not an"):
        assert text in outcome.stderr


def test_an_infinite_psnr_is_null_in_json(restormer: Callable[..., Outcome]) -> None:
    """JSON has no infinity, so that equal images get null."""
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
def test_invalid_options_are_refused(
    options: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """The status is 2, nothing is computed, and the error has a hint."""
    for name in ("a/1.png", "b/2.png", "b2/1.png", "b2/2.png"):
        smooth(name)
    Path("empty").mkdir()
    outcome = restormer("eval", *options)
    assert outcome.status == 2
    assert "error: " in outcome.stderr
    assert "hint: " in outcome.stderr
    assert outcome.stdout == b""


def test_an_unknown_task_is_named(restormer: Callable[..., Outcome]) -> None:
    """The error has the word that is no task."""
    outcome = restormer("eval", "dehaze", "--clean", "a")
    assert outcome.status == 2
    assert "'dehaze'" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (("--noise", "real"), "note: --noise: no effect with "),
        (("--sigma", "15", "--per-sigma"), "note: --per-sigma: no effect with "),
        (("--gray",), "note: --gray, as a choice of weights: no effect with "),
    ],
)
def test_choices_among_official_weights(
    words: tuple[str, ...], note: str, restormer: Callable[..., Outcome]
) -> None:
    """A note says that these options do not choose among other weights."""
    smooth("a/1.png")
    outcome = restormer("eval", "denoise", "--clean", "a", *words)
    assert outcome.status == 0
    assert note in outcome.stderr
    assert "no effect" not in restormer("eval", "denoise", "--clean", "a").stderr


def test_per_sigma_uses_the_weights_of_each_level(
    publish: Callable[..., Any], identity: Callable[..., Path], restormer: Callable[..., Outcome]
) -> None:
    """--per-sigma uses and names the official checkpoint of each level."""
    for level in (15, 25):
        publish(
            f"gaussian_gray_denoising_sigma{level}",
            identity(in_channels=1, out_channels=1).read_bytes(),
        )
    smooth("Set12/1.png")  # in colour; --gray converts it
    command = ("eval", "denoise", "--clean", "Set12", "--sigma", "15,25", "--per-sigma", "--gray")
    result = report(restormer(*command, "--weights", "official", "--json"))
    assert [condition["weights"]["name"] for condition in result["conditions"]] == [
        "gaussian_gray_denoising_sigma15",
        "gaussian_gray_denoising_sigma25",
    ]
    assert [condition["published"]["psnr"] for condition in result["conditions"]] == [33.42, 31.08]
    assert result["conditions"][0]["images"][0]["channels"] == 1


def test_the_pixels_of_an_image_seed_its_degradation(restormer: Callable[..., Outcome]) -> None:
    """Name, format and folder of an image have no influence on its degradation."""
    smooth("a/1.png"), smooth("a/2.png", 1)
    smooth("b/1.png", 1), smooth("b/zwei.tif")
    results = [
        report(restormer("eval", "derain", "--clean", folder, "--degrade", "rain:heavy", "--json"))
        for folder in ("a", "b")
    ]
    first, second = (
        [image["degraded"] for image in result["conditions"][0]["images"]] for result in results
    )
    assert first == second[::-1]
    assert first[0] != first[1]
    assert presets.seed(np.zeros((4, 6, 3))) != presets.seed(np.zeros((6, 4, 3)))


@pytest.mark.parametrize("kind", presets.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_higher_severity_degrades_more(kind: str, channels: int) -> None:
    """The error rises with the severity; shape and channels stay, values fit in 8 bits."""
    clean = smooth("a.png", 3, (64, 80, channels)).astype(np.float32)
    errors = []
    for severity in presets.SEVERITIES:
        degraded = presets.parse_degradation(f"{kind}:{severity}").apply(clean)
        assert degraded.shape == clean.shape
        assert np.array_equal(degraded, (np.rint(degraded * 255) / 255).astype(np.float32))
        errors.append(float(np.square(degraded - clean).mean()))
    assert 1e-5 < errors[0] < errors[1] < errors[2]


def test_bands_tell_what_is_left(restormer: Callable[..., Outcome]) -> None:
    """A network that changes nothing leaves all the noise and rain, and loses no detail."""
    smooth("a/1.png", 0, (80, 96, 3))
    smooth("a/2.png", 1, (90, 80, 3))
    command = ("eval", "derain", "--clean", "a", "--degrade", "rain:medium")
    (condition,) = report(restormer(*command, "--bands", "--json"))["conditions"]
    bands = condition["bands"]
    for shares in (bands["luma"], bands["chroma"]):
        assert list(shares) == ["1/1", "1/2", "1/4", "1/8", "1/16"]
        assert list(shares.values()) == pytest.approx([1] * 5, abs=1e-3)
    assert (bands["strong"], bands["weak"]) == pytest.approx((1, 1))
    assert bands["drift"] > 5
    (without,) = report(restormer(*command, "--json"))["conditions"]
    assert without["bands"] is None
    assert {**condition, "images": 0, "bands": 0} == {**without, "images": 0, "bands": 0}


def test_bands_are_printed(restormer: Callable[..., Outcome]) -> None:
    """There is a table for each condition; images smaller than 64 pixels have no bands."""
    smooth("a/1.png", 0, (80, 96, 3))
    smooth("b/1.png", 0, (40, 40, 3))
    text = restormer(
        "eval", "denoise", "--clean", "a", "--sigma", "15,25", "--bands"
    ).stdout.decode()
    assert text.count("noise left in chroma") == 2
    assert "100" in text.split("noise left in luma")[1].splitlines()[0]
    assert "streaks" not in text
    text = restormer(
        "eval", "derain", "--clean", "b", "--degrade", "rain:heavy", "--bands"
    ).stdout.decode()
    assert text.split("detail lost in luma")[1].split()[:5] == ["-"] * 5
    assert "100 % in weak ones" in text
