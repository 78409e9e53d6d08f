"""The command `train`."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from restormer_cli import training
from restormer_cli.checkpoints import serialization
from restormer_cli.cli import train
from restormer_cli.imaging import io as image_io
from restormer_cli.training.patches import to_batch
from restormer_cli.training.state import STAGES
from tests.support.networks import tiny_network
from tests.support.program import Outcome
from tests.support.training import TWO_VIEWS, provenance


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command train on small batches."""
    monkeypatch.setenv("RESTORMER_STAGES", "0:32:2")


def test_a_network_learns_from_pairs(
    photos: Path, noisy: Path, tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """`--pairs` and `--start` fine-tune a checkpoint, which then improves the degraded photos."""
    (photos / "alone.png").write_bytes((photos / "0.png").read_bytes())
    start = tmp_path / "start.pth"
    torch.save({"params": tiny_network(3).state_dict()}, start)
    output = tmp_path / "tuned.safetensors"
    words = ("--start", start, "--steps", 30, "--validate-every", 15, "--learning-rate", 3e-3)
    outcome = restormer("train", "denoise", "--pairs", noisy, photos, "-o", output, *words)
    assert outcome.status == 0
    assert "alone.png: no image of this name" in outcome.stderr
    origin = provenance(output)
    assert origin["pairs"] is True
    assert origin["started_from"] == "start.pth"
    assert origin["validation_psnr"] > origin["validation_psnr_degraded"] + 1
    assert serialization.load_network(output).architecture == tiny_network(3).architecture


def test_a_dual_pixel_network_learns_from_two_views(
    photos: Path,
    noisy: Path,
    tmp_path: Path,
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
) -> None:
    """`--pairs LEFT CLEAN --right RIGHT` trains it, and names photos without both views."""
    start = tiny("dual.pth", seed=3, in_channels=6, dual_pixel=True)
    right = tmp_path / "right"
    shutil.copytree(noisy, right)
    (right / "1.jpg").unlink()
    output = tmp_path / "tuned.safetensors"
    words = ("--start", start, "--steps", 30, "--validate-every", 15, "--learning-rate", 3e-3)
    views = ("--pairs", noisy, photos, "--right", right)
    outcome = restormer("train", "defocus", *views, "-o", output, *words)
    assert outcome.status == 0
    assert "1.png: no image of this name in the other folder" in outcome.stderr
    network = serialization.load_network(output)
    assert network.architecture == TWO_VIEWS
    left, clean = (
        to_batch(torch.tensor(image_io.read_image(path).pixels[None]))
        for path in (noisy / "0.jpg", photos / "0.png")
    )
    before, after = (
        (serialization.load_network(path)(left.repeat(1, 2, 1, 1)) - clean).square().mean()
        for path in (start, output)
    )
    assert after < before / 2


@pytest.mark.parametrize("words", [(), ("--photos", "a", "--pairs", "a", "b")])
def test_either_photos_or_pairs_are_required(
    words: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """Giving neither or both is a usage error."""
    outcome = restormer("train", "denoise", *words, "-o", "a.safetensors", "--steps", 1)
    assert outcome.status == 2
    assert "Give --photos DIR, or --pairs DEGRADED CLEAN." in outcome.stderr


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
def test_loss_and_psnr_are_plotted(
    name: str,
    photos: Path,
    tmp_path: Path,
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--plot` draws all validations, including those before an interruption."""
    pytest.importorskip("matplotlib")
    drawn: list[list[int]] = []
    draw = train.draw_curves
    monkeypatch.setattr(train, "draw_curves", lambda h, p: (drawn.append(sorted(h)), draw(h, p)))
    options = ("-o", tmp_path / "a.safetensors", "--validate-every", 1)
    for steps in (1, 2):
        words = (*options, "--steps", steps, "--plot", tmp_path / name, "-q")
        outcome = restormer("train", "denoise", "--photos", photos, *words)
        assert outcome.status == 0, outcome.stderr
    assert drawn == [[1], [1, 2]]
    assert (tmp_path / name).stat().st_size > 5000


def test_a_plot_that_cannot_be_drawn_is_refused_first(
    photos: Path, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown format or a missing matplotlib is an error before training starts."""
    line = ("train", "denoise", "--photos", photos, "-o", "a.safetensors", "--steps", 1, "--plot")
    outcome = restormer(*line, "a.txt")
    assert outcome.status == 2
    assert "error: a.txt" in outcome.stderr
    assert ".png, .svg, .pdf" in outcome.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = restormer(*line, "a.png")
    assert outcome.status == 2
    assert "restormer-cli[plot]" in outcome.stderr


def test_other_files_are_not_replaced(
    photos: Path, tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """An output that is not a .safetensors file, or a plot over a photo, is refused first."""
    photo = photos / "0.png"
    before = photo.read_bytes()
    line = ("train", "denoise", "--photos", photos, "--steps", 1)
    refused = {
        "not the name of a file of weights": (("-o", photo), ("-o", tmp_path / "weights")),
        "exists and is not a plot": (("-o", tmp_path / "a.safetensors", "--plot", photo),),
    }
    for message, options in refused.items():
        for words in options:
            outcome = restormer(*line, *words)
            assert outcome.status == 2
            assert message in outcome.stderr
    assert photo.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_stages_and_the_scale_of_batches_are_options(
    photos: Path, tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """`--stages` and `--batch-scale` determine the batches, as the weights' record shows."""
    output = tmp_path / "a.safetensors"
    line = ("train", "denoise", "--photos", photos, "-o", output, "--steps", 1)
    outcome = restormer(*line, "--stages", "0:16:2,0.5:32:1", "--batch-scale", 1.5, "--json")
    assert outcome.status == 0, outcome.stderr
    assert provenance(output)["settings"]["stages"] == [[0.0, 16, 3], [0.5, 32, 2]]
    outcome = restormer(*line, "--stages", "0:16")
    assert outcome.status == 2
    assert "--stages '0:16'" in outcome.stderr
    assert restormer(*line, "--batch-scale", 0).status == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--stages", "0:200:2", "patches of 200 pixels"),
        ("--stages", "0:200:2", "hint: Give 192 or 208."),
        ("--stages", "0:8:2", "hint: Give 16."),
        ("--stages", "0:64:0", "0 patches per batch"),
        ("--stages", "0.1:64:1,0.5:64:1", "the starts are 0.1, 0.5"),
        ("--learning-rate", "-1", "--learning-rate is -1"),
        ("--learning-rate", "nan", "--learning-rate is nan"),
        ("--learning-rate", "inf", "--learning-rate is inf"),
        ("--batch-scale", "1e20", "patches per batch"),
        ("--seed", "99999999999999999999", "--seed is 99999999999999999999"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    option: str, value: str, message: str, photos: Path, restormer: Callable[..., Outcome]
) -> None:
    """The error has the option and its value, and the hint says what can be used."""
    line = ("train", "denoise", "--photos", photos, "-o", "a.safetensors", "--steps", 1)
    outcome = restormer(*line, option, value)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert "hint: " in outcome.stderr


@pytest.mark.parametrize(("task", "words"), [("denoise", "chroma"), ("derain", "strong streaks")])
def test_a_validation_reports_what_is_left(
    task: str, words: str, photos: Path, tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """Beside the PSNR, a validation has the noise or rain left, a clean image and the drift."""
    line = ("train", task, "--photos", photos, "-o", tmp_path / "a.safetensors", "--device", "cpu")
    outcome = restormer(*line, "--steps", 1)
    assert outcome.status == 0, outcome.stderr
    (text,) = [row for row in outcome.stderr.splitlines() if "left:" in row]
    for expected in (words, "detail lost", "worst clean image", "drift"):
        assert expected in text
    outcome = restormer(*line, "--steps", 2, "--json")
    validation = outcome.events[-1]["validation"]
    assert set(validation) == {"psnr", "clean", "remains"}
    assert set(validation["remains"]["chroma"]) == {"1/1", "1/2", "1/4", "1/8", "1/16"}


def test_the_documented_stages_are_the_default(restormer: Callable[..., Outcome]) -> None:
    """The help and the documentation show the stages of a run without `--stages`."""
    default = re.compile(r"0:64:16[0-9.:,]*[0-9]")
    shown = re.sub(r"[│\s]", "", restormer("train", "--help").stdout.decode())
    documented = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    for text in (shown, documented):
        (stages,) = set(default.findall(text))
        assert training.parse_stages(stages) == STAGES
