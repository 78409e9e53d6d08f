"""The training loop, on tiny networks and photos."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from restormer_cli.checkpoints import serialization
from restormer_cli.errors import CheckpointError, RestormerError, UsageError
from restormer_cli.training import dataset, loop
from restormer_cli.training.pairs import Pair, SampleSpec
from restormer_cli.training.patches import PhotoBuffer
from restormer_cli.training.state import Settings
from tests.support.networks import TINY, tiny_network
from tests.support.training import (
    GREY,
    SIX,
    SMALL,
    TWO_VIEWS,
    assert_same,
    noise_25,
    provenance,
    run,
    state,
    weights,
)


@pytest.mark.slow
def test_a_network_learns_to_remove_noise(photos: Path, tmp_path: Path) -> None:
    """In 60 steps the loss falls by a third, and the PSNR of a noisy photo rises by 1 dB."""
    output = tmp_path / "a.safetensors"
    settings = Settings(steps=60, validate_every=20, stages=SMALL, learning_rate=3e-3)
    reports = run(photos, output, settings, degrade=noise_25)
    assert [r.step for r in reports] == [20, 40, 60]
    assert reports[-1].loss < reports[0].loss * 0.67
    assert reports[-1].best > provenance(output)["validation_psnr_degraded"] + 1
    assert reports[-1].progress == 1


@pytest.mark.slow
def test_a_grey_network_learns_from_colour_photos(photos: Path, tmp_path: Path) -> None:
    """The photos are converted to grey before they are degraded."""
    output = tmp_path / "grey.safetensors"
    settings = Settings(steps=30, validate_every=15, stages=SMALL, learning_rate=3e-3)
    run(photos, output, settings, architecture=GREY, degrade=noise_25)
    origin = provenance(output)
    # Converted after the degradation, the photos would have a third less noise: 23.7 dB.
    assert origin["validation_psnr_degraded"] == pytest.approx(20.17, abs=0.3)
    assert origin["validation_psnr"] > origin["validation_psnr_degraded"] + 1
    assert serialization.load_network(output).architecture == GREY


def test_the_checkpoint_contains_its_provenance(photos: Path, tmp_path: Path) -> None:
    """The file has fp16 weights of the given architecture, and the data for a model card."""
    output = tmp_path / "new" / "folders" / "lite.safetensors"
    reports = run(photos, output)
    network = serialization.load_network(output)
    assert network.architecture == TINY
    assert output.stat().st_size < 2.5 * sum(p.numel() for p in network.parameters())
    origin = provenance(output)
    assert origin["task"] == "denoise"
    assert (origin["photos"], origin["held_out"]) == (4, 1)
    assert origin["settings"]["stages"] == [[0.0, 32, 2]]
    assert origin["validation_psnr"] == round(max(r.psnr for r in reports), 3)
    assert origin["megapixels"] == round(origin["steps"] * 2 * 32 * 32 / 1e6, 1)
    assert origin["device"].endswith("cpu")
    best = max(reports, key=lambda r: r.psnr).validation
    assert origin["validation_all"] == best.as_dict()
    expected = {"restormer", "torch", "date", "hours", "photo_megapixels", "validation"}
    assert not expected - set(origin)


def test_the_best_weights_are_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower validation PSNR does not replace the weights."""
    output = tmp_path / "a.safetensors"
    scores = iter([30.0, 32.0, 31.0])
    validate = loop.validate
    monkeypatch.setattr(loop, "validate", lambda *a: validate(*a)._replace(psnr=next(scores)))
    reports = run(photos, output, replace(SIX, validate_every=2))
    assert [(r.psnr, r.best) for r in reports] == [(30, 30), (32, 32), (31, 32)]
    assert provenance(output)["steps"] == 4


