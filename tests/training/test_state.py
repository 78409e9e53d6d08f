"""Settings, and resuming a run from its file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from restormer_cli.degradations.noise import blind_gaussian_noise
from restormer_cli.errors import CheckpointError, UsageError
from restormer_cli.training import loop
from restormer_cli.training.pairs import Pair, SampleSpec
from restormer_cli.training.patches import PhotoBuffer
from restormer_cli.training.state import Run, Settings, parse_stages
from tests.support.networks import TINY, tiny_network
from tests.support.training import SIX, SMALL, assert_same, noise_25, run, state, weights


def test_a_resumed_run_equals_an_uninterrupted_one(photos: Path, tmp_path: Path) -> None:
    """A run resumed after 3 of 6 steps has the same weights and reports, to the bit."""
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
    for a, b in moments:
        assert_same(a, b)


def test_prefetching_changes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With prefetched batches, as for a GPU, an interrupted run has the same result."""
    plain, prefetched = tmp_path / "plain.safetensors", tmp_path / "prefetched.safetensors"
    run(photos, plain)
    monkeypatch.setattr(loop, "PREFETCH", {"cpu": 2})
    first = loop.train("denoise", photos, prefetched, SIX, architecture=TINY)
    next(first)
    first.close()
    run(photos, prefetched)
    assert_same(weights(prefetched), weights(plain))


