"""A network's stages and costs, against its own parameters, torch's counter and the paper."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from restormer_cli.cli.info import summary_table
from restormer_cli.network.restormer import Architecture, Restormer
from restormer_cli.network.summary import _Meter, feature_maps_bytes, summarize, trace_shapes
from tests.support.networks import OFFICIAL, PARAMETERS, TINY, tiny_network

LITE = Architecture(dim=16, blocks=(1, 2, 2, 2), refinement=1, layer_norm="BiasFree")
VARIANTS = {
    "rgb_with_bias": {},
    "rgb_bias_free": {"layer_norm": "BiasFree"},
    "gray_bias_free": {"in_channels": 1, "out_channels": 1, "layer_norm": "BiasFree"},
    "dual_pixel": {"in_channels": 6, "dual_pixel": True},
}


described = cache(summarize)  # what is told of one network and size is asked for repeatedly


def peaks(architecture: Architecture, height: int, width: int) -> dict[str, int]:
    return {peak.name: peak.bytes for peak in described(architecture, height, width).peaks}


def rendered(architecture: Architecture, columns: int, size: int = 256) -> list[str]:
    console = Console(width=columns, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(summary_table(described(architecture, size, size)))
    return capture.get().splitlines()


@pytest.mark.parametrize("variant", OFFICIAL)
def test_parameters_are_the_published_ones(variant):
    """The total is the published count, the real network's, and the sum of the stages."""
    structure = summarize(OFFICIAL[variant], 64, 64)
    with torch.device("meta"):
        network = Restormer(OFFICIAL[variant])
    assert structure.parameters == PARAMETERS[variant]
    assert structure.parameters == sum(p.numel() for p in network.parameters())
    assert structure.parameters == sum(stage.parameters for stage in structure.stages)


def test_multiply_adds_are_the_papers():
    """The paper's network takes 140.99 G at 256 x 256, to the digits that are printed."""
    assert f"{described(Architecture(), 256, 256).multiply_adds / 1e9:.2f}" == "140.99"


@pytest.mark.parametrize("variant", VARIANTS)
def test_stages_add_up(variant):
    """Multiply-adds, attention and shares of the stages sum to the totals."""
    structure = summarize(replace(TINY, **VARIANTS[variant]), 64, 96)
    assert sum(stage.multiply_adds for stage in structure.stages) == structure.multiply_adds
    assert sum(stage.attention for stage in structure.stages) == structure.attention
    assert sum(stage.share for stage in structure.stages) == pytest.approx(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_counted_is_what_runs(variant):
    """Torch's own counter finds all convolutions, one attention product, and its folding."""
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
    # The skip is applied and counted like every other convolution.
    assert counter.get_total_flops() == 2 * (
        structure.multiply_adds + structure.attention // 2 + folding
    )


def test_costs_are_linear_in_pixels():
    """Six times the pixels: six times the multiply-adds, the maps and the memory, no parameters."""
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


def test_sides_are_rounded_up_as_images_are_padded():
    """A size that cannot be halved thrice costs what the padded image costs."""
    assert summarize(TINY, 57, 33) == summarize(TINY, 64, 40)
    assert feature_maps_bytes(TINY, 57, 33, 4) == feature_maps_bytes(TINY, 64, 40, 4)


def test_stages_say_what_they_are_made_of():
    """Levels, maps, blocks, heads and hidden widths are those of the paper's Figure 2."""
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


# --- memory ---


def test_published_formulation_peaks_as_measured():
    """It comes to the 8.43 GiB per megapixel that were measured."""
    published = described(Architecture(), 256, 256).peaks[0]
    assert published.name == "published"
    assert f"{published.bytes_per_megapixel / 2**30:.2f}" == "8.43"


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_peak_is_that_of_a_real_run(variant):
    """Metering shapes without values finds what metering a real run finds."""
    network = tiny_network(**VARIANTS[variant])
    image = torch.rand(1, network.architecture.in_channels, 64, 64)
    with _Meter([*network.parameters(), image]) as meter, torch.no_grad():
        network(image)
    assert peaks(network.architecture, 64, 64)["plain"] == pytest.approx(meter.peak, rel=0.05)


def test_meter_counts_what_is_alive():
    """Existing tensors and views are free, and what was dropped no longer counts."""
    existing = torch.zeros(100)
    with _Meter([existing]) as meter:
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


def test_feature_maps_peak_where_level_one_is_widened():
    """Updated in place, two maps of level 1 and one of level 2 are the most there is."""
    level1, level2 = 64 * 96 * 48 * 2, 32 * 48 * 96 * 2
    assert feature_maps_bytes(Architecture(), 64, 96, 2) == 2 * level1 + level2


def test_strips_can_say_what_they_take():
    """The figure of who runs the strips takes the place of that of their feature maps."""
    by_maps, told = summarize(TINY, 64, 64), summarize(TINY, 64, 64, streamed_bytes=4096)
    assert by_maps.peaks[-1].bytes == feature_maps_bytes(TINY, 64, 64, 4)
    assert (told.peaks[-1].bytes, told.peaks[-1].bytes_per_megapixel) == (4096, 1e6)
    assert told.peaks[:-1] == by_maps.peaks[:-1]


# --- proof, JSON and print ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_proof_shows_the_shapes(variant):
    """A 64 x 64 image really goes through, halved thrice and doubled thrice."""
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


def test_proof_leaves_the_network_as_it_was():
    """No hook stays behind, and no gradient is recorded."""
    network = tiny_network()
    trace_shapes(network)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_structure_survives_json(variant):
    """Its fields are the same after they went through JSON, the architecture among them."""
    structure = summarize(replace(TINY, **VARIANTS[variant]), 64, 64)
    fields = json.loads(json.dumps(structure.as_dict()))
    assert fields == structure.as_dict()
    assert Architecture.from_dict(fields["architecture"]) == structure.architecture
    assert fields["stages"][1]["name"] == "encoder_level1"


@pytest.mark.parametrize("columns", [80, 99, 100, 119, 120, 200])
@pytest.mark.parametrize("size", [256, 4000, 20_000])
def test_table_fits_the_terminal(columns, size):
    """No line is too long and nothing is cut, from 80 columns on and up to huge images."""
    lines = rendered(OFFICIAL["dual_pixel"], columns, size)
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total[1] == "26,132,548"


def test_table_says_what_is_counted():
    """Every stage has its row, and the counting is explained below."""
    lines = rendered(LITE, 80)
    structure = described(LITE, 256, 256)
    for stage in structure.stages:
        assert any(line.strip().startswith(stage.title) for line in lines)
    assert "how the paper counts" in " ".join(lines)


def test_table_needs_no_unicode_blocks_on_an_ascii_terminal():
    """Where the output is ASCII, so is the table."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(width=120, file=file).print(summary_table(summarize(TINY, 64, 64)))
    file.flush()
    assert b"decoder 1" in file.buffer.getvalue()