def test_photos_held_out_are_never_trained_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation set is the same for all lengths and seeds, and no patch is cut from it."""
    seen: list[set[str]] = []
    draw = SampleSpec.draw

    def watch(spec: SampleSpec, photos: PhotoBuffer, *rest: Any) -> Pair:
        seen.append(set(photos.digests))
        return draw(spec, photos, *rest)

    monkeypatch.setattr(SampleSpec, "draw", watch)
    held_out = []
    for n, settings in enumerate([SIX, replace(SIX, steps=2), replace(SIX, seed=7)]):
        run(photos, tmp_path / f"{n}.safetensors", settings)
        held_out.append(state(tmp_path / f"{n}.safetensors")["held_out"])
    assert held_out[0] == held_out[1] == held_out[2]
    assert all(digests.isdisjoint(held_out[0]) and len(digests) == 4 for digests in seen)


def test_fine_tuning_starts_from_given_weights(photos: Path, tmp_path: Path) -> None:
    """The architecture and the weights are those of the checkpoint, which does not change."""
    start = tmp_path / "start.safetensors"
    network = tiny_network(3, layer_norm="BiasFree", refinement=2)
    serialization.save_network(network.state_dict(), network.architecture, start)
    before = start.read_bytes()
    output = tmp_path / "tuned.safetensors"
    run(photos, output, replace(SIX, learning_rate=1e-7), start=start, architecture=loop.LITE)
    tuned = serialization.load_network(output)
    assert tuned.architecture == network.architecture
    for result, initial in zip(tuned.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(result, initial, atol=2e-3, rtol=2e-3)
    assert start.read_bytes() == before
    assert provenance(output)["started_from"] == "start.safetensors"


def test_batches_come_in_order_and_errors_are_raised() -> None:
    """Prefetched or not, batches come in the order of steps, and so do errors."""

    def draw(step: int) -> Any:
        if step == 9:
            raise UsageError("nine")
        return step

    for prefetch in (0, 1, 2):
        drawn = loop.batches(draw, 4, prefetch)
        assert list(itertools.islice(drawn, 5)) == [4, 5, 6, 7, 8]
        with pytest.raises(UsageError, match="nine"):
            next(drawn)


def test_prefetched_batches_are_drawn_with_the_threads_of_the_training() -> None:
    """The thread that draws has as many torch threads as the one that trains."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        drawn = loop.batches(lambda _: torch.get_num_threads(), 0, 2)
        assert list(itertools.islice(drawn, 3)) == [3, 3, 3]
        drawn.close()
    finally:
        torch.set_num_threads(before)


