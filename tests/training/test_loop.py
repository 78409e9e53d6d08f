"""The training loop, on tiny networks and photos: what it learns, keeps, says, and goes on from."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from restormer_cli.checkpoints import serialization
from restormer_cli.cli import train
from restormer_cli.degradations.noise import blind_gaussian_noise, gaussian_noise
from restormer_cli.degradations.sampling import reflected
from restormer_cli.errors import CheckpointError, RestormerError, UsageError
from restormer_cli.imaging import io as image_io
from restormer_cli.training import loop
from restormer_cli.training.dataset import (
    Sample,
    SampleSpec,
    degrading,
    load_photos,
    patches,
    photographed,
    to_tensor,
)
from restormer_cli.training.loop import Report, Settings
from restormer_cli.training.state import Run
from tests.support.networks import TINY, tiny_network
from tests.support.program import PROGRAM, Outcome, python

TWO_VIEWS = replace(TINY, in_channels=6, dual_pixel=True)
GREY = replace(TINY, in_channels=1, out_channels=1)
SMALL: tuple[tuple[float, int, int], ...] = ((0.0, 32, 2),)
SIX = Settings(steps=6, validate_every=3, stages=SMALL)


def noise_25(x: Tensor, generator: Generator) -> Tensor:
    return gaussian_noise(x, generator, 25.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of 96 x 96, of smooth colours with a disk in them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    y, x = np.mgrid[:96, :96] / 96
    for n in range(5):
        planes = [0.5 + 0.4 * np.sin(n + (3 + n) * x + (c + 2) * y) for c in range(3)]
        pixels = (np.stack(planes, -1) * 255).astype(np.uint8)
        cv2.circle(pixels, (30 + 8 * n, 50), 20, (200, 40 * n, 30), -1)
        (folder / f"{n}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return folder


def run(photos: Path, output: Path, settings: Settings = SIX, **options: Any) -> list[Report]:
    """A whole training, in which nothing is to be said unless the test listens."""
    options = {"architecture": TINY, **options}
    return list(loop.train("denoise", photos, output, settings, **options))


def state(output: Path) -> dict[str, Any]:
    return torch.load(output.with_name(output.name + ".resume"), weights_only=True)


def weights(output: Path) -> dict[str, Tensor]:
    return serialization.read(output)[0]


def record(output: Path) -> dict[str, Any]:
    return json.loads(serialization.read(output)[1]["record"])


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# --- learning ---


@pytest.mark.slow
def test_it_learns_to_remove_noise(photos: Path, tmp_path: Path) -> None:
    """In 60 steps the loss falls by a third, and held-out PSNR passes that of the noisy photo."""
    output = tmp_path / "a.safetensors"
    settings = Settings(steps=60, validate_every=20, stages=SMALL, learning_rate=3e-3)
    reports = run(photos, output, settings, degrade=noise_25)
    assert [r.step for r in reports] == [20, 40, 60]
    assert reports[-1].loss < reports[0].loss * 0.67
    assert reports[-1].best > record(output)["validation_psnr_degraded"] + 1
    assert reports[-1].progress == 1


def test_the_file_loads_and_says_how_it_came_to_be(photos: Path, tmp_path: Path) -> None:
    """It is fp16, of the network that was asked for, and holds what a model card needs."""
    output = tmp_path / "made" / "on the way" / "lite.safetensors"
    reports = run(photos, output)
    network = serialization.load_network(output)
    assert network.architecture == TINY
    assert output.stat().st_size < 2.5 * sum(p.numel() for p in network.parameters())
    said = record(output)
    assert said["task"] == "denoise"
    assert (said["photos"], said["held_out"]) == (4, 1)
    assert said["settings"]["stages"] == [[0.0, 32, 2]]
    assert said["validation_psnr"] == round(max(r.psnr for r in reports), 3)
    assert said["megapixels"] == round(said["steps"] * 2 * 32 * 32 / 1e6, 1)
    assert said["device"].endswith("cpu")
    missing = {"restormer", "torch", "date", "hours", "photo_megapixels", "validation"} - set(said)
    assert not missing


def test_the_best_is_kept(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays that of the highest validation, though later ones are lower."""
    output = tmp_path / "a.safetensors"
    # The first is the noisy photos' own.
    scores = iter([20.0, 30.0, 32.0, 31.0])
    monkeypatch.setattr(loop, "mean_psnr", lambda *_: next(scores))
    reports = run(photos, output, replace(SIX, validate_every=2))
    assert [(r.psnr, r.best) for r in reports] == [(30, 30), (32, 32), (31, 32)]
    assert record(output)["steps"] == 4


