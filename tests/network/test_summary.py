"""Test the summary against the network's parameters, torch's FLOP counter and the paper."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from restormer_cli.cli.info import SummaryTables
from restormer_cli.network.reference import reference_forward
from restormer_cli.network.restormer import Architecture, Restormer
from restormer_cli.network.summary import (
    ActivationMeter,
    feature_maps_bytes,
    summarize,
    trace_shapes,
)
from tests.support.networks import OFFICIAL, PARAMETERS, TINY, tiny_network
from tests.support.program import python

LITE = Architecture(dim=16, blocks=(1, 2, 2, 2), refinement=1, layer_norm="BiasFree")
VARIANTS = {
    "rgb_with_bias": {},
    "rgb_bias_free": {"layer_norm": "BiasFree"},
    "gray_bias_free": {"in_channels": 1, "out_channels": 1, "layer_norm": "BiasFree"},
    "dual_pixel": {"in_channels": 6, "dual_pixel": True},
}


cached_summary = cache(summarize)


def peaks(architecture: Architecture, height: int, width: int) -> dict[str, int]:
    return {peak.name: peak.bytes for peak in cached_summary(architecture, height, width).peaks}


def rendered(architecture: Architecture, columns: int, size: int = 256) -> list[str]:
    console = Console(width=columns, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(SummaryTables(cached_summary(architecture, size, size)))
    return capture.get().splitlines()


@pytest.mark.parametrize("variant", OFFICIAL)
def test_parameters_are_the_published_ones(variant):
    """The number of parameters is the published one and the sum of the stages."""
    structure = summarize(OFFICIAL[variant], 64, 64)
    with torch.device("meta"):
        network = Restormer(OFFICIAL[variant])
    assert structure.parameters == PARAMETERS[variant]
    assert structure.parameters == sum(p.numel() for p in network.parameters())
    assert structure.parameters == sum(stage.parameters for stage in structure.stages)


def test_multiply_adds_are_the_published_ones():
    """The paper's network takes the published 140.99 G at 256 x 256."""
    assert f"{cached_summary(Architecture(), 256, 256).multiply_adds / 1e9:.2f}" == "140.99"


@pytest.mark.parametrize("variant", VARIANTS)
def test_stages_add_up(variant):
    """Multiply-adds, attention and shares of the stages add up to the totals."""
    structure = summarize(replace(TINY, **VARIANTS[variant]), 64, 96)
    assert sum(stage.multiply_adds for stage in structure.stages) == structure.multiply_adds
    assert sum(stage.attention for stage in structure.stages) == structure.attention
    assert sum(stage.share for stage in structure.stages) == pytest.approx(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_multiply_adds_agree_with_torchs_counter(variant):
    """PyTorch's counter finds the same multiply-adds in the published formulation."""
    with torch.device("meta"):
        network = Restormer(replace(Architecture(), **VARIANTS[variant]))
        image = torch.empty(1, network.architecture.in_channels, 256, 256)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reference_forward(network, image)
    structure = cached_summary(network.architecture, 256, 256)
    assert counter.get_flop_counts()["Global"] == {
        torch.ops.aten.convolution: 2 * structure.multiply_adds,
        torch.ops.aten.bmm: 2 * structure.attention,
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_forward_takes_half_of_the_attention(variant):
    """The plain forward computes all convolutions, one attention product, and the folding."""
    network = tiny_network(**VARIANTS[variant])
    a = network.architecture
    structure = summarize(a, 32, 40)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, a.in_channels, 32, 40))
    folding = sum(
        (stage.blocks or 0) * stage.channels**3 // stage.heads
        for stage in structure.stages
        if stage.heads
    )
    assert counter.get_total_flops() == 2 * (
        structure.multiply_adds + structure.attention // 2 + folding
    )


