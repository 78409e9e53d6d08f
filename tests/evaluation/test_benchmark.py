"""The speed benchmark, on a tiny network."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from restormer_cli.cli.app import app
from restormer_cli.cli.console import Console
from restormer_cli.evaluation import benchmark
from tests.support.networks import VARIANTS, assert_close


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    """Measure the hardware's peak on smaller matrices, to save time."""
    monkeypatch.setattr(benchmark, "matrix_peak", partial(benchmark.matrix_peak, side=256))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_formulation_is_the_same_function(variant):
    """The published formulation in the benchmark gives the result of the network."""
    network = VARIANTS[variant]
    image = torch.rand(1, network.architecture.in_channels, 24, 40)
    with torch.inference_mode():
        assert_close(benchmark.reference_forward(network, image), network(image))


def test_every_mode_is_measured_at_every_size():
    """Plain, strips and tiles are measured; ratios and differences are relative to plain."""
    measurements = list(benchmark.run_benchmark(VARIANTS["rgb_bias_free"], [16, 24]))
    for size in (16, 24):
        modes = [m for m in measurements if m.size == size]
        assert modes[0].way == "plain"
        assert modes[0].ratio == 1
        assert {m.way for m in modes[1:]} == {"strips", f"tiles of {benchmark.TILE}"}
        fp32 = next(m for m in modes if (m.way, m.precision) == ("strips", "fp32"))
        assert fp32.ratio == pytest.approx(modes[0].seconds / fp32.seconds)
        assert 0 < fp32.of_peak < 1
        assert fp32.largest_difference < 1e-5
        assert fp32.psnr > 100


def test_the_first_run_is_not_measured(monkeypatch):
    """It also packs weights and selects kernels."""
    sides = []

    def restore(_, x, **__):
        sides.append(x.shape[-1])
        return x

    monkeypatch.setattr(benchmark, "restore", restore)
    modes = list(benchmark.run_benchmark(VARIANTS["grey"], [72], repeat=2, with_published=False))
    assert sides == [benchmark.WARM_UP, 72, 72] * len(modes)


def test_without_the_plain_forward_there_are_no_ratios():
    """Times are measured, but no ratio and no PSNR."""
    measurements = list(benchmark.run_benchmark(VARIANTS["grey"], [16], with_published=False))
    assert "plain" not in {m.way for m in measurements}
    assert {m.ratio for m in measurements} == {m.psnr for m in measurements} == {None}


def test_the_command_prints_a_table_or_json(tiny):
    """`restormer bench` shows a table; with --json, one object for each measurement."""
    words = ["bench", str(tiny()), "--size", "16", "--device", "cpu"]
    shown = CliRunner().invoke(app, words, obj=Console())
    assert shown.exit_code == 0
    assert "16 x 16" in shown.stdout
    assert "strips" in shown.stdout
    output = CliRunner().invoke(app, [*words, "--json"], obj=Console())
    objects = [json.loads(line) for line in output.stdout.splitlines()]
    assert objects[0]["way"] == "plain"
    assert all(o["size"] == 16 for o in objects)
