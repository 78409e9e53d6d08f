"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.program import Outcome, picture

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")


def test_training_makes_weights_that_restore(restormer: Callable[..., Outcome]) -> None:
    """Weights trained for one step can be used to restore."""
    for seed in range(3):
        picture(f"photos/{seed}.png", (160, 160, 3), seed=seed)
    outcome = restormer(
        "train", "denoise", "--photos", "photos", "-o", "my.safetensors", "--steps", "1", "--json",
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0
    (event,) = outcome.events
    assert (event["event"], event["step"]) == ("validated", 1)
    assert restormer("denoise", "photos/0.png", "--weights", "my.safetensors").status == 0


@pytest.mark.parametrize(
    "arguments", [["juggle", "--steps", "1"], ["denoise"], ["denoise", "--steps", "1"]]
)
def test_training_without_task_end_or_photos_exits_with_2(
    arguments: list[str], restormer: Callable[..., Outcome]
) -> None:
    """An unknown task, no end, or no photographs are wrong usage."""
    Path("photos").mkdir()
    outcome = restormer("train", *arguments, "--photos", "photos", "-o", "my.safetensors")
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: ")