def test_photos_held_out_are_never_trained_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out photos give no patch, and are the same ones however long and however seeded."""
    seen: list[set[str]] = []
    original = loop.patches

    def watch(photos: list[Sample], *rest: Any) -> Tensor:
        seen.append({photo.digest for photo in photos})
        return original(photos, *rest)

    monkeypatch.setattr(loop, "patches", watch)
    held_out = []
    for n, settings in enumerate([SIX, replace(SIX, steps=2), replace(SIX, seed=7)]):
        run(photos, tmp_path / f"{n}.safetensors", settings)
        held_out.append(state(tmp_path / f"{n}.safetensors")["held_out"])
    assert held_out[0] == held_out[1] == held_out[2]
    assert all(digests.isdisjoint(held_out[0]) and len(digests) == 4 for digests in seen)


def test_it_goes_on_from_given_weights(photos: Path, tmp_path: Path) -> None:
    """Fine-tuning takes the file's architecture and starts where it ends, leaving it as it is."""
    start = tmp_path / "start.safetensors"
    network = tiny_network(3, layer_norm="BiasFree", refinement=2)
    serialization.save_network(network.state_dict(), network.architecture, start)
    before = start.read_bytes()
    output = tmp_path / "tuned.safetensors"
    run(photos, output, replace(SIX, learning_rate=1e-7), start=start, architecture=loop.LITE)
    tuned = serialization.load_network(output)
    assert tuned.architecture == network.architecture
    for ours, theirs in zip(tuned.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)
    assert start.read_bytes() == before
    assert record(output)["started_from"] == "start.safetensors"


@pytest.fixture
def noisy(photos: Path, tmp_path: Path) -> Path:
    """The five photos with noise of sigma 25, as JPEG files: their names end otherwise."""
    folder = tmp_path / "noisy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for path in photos.iterdir():
        pixels = cv2.imread(str(path)) + rng.normal(0, 25, (96, 96, 3))
        data = cv2.imencode(".jpg", pixels.clip(0, 255).astype(np.uint8))[1]
        (folder / f"{path.stem}.jpg").write_bytes(data.tobytes())
    return folder