def test_costs_are_linear_in_pixels():
    """Six times the pixels take six times the multiply-adds, feature maps and memory."""
    small, large = summarize(LITE, 64, 96), summarize(LITE, 192, 192)
    for one, six in zip(small.stages, large.stages, strict=True):
        assert six.multiply_adds == 6 * one.multiply_adds
        assert six.attention == 6 * one.attention
        assert six.parameters == one.parameters
        assert six.share == pytest.approx(one.share)
    for one, six in zip(small.levels, large.levels, strict=True):
        assert six.map_bytes == 6 * one.map_bytes
    one, six = peaks(LITE, 64, 96), peaks(LITE, 192, 192)
    assert six["published"] == 6 * one["published"]
    assert six["strips"] == 6 * one["strips"]
    assert six["plain"] == pytest.approx(6 * one["plain"], rel=0.01)  # and weights, once


def test_multiply_adds_of_a_pixel_need_no_compiler():
    """They are those of `summarize`, without PyTorch's compiler, whose import takes seconds."""
    command = (
        "import sys\n"
        "from restormer_cli.network import Architecture, multiply_adds_per_pixel\n"
        "print(multiply_adds_per_pixel(Architecture()), 'torch._dynamo' in sys.modules)"
    )
    count, imported = python("-c", command).communicate()[0].split()
    assert float(count) == summarize(Architecture(), 256, 256).multiply_adds / 256**2
    assert imported == b"False"


def test_sides_are_rounded_up_to_multiples_of_8():
    """The costs of an image are those of the padded image."""
    assert summarize(TINY, 57, 33) == summarize(TINY, 64, 40)
    assert feature_maps_bytes(TINY, 57, 33, 4) == feature_maps_bytes(TINY, 64, 40, 4)


