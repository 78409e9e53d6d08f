"""Training in several processes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.support.program import PROGRAM, python
from tests.support.training import assert_same, provenance, state

STEPS = """
import sys, torch
from tests.support.networks import tiny_network
from restormer_cli.training import distributed, optimization, state

size = int(sys.argv[2])
batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
with distributed.join_ranks(torch.device("cpu")) as (ranks, device):
    assert ranks.size == size
    run = state.Run.begin("denoise", tiny_network(), device)
    forward = ranks.wrap(run.network)
    part = batch.chunk(size)[ranks.rank]
    for _ in range(3):
        optimization.update(run, part, part**2, 1e-3, forward=forward)
    torch.save(run.network.state_dict(), f"{sys.argv[1]}/{size}-{ranks.rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one_with_both_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes under torchrun get the same weights as one process with both batches."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("steps.py").write_text(STEPS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    processes = [python(*launch, str(size), "steps.py", ".", str(size)) for size in (1, 2)]
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    single, first, second = (torch.load(f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert_same(first, second)
    for name in single:
        torch.testing.assert_close(first[name], single[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_command_runs_under_torchrun(
    photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two processes reports and saves, and both end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = f"train denoise --photos {photos} -o a.safetensors --steps 2 --validate-every 1"
    line = f"-m torch.distributed.run --standalone --nproc-per-node 2 {' '.join(PROGRAM)} {words}"
    process = python(*line.split(), "--device", "cpu")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert stderr.count(b"step 1,") == stderr.count(b"step 2,") == 1
    assert provenance(Path("a.safetensors"))["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [False, True])
def test_processes_are_interrupted_together(
    everyone: bool, photos: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGTERM to torchrun, or Ctrl-C to all processes, the run is saved and can go on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = f"train denoise --photos {photos} -o a.safetensors --validate-every 2 --stages 0:16:1"
    launch = f"-m torch.distributed.run --standalone --nproc-per-node 2 {' '.join(PROGRAM)} {words}"
    process = python(*launch.split(), "--device", "cpu", "--steps", "999999", group=True)
    try:
        while b"step 2," not in (line := process.stderr.readline()):
            assert line, "torchrun ended"
        if everyone:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert stderr.count(b"interrupted: saved at step ") == 1, stderr
    step = state(Path("a.safetensors"))["step"]
    assert f"saved at step {step} ".encode() in stderr
