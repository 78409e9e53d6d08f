"""Compare the functions of the library with PyTorch's, for every instruction set of this CPU."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restormer_cli.inference.blocking import BlockShape, Region, StripRunner, empty_group
from restormer_cli.inference.blocking.maps import free_rows
from restormer_cli.inference.fusion.check import Case, Outcome, random_block
from restormer_cli.inference.native.library import TYPES, FusedBlock, fits
from restormer_cli.inference.tlc import Mixing, Windows

WIDTHS = (
    *((16, 1), (32, 1), (32, 2), (48, 1), (64, 4), (80, 1), (96, 1), (96, 2), (112, 1), (128, 8)),
    *((192, 4), (384, 8)),
)
"""Channels and heads."""

NORMS = ("BiasFree", "WithBias")


def compare(library, channels, heads, region, size, **architecture):
    """Require the results of the library in all its types to be right."""
    weights = random_block(channels, heads, **architecture)
    for dtype in filter(library.supports, TYPES):
        with torch.inference_mode():
            assert Case("", weights, region, size).compare(library, dtype) == ""


@pytest.mark.parametrize(("channels", "heads"), WIDTHS)
def test_all_widths_and_heads(library, channels, heads):
    """Every supported width gives PyTorch's results, with one head and with several."""
    compare(library, channels, heads, Region(0, 12, 5, 22), (20, 22))


@pytest.mark.parametrize(("bias", "norm"), [*product((False, True), NORMS)])
def test_biases_and_norms(library, bias, norm):
    """Both kinds of LayerNorm are right, with biases in the convolutions and without."""
    compare(library, 48, 1, Region(2, 9, 0, 13), (9, 20), bias=bias, layer_norm=norm)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 3), (2, 2), (3, 300), (300, 3)])
def test_odd_and_tiny_maps(library, size):
    """A map of any size is right: all of its block's halo is outside the image."""
    compare(library, 16, 1, Region(0, size[0], 0, size[1]), size, bias=True)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    inside=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    after=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_blocks_anywhere_in_a_map(library, before, inside, after):
    """A block of any size is right in corners, at edges, one pixel from them and inside."""
    (top, left), (height, width) = before, inside
    size = (top + height + after[0], left + width + after[1])
    compare(library, 32, 2, Region(top, top + height, left, left + width), size, bias=True)


def test_large_values_and_gelu(library):
    """Features of any scale are right in the tails of GELU."""
    weights = random_block(16, 1)
    for scale in (1e-3, 30.0, 1e4):
        gates = weights._replace(
            gate=weights.gate._replace(pointwise=weights.gate.pointwise * scale)
        )
        case = Case("", gates, Region(0, 9, 0, 9), (9, 9))
        for dtype in filter(library.supports, TYPES):
            with torch.inference_mode():
                assert case.compare(library, dtype) == ""


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.sets(st.integers(1, 29), max_size=4),
    columns=st.sets(st.integers(1, 39), max_size=4),
    channels=st.sampled_from([(16, 1), (32, 2), (48, 1)]),
)
def test_segments_have_matrices_of_their_own(library, rows, columns, channels):
    """Edges of windows anywhere, also in the halo and a pixel apart, separate mixing matrices."""
    weights = random_block(*channels, bias=True)
    edges = sorted(rows), sorted(columns)
    for dtype, region in product(
        filter(library.supports, TYPES), (Region(0, 30, 0, 40), Region(5, 21, 9, 40))
    ):
        with torch.inference_mode():
            case = Case("", weights, region, (30, 40), edges=edges)
            assert case.compare(library, dtype) == ""


@pytest.mark.parametrize("size", [(1, 1), (9, 3), (40, 33)])
def test_a_map_may_have_two_groups_of_channels(library, size):
    """Two groups give the bits of one, in strips and in place."""
    runner = StripRunner(lambda *_: BlockShape(16, 8, 16), lambda f, x: [*map(f, x)], None, 0)
    for dtype in filter(library.supports, TYPES):
        block = library.block(random_block(32, 2, bias=True), dtype)
        whole = torch.rand(2, *size, 32).to(dtype)
        groups = [part.contiguous() for part in whole.split(16, -1)]
        block.transform(runner, [whole], Windows.over(*size, 16))
        block.transform(runner, groups, Windows.over(*size, 16))
        assert torch.equal(torch.cat(groups, -1), whole)