def test_an_output_that_cannot_be_written_is_refused_first(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that is a folder, or whose folder is a file, is an error before photos are read."""
    monkeypatch.setattr(dataset, "load_photos", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for output in (tmp_path / "file" / "a.safetensors", tmp_path / "folder.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be written") as raised:
            run(photos, output)
        assert raised.value.hint


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("dehaze", {}, "dehaze: cannot be trained"),
        (
            "denoise",
            {"architecture": replace(TINY, in_channels=4)},
            "4 input and 3 output channels",
        ),
        ("defocus", {"architecture": TWO_VIEWS}, "needs two views"),
        ("defocus", {"right": Path("right")}, "--right needs left views"),
    ],
)
def test_tasks_and_images_that_do_not_fit_are_refused(
    task: str, changes: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    """A task without a degradation, or images that do not fit the network, are usage errors."""
    options = {"architecture": TINY, **changes}
    with pytest.raises(UsageError, match=message):
        next(loop.train(task, photos, tmp_path / "a.safetensors", SIX, **options))


def test_the_initial_checkpoint_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    """The same file as output and start is a usage error."""
    start = tmp_path / "start.safetensors"
    serialization.save_network(tiny_network().state_dict(), TINY, start)
    with pytest.raises(UsageError, match="is also the --start checkpoint"):
        run(photos, start, start=start)


def test_photos_left_out_and_smaller_patches_are_reported(photos: Path, tmp_path: Path) -> None:
    """A damaged photo and stages too large for the photos are warnings, not errors."""
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    messages: list[str] = []
    output = tmp_path / "a.safetensors"
    stages = ((0.0, 32, 2), (0.5, 128, 1))
    run(photos, output, Settings(steps=2, stages=stages), notify=messages.append)
    assert len(messages) == 2
    assert "broken.png" in messages[0]
    assert "too small for patches of 128: using 96" in messages[1]
    assert provenance(output)["settings"]["stages"] == [[0.0, 32, 2], [0.5, 96, 1]]


def test_updates_that_are_not_finite_are_skipped(photos: Path, tmp_path: Path) -> None:
    """A batch with a loss of NaN or infinity changes no weight, is counted and reported."""
    calls = itertools.count()

    def sometimes_broken(x: Tensor, generator: Generator) -> Tensor:
        # The first call degrades the validation photo.
        return x * {2: math.nan, 5: math.inf}.get(next(calls), 0.9)

    messages: list[str] = []
    output = tmp_path / "a.safetensors"
    reports = run(photos, output, degrade=sometimes_broken, notify=messages.append)
    assert [line.split(":")[0] for line in messages] == ["step 3", "step 6"]
    assert all(math.isfinite(r.loss) and math.isfinite(r.psnr) for r in reports)
    assert state(output)["skipped"] == 2
    serialization.load_network(output)


def test_a_run_with_nonfinite_losses_ends(photos: Path, tmp_path: Path) -> None:
    """20 consecutive updates that are not finite are an error with a remedy."""
    calls = itertools.count()

    def broken(x: Tensor, generator: Generator) -> Tensor:
        return x * (math.nan if next(calls) else 0.9)

    settings = Settings(steps=99, stages=((0.0, 16, 1),))
    with pytest.raises(
        RestormerError, match="not finite in 20 consecutive updates to step 20"
    ) as end:
        run(photos, tmp_path / "a.safetensors", settings, degrade=broken)
    assert "learning rate" in end.value.hint


def test_the_psnr_of_an_image_is_limited() -> None:
    """A perfect image counts as 50 dB, so that the mean stays finite."""
    clean = torch.full((1, 3, 16, 16), 0.5)
    pairs = [(clean, clean), (clean + 0.1, clean)]
    assert loop.mean_psnr(lambda x: x, pairs) == pytest.approx(35)


class Delayed(torch.nn.Module):
    """A network that takes this much longer, in seconds."""

    def __init__(self, network: torch.nn.Module, seconds: float) -> None:
        super().__init__()
        self.network, self.seconds = network, seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.network(x)


@pytest.mark.parametrize("faster", [True, False])
def test_the_network_is_compiled_only_if_it_is_faster(
    faster: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is timed both ways; the weights are the same in any case."""
    monkeypatch.setattr(loop, "COMPILED", ("cpu",))
    calls: list[bool] = []
    monkeypatch.setattr(loop, "TIMED_STEPS", 2)
    delays = {True: (0.3, 0.0), False: (0.0, 0.3)}[faster]
    monkeypatch.setattr(loop.Ranks, "wrap", lambda _, network: Delayed(network, delays[0]))

    def compiled(module: Delayed, **_: Any) -> torch.nn.Module:
        module = Delayed(module.network, delays[1])
        module.register_forward_hook(lambda *_: calls.append(True))
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    messages: list[str] = []
    run(photos, tmp_path / "a.safetensors", compiled=True, notify=messages.append)
    assert len(calls) == 3 + (6 if faster else 0)
    assert [line.split(":")[0] for line in messages] == (
        [] if faster else ["--compile is not used"]
    )
    monkeypatch.undo()
    run(photos, tmp_path / "b.safetensors")
    assert_same(weights(tmp_path / "a.safetensors"), weights(tmp_path / "b.safetensors"))


def test_a_compiler_that_fails_is_reported(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training goes on with the network as it is; on other devices nothing is compiled."""
    messages: list[str] = []
    run(photos, tmp_path / "a.safetensors", compiled=True, notify=messages.append)
    monkeypatch.setattr(loop, "COMPILED", ("cpu",))

    def broken(module: torch.nn.Module, **_: Any) -> Any:
        def fail(_: Tensor) -> Tensor:
            raise RuntimeError("no compiler\nfound")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    run(photos, tmp_path / "b.safetensors", compiled=True, notify=messages.append)
    assert messages == [
        "--compile is not used: it is for cuda",
        "--compile is not used: no compiler",
    ]
