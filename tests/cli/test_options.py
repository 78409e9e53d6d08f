"""Options: wrong usage and environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from restormer_cli.cli import app
from tests.support.program import Outcome, picture, tree

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("folder")

TASKS = ("denoise", "derain", "deblur", "defocus")


WRONG = {
    "no input": [],
    "an unknown option": ["a.png", "--frobnicate"],
    "an invalid choice": ["a.png", "--precision", "fp8"],
    "a quality out of range": ["a.png", "--quality", "101"],
    "a tile that is not a number": ["a.png", "--tile", "big"],
    "an overlap as large as the tile": ["a.png", "--tile", "16", "--overlap", "16"],
    "JSON and an image on stdout": ["a.png", "-o", "-", "--json"],
    "JSON and an image on stdout by default": ["-", "--json"],
    "several images on stdout": ["a.png", "b.png", "-o", "-"],
    "quiet and verbose": ["a.png", "-q", "-v"],
    "a separator without a list": ["a.png", "-0"],
    "a missing list": ["--files-from", "nothing"],
    "stdin twice": ["-", "--files-from", "-"],
    "in place and stdout": ["a.png", "--in-place", "-o", "-"],
    "a read-only format": ["a.png", "-o", "out.gif"],
    "an empty output": ["a.png", "-o", ""],
}


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_exits_with_2(case: str, restormer: Callable[..., Outcome]) -> None:
    """Wrong usage is explained on stderr, and no file is changed."""
    picture("a.png")
    picture("b.png")
    outcome = restormer("derain", *WRONG[case])
    assert outcome.status == 2
    assert outcome.stderr
    assert tree() == ["a.png", "b.png"]
    if "--json" not in WRONG[case]:
        assert outcome.stdout == b""


@pytest.mark.parametrize(
    "options", [["--noise", "real", "--sigma", "15"], ["--noise", "real", "--gray"]]
)
def test_contradicting_noise_options_exit_with_2(
    options: list[str], restormer: Callable[..., Outcome]
) -> None:
    """Noise options without a published checkpoint are wrong usage."""
    picture("a.png")
    assert restormer("denoise", "a.png", *options).status == 2


def test_every_option_has_a_variable() -> None:
    """Every option of a restoring command has the variable RESTORMER_<OPTION>."""
    group = typer.main.get_command(app.app)
    for task in TASKS:
        command = group.commands[task]  # type: ignore[attr-defined]
        options = [p for p in command.params if p.param_type_name == "option" and p.envvar]
        assert len(options) >= 18
        for option in options:
            assert option.envvar == f"RESTORMER_{option.name.upper()}"
        without = {p.name for p in command.params} - {p.name for p in options}
        assert without == {"inputs"}


def test_the_command_line_overrides_variables(
    tiny: Callable[..., Path],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable sets an option that is not on the command line."""
    picture("a.png")
    monkeypatch.setenv("RESTORMER_WEIGHTS", str(tiny()))
    monkeypatch.setenv("RESTORMER_STRENGTH", "0.5")
    monkeypatch.setenv("RESTORMER_FORMAT", "tiff")
    monkeypatch.setenv("RESTORMER_QUIET", "1")
    assert restormer("derain", "a.png").stderr == ""
    restormer("derain", "a.png", "--format", "webp")
    assert tree() == ["a.png", "a.restored.tif", "a.restored.webp"]