def test_an_interruption_keeps_the_last_state(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a step or while saving changes no files and leaves no temporary ones."""
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
    save = torch.save

    def save_and_interrupt(content: Any, target: Any) -> None:
        save(content, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(photos, output)
    assert resume.read_bytes() == kept
    assert sorted(p.name for p in output.parent.iterdir()) == [output.name, resume.name]


def test_a_finished_run_is_validated_again(photos: Path, tmp_path: Path) -> None:
    """Repeating a finished run makes no step, reports again, and writes missing weights."""
    output = tmp_path / "a.safetensors"
    before = run(photos, output)[-1]
    output.unlink()
    (again,) = run(photos, output)
    assert again[:4] == before[:4]
    assert output.exists()


def test_hours_are_summed_over_all_sessions(photos: Path, tmp_path: Path) -> None:
    """A resumed run with no hours left makes no step."""
    output = tmp_path / "a.safetensors"
    run(photos, output, replace(SIX, steps=2))
    resumed = Run.load(output.with_name(output.name + ".resume"), torch.device("cpu"))
    resumed.seconds = 1800.0
    resumed.save(output.with_name(output.name + ".resume"))
    (only,) = run(photos, output, Settings(hours=0.5, stages=SMALL))
    assert (only.step, only.progress) == (2, 1)
    assert state(output)["seconds"] >= 1800


def test_a_changed_folder_is_reported_and_keeps_the_validation_set(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos may be added between sessions; held-out photos are never trained on."""
    output = tmp_path / "a.safetensors"
    run(photos, output)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "z.png"):
        pixels = pixels[::-1] // 2
        (photos / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    held_out, messages = state(output)["held_out"], []
    trained_on: set[str] = set()
    draw = SampleSpec.draw

    def watch(spec: SampleSpec, photos: PhotoBuffer, *rest: Any) -> Pair:
        trained_on.update(photos.digests)
        return draw(spec, photos, *rest)

    monkeypatch.setattr(SampleSpec, "draw", watch)
    (last,) = run(photos, output, replace(SIX, steps=8, validate_every=8), notify=messages.append)
    assert len(messages) == 1
    assert "photos have changed" in messages[0]
    assert state(output)["held_out"] == held_out
    assert len(trained_on) == 6
    assert trained_on.isdisjoint(held_out)
    assert last.best == last.psnr  # the best PSNR on the old photos does not count


def test_the_resume_file_of_an_older_release_is_used(photos: Path, tmp_path: Path) -> None:
    """It lacks the PSNR of the degraded photos: the best PSNR is reported not to count."""
    output = tmp_path / "a.safetensors"
    run(photos, output)
    old = state(output)
    del old["degraded_psnr"]
    torch.save(old, output.with_name(output.name + ".resume"))
    messages: list[str] = []
    (last,) = run(photos, output, replace(SIX, steps=8, validate_every=8), notify=messages.append)
    assert last.step == 8
    assert last.best == last.psnr
    assert messages == ["the degradations have changed: the best PSNR so far does not count"]


def test_other_degradations_make_the_best_psnr_void(photos: Path, tmp_path: Path) -> None:
    """The best PSNR on weaker noise must not keep all later weights from being saved."""
    output = tmp_path / "a.safetensors"
    run(photos, output, degrade=lambda x, _: x * 0.99)
    messages: list[str] = []
    longer = replace(SIX, steps=8, validate_every=8)
    (last,) = run(photos, output, longer, degrade=noise_25, notify=messages.append)
    assert last.best == last.psnr
    assert messages == ["the degradations have changed: the best PSNR so far does not count"]
    (again,) = run(photos, output, longer, degrade=noise_25)
    assert again.best == last.best


def test_the_resume_file_of_another_run_is_refused(photos: Path, tmp_path: Path) -> None:
    """Another architecture, another task, damage or other content is an error with a remedy."""
    output = tmp_path / "a.safetensors"
    resume = output.with_name(output.name + ".resume")
    run(photos, output)
    with pytest.raises(CheckpointError, match="another architecture") as raised:
        run(photos, output, architecture=replace(TINY, refinement=2))
    assert raised.value.hint
    options = {"architecture": TINY, "degrade": blind_gaussian_noise}
    with pytest.raises(CheckpointError, match="a run for the task denoise"):
        next(loop.train("derain", photos, output, SIX, **options))
    whole = resume.read_bytes()
    torch.save({"step": 3}, resume)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        run(photos, output)
    for damaged in (whole[: len(whole) // 2], b"", b"text"):
        resume.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be resumed"):
            run(photos, output)


def test_the_mean_loss_leaves_out_skipped_steps(tmp_path: Path) -> None:
    """It is that since the last validation, also after resuming; before a finite loss, the last."""
    trained = Run.begin("denoise", tiny_network(), torch.device("cpu"))
    trained.loss = 7.0
    trained.add_loss(math.nan)
    assert trained.mean_loss == 7
    trained.add_loss(1.0)
    trained.save(tmp_path / "a")
    trained = Run.load(tmp_path / "a", torch.device("cpu"))
    trained.add_loss(2.0)
    assert trained.mean_loss == 1.5
    assert trained.end_losses() == trained.skipped == 1
    assert (trained.losses, trained.loss) == ([], 1.5)
    trained.add_loss(4.0)
    assert trained.mean_loss == 4


def test_the_learning_rate_warms_up_and_anneals() -> None:
    """The rate rises for 2 % of the run, peaks at `learning_rate` and falls to the final one."""
    settings = Settings(steps=1000, learning_rate=1e-3, final_learning_rate=1e-6)
    assert settings.rate(0) == pytest.approx(1e-5)
    assert settings.rate(0.01) == pytest.approx(5e-4)
    assert settings.rate(0.02) == pytest.approx(1e-3)
    assert settings.rate(0.51) == pytest.approx((1e-3 + 1e-6) / 2)
    assert settings.rate(1) == pytest.approx(1e-6)


@given(st.floats(0.02, 1), st.floats(0.02, 1))
def test_after_the_warm_up_the_learning_rate_never_rises(a: float, b: float) -> None:
    """A later learning rate is at most an earlier one."""
    settings = Settings(steps=1)
    assert settings.rate(max(a, b)) <= settings.rate(min(a, b))


def test_progress_is_the_larger_of_steps_and_time() -> None:
    """The run ends at the first limit reached."""
    settings = Settings(steps=100, hours=1)
    assert settings.progress(50, 900) == 0.5
    assert settings.progress(10, 1800) == 0.5
    assert settings.progress(200, 0) == 1
    assert Settings(steps=100).progress(50, 1e9) == 0.5


def test_stages_follow_one_another() -> None:
    """A stage begins at its fraction of the run."""
    settings = Settings(steps=1, stages=((0.0, 64, 16), (0.5, 96, 7)))
    assert settings.stage(0.49) == (64, 16)
    assert settings.stage(0.5) == settings.stage(1) == (96, 7)


def test_smaller_patches_come_in_larger_batches() -> None:
    """A stage too large for the photos keeps about its number of pixels, and is reported."""
    messages: list[str] = []
    settings = Settings(steps=1).limit_patches(64, messages.append)
    assert settings.stages == ((0.0, 64, 16), (0.45, 64, 15), (0.75, 64, 16), (0.92, 64, 18))
    assert len(messages) == 3


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
        {"steps": 1, "stages": ((0.0, 64, 1), (1.0, 64, 1))},
        {"steps": 1, "stages": ((0.0, 64, 1), (math.nan, 64, 1))},
        {"steps": 1, "stages": ((0.0, 60, 1),)},
        {"steps": 1, "stages": ((0.0, 64, 0),)},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    """A missing length, values of 0, and unusable stages are usage errors."""
    with pytest.raises(UsageError):
        Settings(**wrong)


def test_batches_are_scaled() -> None:
    """The number of patches of each stage is multiplied, at least to 1."""
    settings = Settings(steps=1, stages=((0.0, 64, 16), (0.5, 128, 4)))
    assert settings.scaled(2.5).stages == ((0.0, 64, 40), (0.5, 128, 10))
    assert settings.scaled(0.1).stages == ((0.0, 64, 2), (0.5, 128, 1))
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="above 0"):
            settings.scaled(factor)


def test_stages_are_parsed() -> None:
    """Start, side and number are separated by colons, stages by commas."""
    assert parse_stages("0:64:16,0.5:128:4") == ((0.0, 64, 16), (0.5, 128, 4))


@pytest.mark.parametrize("text", ["", "64", "0:64", "0:64:16:1", "0:64:x", "0:64:16,"])
def test_stages_that_cannot_be_parsed_are_refused(text: str) -> None:
    """The error shows an example."""
    with pytest.raises(UsageError, match="START:SIDE:PATCHES") as raised:
        parse_stages(text)
    assert "0:64:16,0.5:128:4" in raised.value.hint
