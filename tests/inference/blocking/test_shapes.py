"""Test the division of feature maps into strips and blocks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from restormer_cli.inference.blocking import shapes


@settings(max_examples=60)
@given(
    channels=st.sampled_from([1, 3, 16, 48, 96, 192, 384]),
    height=st.integers(1, 8).map(lambda n: 8 * n),
    width=st.integers(1, 900).map(lambda n: 8 * n),
    threads=st.integers(1, 96),
    itemsize=st.sampled_from([2, 4]),
)
def test_blocks_are_even_and_fit_the_cache(channels, height, width, threads, itemsize):
    """Blocks for a CPU have even sides and fit the cache, and a strip has whole rows of them."""
    shape = shapes.block_shape_on_cpu(threads, itemsize, channels, height, width)
    assert shape.rows % 2 == shape.columns % 2 == 0
    assert shape.strip % shape.rows == 0
    assert shape.rows * shape.columns * channels * itemsize <= 2 * shapes.BLOCK_BYTES