def test_stages_of_the_paper():
    """Levels, maps, blocks, heads and hidden widths follow the paper's Figure 2."""
    structure = summarize(Architecture(), 64, 96)
    assert [
        (s.name, s.level, (s.height, s.width), s.channels, s.blocks, s.heads, s.hidden)
        for s in structure.stages
    ] == [
        ("patch_embed", 1, (64, 96), 48, None, None, None),
        ("encoder_level1", 1, (64, 96), 48, 4, 1, 127),
        ("down1_2", 2, (32, 48), 96, None, None, None),
        ("encoder_level2", 2, (32, 48), 96, 6, 2, 255),
        ("down2_3", 3, (16, 24), 192, None, None, None),
        ("encoder_level3", 3, (16, 24), 192, 6, 4, 510),
        ("down3_4", 4, (8, 12), 384, None, None, None),
        ("latent", 4, (8, 12), 384, 8, 8, 1021),
        ("up4_3", 3, (16, 24), 192, None, None, None),
        ("reduce_chan_level3", 3, (16, 24), 192, None, None, None),
        ("decoder_level3", 3, (16, 24), 192, 6, 4, 510),
        ("up3_2", 2, (32, 48), 96, None, None, None),
        ("reduce_chan_level2", 2, (32, 48), 96, None, None, None),
        ("decoder_level2", 2, (32, 48), 96, 6, 2, 255),
        ("up2_1", 1, (64, 96), 48, None, None, None),
        ("decoder_level1", 1, (64, 96), 96, 4, 1, 255),
        ("refinement", 1, (64, 96), 96, 4, 1, 255),
        ("output", 1, (64, 96), 3, None, None, None),
    ]
    assert [(n.level, n.map_bytes) for n in structure.levels] == [
        (level, 64 * 96 * 48 * 4 // 2 ** (level - 1)) for level in (1, 2, 3, 4)
    ]


def test_published_formulation_peaks_as_measured():
    """The peak of the published formulation is the measured 8.43 GiB per megapixel."""
    published = cached_summary(Architecture(), 256, 256).peaks[0]
    assert published.name == "published"
    assert f"{published.bytes_per_megapixel / 2**30:.2f}" == "8.43"


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_peak_is_that_of_a_real_run(variant):
    """The peak on the meta device equals the peak of a real run within 5 %."""
    network = tiny_network(**VARIANTS[variant])
    image = torch.rand(1, network.architecture.in_channels, 64, 64)
    with ActivationMeter([*network.parameters(), image]) as meter, torch.no_grad():
        network(image)
    assert peaks(network.architecture, 64, 64)["plain"] == pytest.approx(meter.peak, rel=0.05)


def test_meter_counts_live_tensors():
    """The meter does not count existing tensors, views and deleted tensors."""
    existing = torch.zeros(100)
    with ActivationMeter([existing]) as meter:
        assert existing.view(10, 10)[3].sum() == 0
        scalars = meter.peak
        a = torch.ones(1000)
        b = a.view(10, 100)[2:]
        assert meter.peak <= 4000 + 2 * scalars
        del a, b
        c = torch.ones(1000)
        d = c + 1
    assert d.sum() == 2000
    assert 8000 <= meter.peak <= 8000 + 2 * scalars


def test_feature_maps_peak_at_the_decoder_of_level_one():
    """Updated in place, at most two maps of level 1 and one of level 2 exist at a time."""
    level1, level2 = 64 * 96 * 48 * 2, 32 * 48 * 96 * 2
    assert feature_maps_bytes(Architecture(), 64, 96, 2) == 2 * level1 + level2


def test_peak_of_strips_is_that_of_their_feature_maps():
    """The last peak is that of the feature maps in fp32, for this size and per megapixel."""
    peak, maps = cached_summary(TINY, 64, 64).peaks[-1], feature_maps_bytes(TINY, 64, 64, 4)
    assert (peak.bytes, peak.bytes_per_megapixel) == (maps, maps / 64**2 * 1e6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_traced_shapes(variant):
    """A 64 x 64 image is halved three times and doubled three times."""
    network = tiny_network(**VARIANTS[variant])
    a = network.architecture
    assert trace_shapes(network) == [
        ("image", (1, a.in_channels, 64, 64)),
        ("patch_embed", (1, 64, 64, 8)),
        ("encoder_level1", (1, 64, 64, 8)),
        ("down1_2", (1, 32, 32, 16)),
        ("encoder_level2", (1, 32, 32, 16)),
        ("down2_3", (1, 16, 16, 32)),
        ("encoder_level3", (1, 16, 16, 32)),
        ("down3_4", (1, 8, 8, 64)),
        ("latent", (1, 8, 8, 64)),
        ("up4_3", (1, 16, 16, 32)),
        ("reduce_chan_level3", (1, 16, 16, 32)),
        ("decoder_level3", (1, 16, 16, 32)),
        ("up3_2", (1, 32, 32, 16)),
        ("reduce_chan_level2", (1, 32, 32, 16)),
        ("decoder_level2", (1, 32, 32, 16)),
        ("up2_1", (1, 64, 64, 8)),
        ("decoder_level1", (1, 64, 64, 16)),
        ("refinement", (1, 64, 64, 16)),
        ("output", (1, a.out_channels, 64, 64)),
    ]


def test_tracing_does_not_change_the_network():
    """Tracing removes its hooks and records no gradients."""
    network = tiny_network()
    trace_shapes(network)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_structure_survives_json(variant):
    """The fields, including the architecture, survive a round trip through JSON."""
    structure = summarize(replace(TINY, **VARIANTS[variant]), 64, 64)
    fields = json.loads(json.dumps(structure.as_dict()))
    assert Architecture.from_dict(fields["architecture"]) == structure.architecture
    assert fields["stages"][1]["name"] == "encoder_level1"


@pytest.mark.parametrize("columns", [80, 99, 100, 119, 120, 200])
@pytest.mark.parametrize("size", [256, 4000, 20_000])
def test_table_fits_the_terminal(columns, size):
    """From 80 columns on, no line is too long or truncated, whatever the image size."""
    lines = rendered(OFFICIAL["dual_pixel"], columns, size)
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total[1] == "26,132,548"


def test_table_explains_the_counting():
    """Every stage has a row, and a note below explains the counting."""
    lines = rendered(LITE, 80)
    structure = cached_summary(LITE, 256, 256)
    for stage in structure.stages:
        assert any(line.strip().startswith(stage.title) for line in lines)
    assert "as in the paper" in " ".join(lines)


def test_table_needs_no_unicode_blocks_on_an_ascii_terminal():
    """On an ASCII terminal the table contains ASCII characters only."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(width=120, file=file).print(SummaryTables(summarize(TINY, 64, 64)))
    file.flush()
    assert b"decoder 1" in file.buffer.getvalue()
