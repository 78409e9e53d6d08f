"""The meaning of samples on the way through a run: scales, bands, alpha and grey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import numpy as np
import pytest

from restormer_cli.batch import event_schema
from restormer_cli.imaging.image import Image
from restormer_cli.imaging.io import read_image, write_image
from tests.support.image_files import noise
from tests.support.scenes import smooth_picture
from tests.support.tiff_files import EXTRA_SAMPLES, extra_samples, tiff

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.program import Outcome

pytestmark = pytest.mark.usefixtures("folder")
VALIDATOR = jsonschema.Draft202012Validator(event_schema())


@pytest.fixture
def network(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every command use a network that changes its input."""
    monkeypatch.setenv("RESTORMER_WEIGHTS", str(tiny()))
    monkeypatch.setenv("RESTORMER_DEVICE", "cpu")
    monkeypatch.setenv("RESTORMER_PRECISION", "fp32")


def event(outcome: Outcome, kind: str = "restored") -> dict:
    """Return the event of the only image."""
    assert outcome.status == 0, outcome.stderr
    for each in outcome.events:
        VALIDATOR.validate(each)
    (found,) = [each for each in outcome.events if each["event"] == kind]
    return found


def pfm(samples: np.ndarray) -> bytes:
    height, width, depth = samples.shape
    header = b"%s\n%d %d\n-1.0\n" % (b"PF" if depth == 3 else b"Pf", width, height)
    return header + samples[::-1].astype("<f4").tobytes()


BANDS = {
    "rgb+nir": (4, "uint8", 2, [0]),
    "rgb+nir+alpha": (5, "uint16", 2, [0, 2]),
    "four bands": (4, "float32", 1, [0, 0, 0]),
    "twelve bands": (12, "uint16", 1, [0] * 11),
    "int16": (4, "int16", 2, [0]),
}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("case", BANDS)
@pytest.mark.parametrize("planar", [False, True])
def test_bands_are_carried_in_place(
    case: str, planar: bool, restormer: Callable[..., Outcome]
) -> None:
    """Colour is restored; bands and alpha keep their samples, order and meaning."""
    count, dtype, photometric, codes = BANDS[case]
    samples = noise(24, 32, count, "uint8").astype(dtype)
    path = Path("a.tif")
    path.write_bytes(tiff(samples, photometric, {EXTRA_SAMPLES: codes}, planar=planar))
    before = read_image(path)
    found = event(restormer("denoise", "--in-place", path, "--json"))
    data = path.read_bytes()
    assert extra_samples(data) == codes
    after = read_image(data)
    assert not np.array_equal(after.pixels, before.pixels)
    np.testing.assert_array_equal(after.bands, before.bands)
    if before.alpha is not None:
        np.testing.assert_array_equal(after.alpha, before.alpha)
    number = codes.count(0)
    bands = "1 band of unspecified meaning is" if number == 1 else f"{number} bands of"
    assert any(bands in note and "carried unchanged" in note for note in found["notes"])
    warned = any("only the first of" in warning for warning in found["warnings"])
    assert warned == (photometric == 1)


@pytest.mark.usefixtures("weights")
def test_bands_that_a_format_lacks_are_named(restormer: Callable[..., Outcome]) -> None:
    """A PNG of four bands is RGB without alpha, and a note says what is missing."""
    Path("a.tif").write_bytes(tiff(noise(24, 32, 4), 2, {EXTRA_SAMPLES: [0]}))
    found = event(restormer("denoise", "a.tif", "-o", "a.png", "--json"))
    assert read_image(Path("a.png")).alpha is None
    assert any("png has no further bands: 1" in note for note in found["notes"])


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("full", [255, 65535])
@pytest.mark.parametrize("kind", ["pfm", "tiff"])
def test_a_float_image_is_restored_on_its_own_scale(
    full: int, kind: str, restormer: Callable[..., Outcome]
) -> None:
    """Noise, change and result are those of the same picture in integers."""
    levels = np.rint(np.clip(smooth_picture(0.05), 0, 1) * full)
    levels[0, 0] = 0, full, full
    dtype = "uint8" if full == 255 else "uint16"
    write_image(Image(levels.astype(dtype)), Path("integers.png"))
    name = "float.pfm" if kind == "pfm" else "float.tif"
    data = pfm(levels) if kind == "pfm" else tiff(levels.astype("f4"), 2)
    Path(name).write_bytes(data)
    integers = event(restormer("denoise", "integers.png", "-o", "out.png", "--json"))
    found = event(restormer("denoise", name, "--json"))
    assert found["output"] == "float.restored.tif"
    assert (found["scale"], integers["scale"]) == ([0, full], None)
    assert f"samples range from 0 to {full}: restored on the scale 0..{full}" in found["notes"]
    for field in ("mean_absolute_change", "colour_drift"):
        assert found[field] == pytest.approx(integers[field], rel=1e-3)
    assert found["noise"] == pytest.approx(integers["noise"], abs=0.02)
    result = read_image(Path("float.restored.tif"))
    assert result.pixels.dtype == np.float32
    np.testing.assert_allclose(result.pixels, read_image(Path("out.png")).pixels, atol=0.6)