@pytest.mark.parametrize(("size", "room"), [((1, 1), 3), ((9, 3), 11), ((40, 33), 18)])
def test_a_map_moves_to_free_rows(library, size, room):
    """It moves down and up again with the bits of a map in place, and leaves no more than a map."""
    runner = StripRunner(lambda *_: BlockShape(16, 8, 16), lambda f, x: [*map(f, x)], None, 0)
    for dtype in filter(library.supports, TYPES):
        block = library.block(random_block(32, 2), dtype)
        expected = [torch.rand(2, *size, 16).to(dtype) for _ in range(2)]
        moving = [empty_group(group.shape, room, dtype, group.device) for group in expected]
        for group, values in zip(moving, expected, strict=True):
            group.copy_(values)
        for behind in (-room, room):
            block.transform(runner, expected, Windows.over(*size, None))
            block.transform(runner, moving, Windows.over(*size, None))
            assert [free_rows(group) for group in moving] == [behind] * 2
            assert all(map(torch.equal, moving, expected))


def test_a_block_of_another_shape_is_rejected(library):
    """Memory beyond a block is never read: its shape, type and order in memory are checked."""
    block = FusedBlock(library, random_block(16, 1), torch.float32)
    region, size = Region(1, 9, 1, 9), (10, 10)
    right = torch.zeros(1, 10, 10, 16)
    block.sums(right, region, size)
    wide = torch.zeros(1, 10, 10, 32)[..., :16]
    for x in (right[:, 1:], right[:, :, :9], right[..., :8], right.bfloat16(), wide):
        with pytest.raises(ValueError, match="do not contain"):
            block.sums(x, region, size)
    mixing = Mixing(([], []), lambda *_: torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match="do not contain"):
        block.finish(right, mixing, Region(2, 8, 2, 9), (11, 11))


def test_nan_is_not_hidden(library):
    """A feature that is NaN or infinite makes sums and results NaN, as with PyTorch."""
    case = Case("", random_block(16, 1), Region(0, 9, 0, 9), (9, 9))
    for dtype, value in product(filter(library.supports, list(TYPES)), (torch.nan, torch.inf)):
        x, matrix = case.inputs(dtype)
        x[0, 6, 6, 3] = value
        with torch.inference_mode():
            native, eager = case.fused(library, x, matrix), case.eager(x, matrix, dtype)
        for result, expected in zip(native, eager, strict=True):
            assert torch.equal(result.isnan(), expected.isnan())
            assert result.isnan().any()


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (24, 1), (40, 1), (48, 2), (16, 2)])
def test_other_widths_are_left_to_pytorch(channels, heads):
    """Channels, or channels of a head, that are no multiples of 16 do not fit."""
    assert not fits(channels, heads)
    assert fits(16 * channels, heads)


def test_a_wrong_result_is_noticed(library):
    """The comparison fails if the library computes with other weights."""
    case = Case("", random_block(16, 1), Region(0, 9, 0, 9), (9, 9))
    other = Case("", random_block(16, 1, bias=True), Region(0, 9, 0, 9), (9, 9))
    case.fused = other.fused
    for dtype in filter(library.supports, TYPES):
        with torch.inference_mode():
            assert "differs by" in case.compare(library, dtype)


def test_only_many_values_show_a_slightly_larger_error():
    """A quarter more than PyTorch's error is accepted for one pixel, but not for a whole map."""

    def slightly_wrong(case: Case):
        x, matrix = case.inputs(torch.bfloat16)
        exact = case.eager(x.float(), matrix, torch.float32)
        eager = case.eager(x, matrix, torch.bfloat16)
        return Outcome(
            *(true + 1.25 * (e.float() - true) for true, e in zip(exact, eager, strict=True))
        )

    for region, noticed in ((Region(0, 1, 0, 1), False), (Region(0, 40, 0, 40), True)):
        case = Case("", random_block(16, 1), region, (40, 40))
        case.fused = lambda *_, case=case: slightly_wrong(case)
        with torch.inference_mode():
            assert ("finished differs" in case.compare(None, torch.bfloat16)) == noticed
