"""Signals that end a run, which is then resumed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from restormer_cli.cli import console
from restormer_cli.training import Step, loop, train
from tests.support.networks import TINY
from tests.support.program import Outcome
from tests.support.training import SIX, assert_same, provenance, run, state, weights

STAGES = ("--stages", "0:16:1", "--device", "cpu")


def signal_at(step: int, *signals: int) -> Callable[[Step], None]:
    """Return a callback of a run that sends signals to this process after a step."""

    def send(at: Step) -> None:
        for number in signals if at.step == step else ():
            signal.raise_signal(number)

    return send


def test_an_interrupted_run_continues_at_the_same_step(photos: Path, tmp_path: Path) -> None:
    """After Ctrl-C in step 4 of 6, the rest gives the same reports and weights, to the bit."""
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    expected = run(photos, whole)
    messages: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(photos, parts, progress=signal_at(4, signal.SIGINT), notify=messages.append)
    assert messages == [
        f"interrupted: saved at step 4 in {parts}.resume. Repeat the command to continue"
    ]
    assert signal.getsignal(signal.SIGINT) is before
    assert state(parts)["step"] == 4
    (last,) = run(photos, parts)
    assert last[:5] == expected[-1][:5]
    assert last.history == expected[-1].history
    assert_same(weights(parts), weights(whole))


def test_a_second_signal_does_not_wait(photos: Path, tmp_path: Path) -> None:
    """It interrupts the step, and the last saved state stays."""
    output = tmp_path / "a.safetensors"
    twice = signal_at(4, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(photos, output, progress=twice)
    assert state(output)["step"] == 3


def test_a_signal_in_the_last_step_lets_the_run_finish(photos: Path, tmp_path: Path) -> None:
    """There is nothing to continue after the last step, so the run is validated and complete."""
    output = tmp_path / "a.safetensors"
    reports = run(photos, output, progress=signal_at(6, signal.SIGINT))
    assert reports[-1].progress == 1


def test_a_signal_before_a_validation_does_not_cost_its_report(
    photos: Path, tmp_path: Path
) -> None:
    """The report of step 3 comes before the end, because the resumed run does not repeat it."""
    output, steps = tmp_path / "a.safetensors", list[int]()
    progress = signal_at(3, signal.SIGINT)
    reports = train(
        "denoise", photos, output, SIX, architecture=TINY, notify=str, progress=progress
    )
    with pytest.raises(KeyboardInterrupt):
        steps.extend(report.step for report in reports)
    assert steps == [3]
    assert [report.step for report in run(photos, output)] == [6]


def test_ignored_signals_stay_ignored(photos: Path, tmp_path: Path) -> None:
    """Under `nohup`, or with a handler of the program, a run does not take part in signals."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run(photos, tmp_path / "a.safetensors", progress=signal_at(4, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert state(tmp_path / "a.safetensors")["step"] == SIX.steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_saves_and_ends(
    number: int,
    photos: Path,
    tmp_path: Path,
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The status is 130, stderr names the step, and the same command continues there."""
    output = tmp_path / "a.safetensors"
    line = ("train", "denoise", "--photos", photos, "-o", output, "--steps", 3, *STAGES)
    update = loop.update

    def interrupted(*arguments: Any, **options: Any) -> float:
        signal.raise_signal(number)
        return update(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupted)
        outcome = restormer(*line)
    assert outcome.status == 130
    assert f"interrupted: saved at step 1 in {output}.resume. Repeat the" in outcome.stderr
    assert not output.exists()
    outcome = restormer(*line)
    assert outcome.status == 0
    assert provenance(output)["steps"] == 3


def test_a_line_now_and_then_shows_the_steps(
    photos: Path,
    tmp_path: Path,
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a terminal, lines have step, loss, speed and the completed part of the run."""
    line = ("train", "denoise", "--photos", photos, "-o", tmp_path / "a.safetensors", *STAGES)
    outcome = restormer(*line, "--steps", 2)
    assert "% done" not in outcome.stderr
    monkeypatch.setattr(console, "PROGRESS_INTERVAL", 0)
    outcome = restormer(*line, "--steps", 4)
    lines = [row for row in outcome.stderr.splitlines() if row.endswith("% done")]
    assert [row.split(",")[0] for row in lines] == ["step 3", "step 4"]
    assert all("loss 0." in row and " MP/s, " in row for row in lines)
    assert lines[0].endswith("75.0% done")


def test_a_finished_run_says_so(
    photos: Path, tmp_path: Path, restormer: Callable[..., Outcome]
) -> None:
    """Repeating it makes no step, shows no speed, and says how to go on."""
    line = ("train", "denoise", "--photos", photos, "-o", tmp_path / "a.safetensors", *STAGES)
    assert "is finished" not in restormer(*line, "--steps", 1).stderr
    outcome = restormer(*line, "--steps", 1)
    assert outcome.status == 0
    assert "This run is finished. Pass more --steps or --hours" in outcome.stderr
    assert "MP/s" not in outcome.stderr
