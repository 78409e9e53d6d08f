"""Common report of a file's pages, and the number of pages that an output can hold."""

from __future__ import annotations

import numpy as np
import pytest

from restormer_cli.batch.pages import count_pages, merge_texts
from restormer_cli.errors import ImageError
from restormer_cli.imaging import Image, ImageSequence


def sequence(count: int, unit: str = "page", *omitted: str) -> ImageSequence:
    image = Image(np.zeros((2, 2, 3), np.uint8))
    return ImageSequence(iter([image] * count), "tiff", count, unit, omitted)


@pytest.mark.parametrize(
    ("texts", "merged"),
    [
        ([["a"], ["a"]], ["a"]),
        ([["a"], []], ["page 1: a"]),
        ([["a", "a"], ["b"], ["a"]], ["pages 1, 3: a", "page 2: b"]),
        ([["a"], ["a"], ["a"], [], ["a"]], ["pages 1-3, 5: a"]),
        ([], []),
    ],
)
def test_texts_of_pages_are_merged(texts: list[list[str]], merged: list[str]) -> None:
    """Each appears once, with its pages unless it applies to all."""
    assert merge_texts(texts) == merged


@pytest.mark.parametrize(
    ("unit", "kind", "count"),
    [("page", "tiff", 3), ("page", "png", 1), ("frame", "png", 3), ("frame", "jpeg", 1)],
)
def test_the_format_limits_the_number_of_pages(unit: str, kind: str, count: int) -> None:
    """A warning states the number of pages left out."""
    pages, warnings = count_pages(sequence(3, unit), kind, in_place=False)
    assert pages == count
    assert ["2 are left out" in text for text in warnings] == [True] * (count == 1)


@pytest.mark.parametrize(
    ("images", "kind"), [(sequence(3), "png"), (sequence(1, "page", "a video"), "tiff")]
)
def test_in_place_no_contents_may_be_lost(images: ImageSequence, kind: str) -> None:
    """Pages and other data that the output cannot hold are an error."""
    with pytest.raises(ImageError) as caught:
        count_pages(images, kind, in_place=True)
    assert "write elsewhere" in caught.value.hint.lower()