@pytest.mark.slow
def test_it_learns_from_pairs(
    photos: Path, noisy: Path, tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """`--pairs` takes both from files, starts from any checkpoint, and beats the noisy photos."""
    (photos / "alone.png").write_bytes((photos / "0.png").read_bytes())
    start = tmp_path / "start.pth"
    torch.save({"params": tiny_network(3).state_dict()}, start)
    output = tmp_path / "tuned.safetensors"
    words = ("--start", start, "--steps", 60, "--validate-every", 30, "--learning-rate", 3e-3)
    done = restormer("train", "denoise", "--pairs", noisy, photos, "-o", output, *words)
    assert done.status == 0
    assert "alone.png: there is none of its name" in done.stderr
    said = record(output)
    assert said["pairs"] is True
    assert said["started_from"] == "start.pth"
    assert said["validation_psnr"] > said["validation_psnr_degraded"] + 1
    assert serialization.load_network(output).architecture == tiny_network(3).architecture


@pytest.mark.slow
def test_a_grey_network_learns_from_colour_photos(photos: Path, tmp_path: Path) -> None:
    """They are made grey before they are degraded, and it beats the noisy ones."""
    output = tmp_path / "grey.safetensors"
    settings = Settings(steps=60, validate_every=30, stages=SMALL, learning_rate=3e-3)
    run(photos, output, settings, architecture=GREY, degrade=noise_25)
    said = record(output)
    # Made grey after it, the photos would have lost a third of their noise: 23.7 dB.
    assert said["validation_psnr_degraded"] == pytest.approx(20.17, abs=0.3)
    assert said["validation_psnr"] > said["validation_psnr_degraded"] + 1
    assert serialization.load_network(output).architecture == GREY


@pytest.mark.slow
def test_a_dual_pixel_network_learns_from_two_views(
    photos: Path,
    noisy: Path,
    tmp_path: Path,
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
) -> None:
    """`--pairs LEFT CLEAN --right RIGHT` tunes one, and photos without both views are named."""
    start = tiny("dual.pth", seed=3, in_channels=6, dual_pixel=True)
    right = tmp_path / "right"
    shutil.copytree(noisy, right)
    (right / "1.jpg").unlink()
    output = tmp_path / "tuned.safetensors"
    words = ("--start", start, "--steps", 60, "--validate-every", 30, "--learning-rate", 3e-3)
    views = ("--pairs", noisy, photos, "--right", right)
    done = restormer("train", "defocus", *views, "-o", output, *words)
    assert done.status == 0
    assert "1.png: there is none of its name in the other folder" in done.stderr
    network = serialization.load_network(output)
    assert network.architecture == TWO_VIEWS
    left, clean = (
        to_tensor([image_io.read_image(path).pixels])
        for path in (noisy / "0.jpg", photos / "0.png")
    )
    before, after = (
        (serialization.load_network(path)(left.repeat(1, 2, 1, 1)) - clean).square().mean()
        for path in (start, output)
    )
    assert after < before / 2


def test_the_two_of_a_pair_are_cut_and_turned_alike(photos: Path, tmp_path: Path) -> None:
    """Where the degraded photos are the clean ones, every pair is two equal images."""
    pairs = load_photos(photos, 5 * 50 * 50 * 6, lambda _: None, 16, [photos])
    assert {photo.pixels.shape for photo in pairs} == {(50, 50, 6)}
    drawn = patches(pairs, 32, 8, np.random.default_rng(0))
    degraded, clean = photographed()(drawn, Generator())
    assert torch.equal(degraded, clean)
    assert degraded.shape == (8, 3, 32, 32)


def test_pairs_of_different_sizes_are_left_out(photos: Path, noisy: Path, tmp_path: Path) -> None:
    """Each is named, and the others are used."""
    data = cv2.imencode(".jpg", np.zeros((80, 96, 3), np.uint8))[1]
    (noisy / "1.jpg").write_bytes(data.tobytes())
    said: list[str] = []
    assert len(load_photos(photos, 1 << 20, said.append, 16, [noisy])) == 4
    (line,) = said
    assert "1.png: not as large as" in line


def test_of_two_with_the_name_of_one_the_same_name_wins(photos: Path, tmp_path: Path) -> None:
    """1.png belongs to 1.png, in subfolders too; the other has no partner, which is told."""
    clean, degraded = tmp_path / "clean" / "a", tmp_path / "degraded" / "a"
    shutil.copytree(photos, clean)
    shutil.copytree(photos, degraded)
    (degraded / "1.jpg").write_bytes((photos / "2.png").read_bytes())
    said: list[str] = []
    pairs = load_photos(clean.parent, 1 << 20, said.append, 16, [degraded.parent])
    assert len(pairs) == 5
    assert all(np.array_equal(p.pixels[..., :3], p.pixels[..., 3:]) for p in pairs)
    (line,) = said
    assert line == f"left out: {degraded / '1.jpg'}: there is none of its name in the other folder"


def test_partners_must_be_in_a_folder(photos: Path, tmp_path: Path) -> None:
    """A mistyped one is told as such, not photo by photo."""
    with pytest.raises(UsageError, match="no such folder"):
        load_photos(photos, 1 << 20, lambda _: None, 16, [tmp_path / "nosiy"])


@pytest.mark.parametrize("words", [(), ("--photos", "a", "--pairs", "a", "b")])
def test_it_learns_from_one_thing(
    words: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """Neither photographs nor pairs, or both of them, is a usage error."""
    done = restormer("train", "denoise", *words, "-o", "a.safetensors", "--steps", 1)
    assert done.status == 2
    assert "--photos or --pairs is required" in done.stderr


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_the_course_is_drawn(
    name: str,
    photos: Path,
    tmp_path: Path,
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--plot` draws loss and PSNR of all validations, those before an interruption included."""
    pytest.importorskip("matplotlib")
    drawn: list[list[int]] = []
    draw = train.draw_curves
    monkeypatch.setattr(train, "draw_curves", lambda h, p: (drawn.append(sorted(h)), draw(h, p)))
    options = ("-o", tmp_path / "a.safetensors", "--validate-every", 1)
    for steps in (1, 2):
        words = (*options, "--steps", steps, "--plot", tmp_path / name, "-q")
        done = restormer("train", "denoise", "--photos", photos, *words)
        assert done.status == 0, done.stderr
    assert drawn == [[1], [1, 2]]
    assert (tmp_path / name).stat().st_size > 5000


def test_what_cannot_be_drawn_is_refused(
    photos: Path, restormer: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before hours are spent: no matplotlib, or no format of a picture."""
    line = ("train", "denoise", "--photos", photos, "-o", "a.safetensors", "--steps", 1, "--plot")
    assert "a.txt: plots have another format" in restormer(*line, "a.txt").stderr
    monkeypatch.setattr(train, "find_spec", lambda _: None)
    done = restormer(*line, "a.png")
    assert done.status == 2
    assert "restormer-cli[plot]" in done.stderr


# --- together ---

TOGETHER = """
import sys, torch
from tests.support.networks import tiny_network
from restormer_cli.training import distributed, loop, state

size = int(sys.argv[2])
batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
with distributed.join_ranks(torch.device("cpu")) as (team, device):
    assert team.size == size
    run = state.Run.begin("denoise", tiny_network(), device)
    forward = team.shared(run.network)
    mine = batch.chunk(size)[team.rank]
    for _ in range(3):
        loop.update(run, mine, mine**2, 1e-3, forward=forward)
    torch.save(run.network.state_dict(), f"{sys.argv[1]}/{size}-{team.rank}.pt")
"""


@pytest.mark.slow
def test_a_team_makes_the_steps_of_one_with_all_their_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes under torchrun hold the same weights, those of one with both batches."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    Path("together.py").write_text(TOGETHER)
    for size in (1, 2):
        words = ("--standalone", "--nproc-per-node", str(size), "together.py", ".", str(size))
        process = python("-m", "torch.distributed.run", *words)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    alone, first, second = (torch.load(f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert_same(first, second)
    for name in alone:
        torch.testing.assert_close(first[name], alone[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_training_runs_under_torchrun(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command on two processes: one of them speaks and saves, and both end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = f"train denoise --photos {photos} -o a.safetensors --steps 2 --validate-every 1"
    line = f"-m torch.distributed.run --standalone --nproc-per-node 2 {' '.join(PROGRAM)} {words}"
    process = python(*line.split(), "--device", "cpu")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stderr.count(b"step 1,") == stderr.count(b"step 2,") == 1
    assert record(Path("a.safetensors"))["processes"] == 2


# --- going on ---


def test_a_run_that_goes_on_is_the_run_that_was_not_interrupted(
    photos: Path, tmp_path: Path
) -> None:
    """Stopped after 3 of 6 steps and resumed: the same weights and reports, to the bit."""
    whole, halves = tmp_path / "whole.safetensors", tmp_path / "halves.safetensors"
    expected = run(photos, whole)
    first = loop.train("denoise", photos, halves, SIX, architecture=TINY)
    reports = [next(first)]
    first.close()
    reports += run(photos, halves)
    assert [r[:5] for r in reports] == [r[:5] for r in expected]
    assert_same(weights(halves), weights(whole))
    for part in ("network", "average"):
        assert_same(state(halves)[part], state(whole)[part])
    moments = zip(
        state(halves)["optimizer"]["state"].values(),
        state(whole)["optimizer"]["state"].values(),
        strict=True,
    )
    for ours, theirs in moments:
        assert_same(ours, theirs)


def test_batches_made_ahead_change_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches prepared on a thread, as for a GPU, and interrupted, it is the same run."""
    plain, ahead = tmp_path / "plain.safetensors", tmp_path / "ahead.safetensors"
    run(photos, plain)
    monkeypatch.setattr(loop, "AHEAD", {"cpu": 2})
    first = loop.train("denoise", photos, ahead, SIX, architecture=TINY)
    next(first)
    first.close()
    run(photos, ahead)
    assert_same(weights(ahead), weights(plain))


def test_batches_come_in_order_and_their_failure_too() -> None:
    """Made ahead or not, batches come in the order of steps; an error in making one is raised."""

    def make(step: int) -> Any:
        if step == 9:
            raise UsageError("nine")
        return step

    for ahead in (0, 1, 2):
        made = loop.batches(make, 4, ahead)
        assert list(itertools.islice(made, 5)) == [4, 5, 6, 7, 8]
        with pytest.raises(UsageError, match="nine"):
            next(made)


def test_an_interruption_leaves_the_last_state(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, be it in a step or while saving, leaves the last files whole and no others."""
    output = tmp_path / "out" / "a.safetensors"
    resume = output.with_name("a.safetensors.resume")
    first = loop.train("denoise", photos, output, SIX, architecture=TINY)
    next(first)
    kept = resume.read_bytes()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(first)
    monkeypatch.undo()

    def half(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        run(photos, output)
    assert resume.read_bytes() == kept
    assert sorted(p.name for p in output.parent.iterdir()) == [output.name, resume.name]


def test_a_finished_run_is_reported_again(photos: Path, tmp_path: Path) -> None:
    """The same command after the end makes no step, says what there is, and restores the file."""
    output = tmp_path / "a.safetensors"
    before = run(photos, output)[-1]
    output.unlink()
    (again,) = run(photos, output)
    assert again[:4] == before[:4]
    assert output.exists()


def test_hours_are_those_of_all_sittings(photos: Path, tmp_path: Path) -> None:
    """A run whose hours were used up before it was interrupted is over."""
    output = tmp_path / "a.safetensors"
    run(photos, output, replace(SIX, steps=2))
    resumed = Run.load(output.with_name(output.name + ".resume"), torch.device("cpu"))
    resumed.seconds = 1800.0
    resumed.save(output.with_name(output.name + ".resume"))
    (only,) = run(photos, output, Settings(hours=0.5, stages=SMALL))
    assert (only.step, only.progress) == (2, 1)
    assert state(output)["seconds"] >= 1800


def test_a_changed_folder_is_said_and_nothing_held_out_is_trained_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos may come and go between sittings; what was held out stays so, and it is told."""
    output = tmp_path / "a.safetensors"
    run(photos, output)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "z.png"):
        pixels = pixels[::-1] // 2
        (photos / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    before, said = state(output)["held_out"], []
    learned_from: set[str] = set()

    def watched(photos: Sequence[Sample], *rest: Any) -> Tensor:
        learned_from.update(photo.digest for photo in photos)
        return patches(photos, *rest)

    monkeypatch.setattr(loop, "patches", watched)
    (last,) = run(photos, output, replace(SIX, steps=8, validate_every=8), notify=said.append)
    assert len(said) == 1
    assert "photos have changed" in said[0]
    assert state(output)["held_out"] == before
    assert len(learned_from) == 6
    assert learned_from.isdisjoint(before)
    assert last.best == last.psnr  # what was best of other photos does not stand in the way


def test_a_resume_file_of_something_else_is_refused(photos: Path, tmp_path: Path) -> None:
    """Another architecture, another task, damage or other contents: exit 3, and what to do."""
    output = tmp_path / "a.safetensors"
    resume = output.with_name(output.name + ".resume")
    run(photos, output)
    with pytest.raises(CheckpointError, match="another architecture") as raised:
        run(photos, output, architecture=replace(TINY, refinement=2))
    assert raised.value.hint
    with pytest.raises(CheckpointError, match="a run that learns to denoise"):
        next(
            loop.train(
                "derain", photos, output, SIX, architecture=TINY, degrade=blind_gaussian_noise
            )
        )
    whole = resume.read_bytes()
    torch.save({"step": 3}, resume)
    with pytest.raises(CheckpointError, match="no training can go on"):
        run(photos, output)
    for damaged in (whole[: len(whole) // 2], b"", b"text"):
        resume.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no training can go on"):
            run(photos, output)


# --- what can be known before hours are spent ---


def test_an_output_that_cannot_be_written_is_found_at_the_start(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the output's place, or a file in its folder's: an error before any photo."""
    monkeypatch.setattr(loop, "load_photos", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for output in (tmp_path / "file" / "a.safetensors", tmp_path / "folder.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be written") as raised:
            run(photos, output)
        assert raised.value.hint


@pytest.mark.parametrize(
    ("task", "changes", "complaint"),
    [
        ("dehaze", {}, "dehaze cannot be trained"),
        ("denoise", {"architecture": replace(TINY, in_channels=4)}, "4 channels to 3"),
        ("defocus", {"architecture": TWO_VIEWS}, "learns from two views"),
        ("defocus", {"right": Path("right")}, "--right was given"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    task: str, changes: dict[str, Any], complaint: str, photos: Path, tmp_path: Path
) -> None:
    """A task without a degradation and a network without the images it takes are usage errors."""
    options = {"architecture": TINY, **changes}
    with pytest.raises(UsageError, match=complaint):
        next(loop.train(task, photos, tmp_path / "a.safetensors", SIX, **options))


def test_what_it_starts_from_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    """Output and start must be two files."""
    start = tmp_path / "start.safetensors"
    serialization.save_network(tiny_network().state_dict(), TINY, start)
    with pytest.raises(UsageError, match="would replace"):
        run(photos, start, start=start)


def test_photos_left_out_and_smaller_patches_are_said(photos: Path, tmp_path: Path) -> None:
    """A damaged photo and stages too large for the photos are told, and training goes on."""
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    said: list[str] = []
    output = tmp_path / "a.safetensors"
    stages = ((0.0, 32, 2), (0.5, 128, 1))
    run(photos, output, Settings(steps=2, stages=stages), notify=said.append)
    assert len(said) == 2
    assert "broken.png" in said[0]
    assert "too small for patches of 128: patches of 96" in said[1]
    assert record(output)["settings"]["stages"] == [[0.0, 32, 2], [0.5, 96, 1]]


# --- losses that are not finite ---


def test_updates_that_are_not_finite_are_left_out(photos: Path, tmp_path: Path) -> None:
    """A batch that gives NaN or infinity changes no weight, is counted and said."""
    calls = itertools.count()

    def now_and_then(x: Tensor, generator: Generator) -> Tensor:
        # The first degradation is that of the one photo held out.
        return x * {2: math.nan, 5: math.inf}.get(next(calls), 0.9)

    said: list[str] = []
    output = tmp_path / "a.safetensors"
    reports = run(photos, output, degrade=now_and_then, notify=said.append)
    assert [line.split(":")[0] for line in said] == ["step 3", "step 6"]
    assert all(math.isfinite(r.loss) and math.isfinite(r.psnr) for r in reports)
    assert state(output)["skipped"] == 2
    serialization.load_network(output)


def test_a_hopeless_run_ends(photos: Path, tmp_path: Path) -> None:
    """Many such updates in a row are an error that says what to try."""
    calls = itertools.count()

    def broken(x: Tensor, generator: Generator) -> Tensor:
        return x * (math.nan if next(calls) else 0.9)

    with pytest.raises(RestormerError, match="not finite, 20 times in a row up to step 20") as end:
        run(
            photos,
            tmp_path / "a.safetensors",
            Settings(steps=99, stages=SMALL),
            degrade=broken,
        )
    assert "learning rate" in end.value.hint


def test_an_update_that_is_not_finite_changes_nothing() -> None:
    """Neither the weights nor their average nor the optimizer move."""
    one = Run.begin("denoise", tiny_network(), torch.device("cpu"))
    before = {name: p.clone() for name, p in one.network.state_dict().items()}
    clean = torch.full((1, 3, 16, 16), 0.5)
    assert math.isnan(loop.update(one, clean * math.inf, clean, 1e-3))
    assert_same(one.network.state_dict(), before)
    assert_same(one.average.state_dict(), before)
    assert not one.optimizer.state


# --- the pieces ---


def test_the_average_follows_the_weights() -> None:
    """It keeps `decay` of itself and takes the rest from the weights."""
    average, network = tiny_network(0), tiny_network(1)
    expected = [
        0.9 * a + 0.1 * b for a, b in zip(average.parameters(), network.parameters(), strict=True)
    ]
    loop.follow(average, network, 0.9)
    for ours, theirs in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_update_moves_weights_at_its_rate_and_the_average_after_them() -> None:
    """AdamW's first step is as long as the learning rate; the average makes nine tenths of it."""
    one = Run.begin("denoise", tiny_network(), torch.device("cpu"))
    before = one.network.output.weight.detach().clone()
    clean = torch.rand(1, 3, 16, 16, generator=Generator().manual_seed(0))
    loop.update(one, clean * 0.5, clean, 1e-3)
    moved = one.network.output.weight.detach() - before
    followed = one.average.output.weight.detach() - before
    assert 0.9e-3 < float(moved.abs().median()) < 1.1e-3
    torch.testing.assert_close(followed, moved * 0.9, atol=1e-7, rtol=1e-3)


def test_validation_is_the_same_in_every_run_and_different_for_each_photo() -> None:
    """What a held-out photo becomes depends on that photo alone."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    one, two = (Sample(pixels, digest) for digest in ("1" * 16, "f" * 16))
    noisy = SampleSpec(degrading(blind_gaussian_noise))
    pairs = loop.validation_set([one, two], noisy)
    ((again, _),) = loop.validation_set([two], noisy)
    assert torch.equal(pairs[1][0], again)
    assert not torch.equal(pairs[0][0], pairs[1][0])


def test_a_patch_is_blurred_with_what_lies_beyond_it() -> None:
    """No mirror shows at the border of a patch: a ramp, blurred evenly, is still that ramp."""

    def box(x: Tensor, _: Generator) -> Tensor:
        return torch.nn.functional.avg_pool2d(reflected(x, 3), 7, stride=1)

    ramp = torch.linspace(0, 1, 48).expand(1, 3, 48, 48)
    blurred, clean = degrading(box, reach=4)(ramp, Generator())
    assert blurred.shape == clean.shape == (1, 3, 40, 40)
    torch.testing.assert_close(blurred, clean)
    mirrored, whole = degrading(box)(ramp, Generator())
    assert (mirrored - whole).abs().max() > 0.02


def test_a_perfect_image_does_not_make_the_mean_infinite() -> None:
    """Validation PSNR is at most 50 dB an image."""
    clean = torch.full((1, 3, 16, 16), 0.5)
    pairs = [(clean, clean), (clean + 0.1, clean)]
    assert loop.mean_psnr(lambda x: x, pairs) == pytest.approx(35)


# --- the schedule ---


def test_the_rate_warms_up_and_ends() -> None:
    """It rises for 2 % of the run, peaks at `learning_rate` and falls to the final one."""
    settings = Settings(steps=1000, learning_rate=1e-3, final_learning_rate=1e-6)
    assert settings.rate(0) == pytest.approx(1e-5)
    assert settings.rate(0.01) == pytest.approx(5e-4)
    assert settings.rate(0.02) == pytest.approx(1e-3)
    assert settings.rate(0.51) == pytest.approx((1e-3 + 1e-6) / 2)
    assert settings.rate(1) == pytest.approx(1e-6)


@given(st.floats(0.02, 1), st.floats(0.02, 1))
def test_after_the_warm_up_the_rate_only_falls(a: float, b: float) -> None:
    """Later is never faster."""
    settings = Settings(steps=1)
    assert settings.rate(max(a, b)) <= settings.rate(min(a, b))


def test_progress_is_by_steps_or_time_whichever_is_further() -> None:
    """Either may end the run; the other is then not waited for."""
    settings = Settings(steps=100, hours=1)
    assert settings.progress(50, 900) == 0.5
    assert settings.progress(10, 1800) == 0.5
    assert settings.progress(200, 0) == 1
    assert Settings(steps=100).progress(50, 1e9) == 0.5


def test_stages_follow_one_another() -> None:
    """A stage begins at its part of the run."""
    settings = Settings(steps=1, stages=((0.0, 64, 16), (0.5, 96, 7)))
    assert settings.stage(0.49) == (64, 16)
    assert settings.stage(0.5) == settings.stage(1) == (96, 7)


def test_smaller_patches_come_in_larger_batches() -> None:
    """A stage that the photos are too small for keeps its pixels, roughly, and is told."""
    said: list[str] = []
    settings = Settings(steps=1).within(64, said.append)
    assert settings.stages == ((0.0, 64, 16), (0.5, 64, 15), (0.8, 64, 16))
    assert len(said) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"steps": 0},
        {"hours": 0.0},
        {"hours": -1.0},
        {"steps": 1, "learning_rate": 0.0},
        {"steps": 1, "validate_every": 0},
        {"steps": 1, "stages": ()},
        {"steps": 1, "stages": ((0.1, 64, 1),)},
        {"steps": 1, "stages": ((0.0, 64, 1), (0.5, 64, 1), (0.2, 64, 1))},
        {"steps": 1, "stages": ((0.0, 60, 1),)},
        {"steps": 1, "stages": ((0.0, 64, 0),)},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """No end, nothing to do, or patches that no network takes: a usage error."""
    with pytest.raises(UsageError):
        Settings(**wrong)