@pytest.mark.usefixtures("weights")
def test_a_dry_run_reports_the_scale(restormer: Callable[..., Outcome]) -> None:
    """Also for images on the scale 0..1; it is null for integers."""
    for name, samples, scale in (
        ("a.tif", smooth_picture(), [0, 1]),
        ("b.tif", smooth_picture() * 4095, [0, 4095]),
        ("c.tif", noise(24, 32, 3), None),
    ):
        Path(name).write_bytes(tiff(samples, 2))
        assert event(restormer("denoise", name, "--dry-run", "--json"), "planned")["scale"] == scale


@pytest.mark.usefixtures("weights")
def test_a_png_of_a_float_image_has_its_scale(restormer: Callable[..., Outcome]) -> None:
    """If the user names a PNG, black and white are those of the scale, with a note."""
    samples = np.float32(255) * smooth_picture()
    Path("a.pfm").write_bytes(pfm(samples))
    found = event(restormer("denoise", "a.pfm", "-o", "a.png", "--json"))
    pixels = read_image(Path("a.png")).pixels
    np.testing.assert_allclose(pixels / 65535, samples / 255, atol=1e-5)
    assert "0..255 becomes 0..65535" in found["notes"]


@pytest.mark.usefixtures("weights")
def test_a_report_shows_float_images(restormer: Callable[..., Outcome]) -> None:
    """The page of a run and that of a manifest accept images on their own scale."""
    Path("in").mkdir()
    Path("in/a.tif").write_bytes(tiff(smooth_picture(0.05) * np.float32(255), 2))
    assert restormer("denoise", "in", "-o", "out/", "--report", "run.html").status == 0
    assert restormer("report", "out").status == 0
    recorded = json.loads(Path("out/.restormer.jsonl").read_text())
    assert recorded["scale"] == [0, 255]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_neutral_images_stay_neutral(dtype: str, restormer: Callable[..., Outcome]) -> None:
    """Equal channels stay equal, and are those of the grey file."""
    grey = noise(24, 32, 1, dtype)
    write_image(Image(grey), Path("grey.tif"))
    write_image(Image(np.repeat(grey, 3, axis=2)), Path("colour.tif"))
    assert restormer("denoise", "grey.tif", "colour.tif", "-o", "out/").status == 0
    expected = read_image(Path("out/grey.tif")).pixels
    assert not np.array_equal(expected, grey)
    result = read_image(Path("out/colour.tif")).pixels
    np.testing.assert_array_equal(result, np.repeat(expected, 3, axis=2))


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_hidden_colour_has_no_influence(name: str, restormer: Callable[..., Outcome]) -> None:
    """Images that differ only where alpha is 0 give the same visible colour."""
    alpha = np.zeros((24, 32), np.uint8)
    alpha[6:20, 8:28] = 255
    results = []
    for hidden in (0, 255):
        pixels = noise(24, 32, 3)
        pixels[alpha == 0] = hidden
        write_image(Image(pixels, alpha), Path(name), quality=100)
        assert restormer("denoise", name, "-o", f"out-{name}", "--quality", "100").status == 0
        result = read_image(Path(f"out-{name}")).pixels
        assert (result[alpha == 0] == hidden).all()
        results.append(result[alpha > 0])
    np.testing.assert_array_equal(*results)


@pytest.mark.usefixtures("weights")
def test_the_noise_of_hidden_colour_is_not_reported(restormer: Callable[..., Outcome]) -> None:
    """Flat colour under alpha 0 does not make a noisy image look clean."""
    pixels = (255 * smooth_picture(0.08)).clip(0, 255).astype(np.uint8)
    alpha = np.full((80, 96), 255, np.uint8)
    pixels[:50], alpha[:50] = 128, 0
    write_image(Image(pixels, alpha), Path("a.png"))
    assert 15 < event(restormer("denoise", "a.png", "--json"))["noise"]["sigma"] < 25


@pytest.mark.parametrize("task", ["denoise", "derain", "deblur", "defocus"])
def test_flat_borders_do_not_drift(
    task: str, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lite networks give flat images and borders back within about a level."""
    monkeypatch.setenv("RESTORMER_DEVICE", "cpu")
    bordered = np.full((120, 120, 3), 128, np.float32)
    bordered[48:72, 48:72] = noise(24, 24, 3)
    images = {
        "one": np.full((1, 1, 3), (200, 30, 30)),
        "small": np.full((5, 9, 3), (20, 60, 200)),
        "flat": np.full((64, 40, 3), (90, 128, 250)),
        "border": bordered,
    }
    for name, samples in images.items():
        write_image(Image((samples / 255).astype(np.float32)), Path(f"{name}.tif"))
    outcome = restormer(task, *(f"{n}.tif" for n in images), "--weights", "lite", "-o", "out/")
    assert outcome.status == 0, outcome.stderr
    for name, samples in images.items():
        drift = np.abs(255 * read_image(Path(f"out/{name}.tif")).pixels - samples)
        if name == "border":
            drift = np.concatenate([drift[:4].ravel(), drift[-4:].ravel(), drift[:, -4:].ravel()])
        assert drift.max() < 1.5
