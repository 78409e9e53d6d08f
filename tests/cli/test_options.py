"""Options: wrong usage and environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

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
    """Noise options for which no checkpoint was published are wrong usage."""
    picture("a.png")
    assert restormer("denoise", "a.png", *options).status == 2


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        ("denoise a.png --quality 0", "--quality is '0'", "a whole number from 1 to 100"),
        ("denoise a.png --quality abc", "--quality is 'abc'", "a whole number from 1 to 100"),
        ("denoise a.png --strength nan", "--strength is 'nan'", "a number from 0 to 1"),
        ("denoise a.png --window 5", "--window is '5'", "a whole number of at least 8"),
        ("denoise a.png --sigma 30", "--sigma is '30'", "one of auto, blind, 15, 25, 50"),
        ("serve --port 80808", "--port is '80808'", "a whole number from 0 to 65535"),
        ("bench --size 8 --size x", "--size is '8 x'", "whole numbers of at least 8"),
        ("info denoise --height 0", "--height is '0'", "a whole number of at least 1"),
        ("train denoise -o a.safetensors --seed 1.5", "--seed is '1.5'", "a whole number of at"),
        ("export denoise --precision bf16", "--precision is 'bf16'", "one of fp32, fp16"),
    ],
)
def test_invalid_values_are_reported_with_the_valid_ones(
    arguments: str, error: str, remedy: str, restormer: Callable[..., Outcome]
) -> None:
    """The error names the option and the value, and the hint what to give."""
    outcome = restormer(*arguments.split())
    assert outcome.status == 2
    assert outcome.stderr.startswith(f"error: {error}\nhint: Give {remedy}")


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("RESTORMER_QUALITY", "abc", "a whole number from 1 to 100"),
        ("RESTORMER_FORMAT", "bmp", "one of keep, png, jpg, webp, tiff, dng"),
        ("RESTORMER_SKIP_EXISTING", "abc", "1 or 0"),
    ],
)
def test_an_invalid_variable_is_named(
    variable: str,
    value: str,
    remedy: str,
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the option, which nobody typed, is reported, but the variable and its value."""
    monkeypatch.setenv(variable, value)
    outcome = restormer("denoise", "a.png")
    assert outcome.status == 2
    assert outcome.stderr == f"error: {variable} is {value!r}\nhint: Give {remedy}.\n"


@pytest.mark.parametrize(
    ("variable", "value", "typed"),
    [
        ("RESTORMER_TILE", "big", ()),
        ("RESTORMER_IN_PLACE", "1", ("-o", "-")),
    ],
)
def test_wrong_usage_by_a_variable_names_it(
    variable: str,
    value: str,
    typed: tuple[str, ...],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error that mentions an option says which variable sets it, unless it was typed."""
    monkeypatch.setenv(variable, value)
    option = "--" + variable.removeprefix("RESTORMER_").lower().replace("_", "-")
    picture("a.png")
    outcome = restormer("denoise", "a.png", *typed)
    assert outcome.status == 2
    assert outcome.stderr.endswith(f" {variable} sets {option}.\n")
    again = (option, value) if option == "--tile" else (option,)
    assert variable not in restormer("denoise", "a.png", *typed, *again).stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("denoise --weights ", {"auto", "official", "lite", "deraining"}),
        ("denoise --weights restormer-lite-der", {"restormer-lite-derain"}),
        ("derain --device c", {"cpu", "cuda"}),
        ("eval --weights l", {"lite"}),
        ("eval de", set(TASKS)),
        ("info derain", {"derain", "deraining"}),
        ("weights pull motion", {"motion_deblurring"}),
    ],
)
def test_the_shell_completes_names_of_weights(
    typed: str,
    words: set[str],
    restormer: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, devices, checkpoints and tasks are offered where the help names them."""
    line = f"restormer {typed}"
    monkeypatch.setenv("_RESTORMER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - (not line.endswith(" "))))
    completed = set(restormer().stdout.decode().split())
    assert completed >= words if typed.endswith(" ") else completed == words


LOCAL_ONLY = (
    *("denoise a.png --report URL", "denoise a.png --compare URL", "denoise --files-from URL"),
    *("denoise a.png --weights URL", "info URL", "bench URL", "serve --keep URL"),
    *("report URL", "report a.png -o URL", "compare URL a.png -o b.png"),
    *("compare a.png URL -o b.png", "compare a.png a.png -o URL", "eval derain --clean URL"),
    *("eval derain --clean a.png --degraded URL", "eval denoise --clean a.png --csv URL"),
    "eval defocus --clean a.png --degraded a.png --right URL",
    "train derain --photos URL -o b.safetensors",
    "train derain --photos a.png -o URL",
    "train derain --pairs URL a.png -o b.safetensors",
    "train derain --pairs a.png URL -o b.safetensors",
    "train defocus --pairs a.png a.png --right URL -o b.safetensors",
    "train derain --photos a.png -o b.safetensors --start URL",
    "train derain --photos a.png -o b.safetensors --plot URL",
)
MAY_BE_REMOTE = (
    *("derain URL", "derain a.png -o URL", "derain a.png --mask URL"),
    *("defocus a.png --right URL", "export derain -o URL"),
)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("line", LOCAL_ONLY)
def test_a_remote_url_is_refused_where_a_file_must_be_local(
    line: str, restormer: Callable[..., Outcome]
) -> None:
    """The error names the URL, and nothing is written, such as a folder `s3:`."""
    picture("a.png")
    outcome = restormer(*line.replace("URL", "s3://bucket/x.html").split())
    assert outcome.status == 2
    assert "s3://bucket/x.html is remote, but this file or folder must be local" in outcome.stderr
    assert "\nhint: Name one on this machine." in outcome.stderr
    assert [path.name for path in Path().iterdir()] == ["a.png"]


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("line", [*LOCAL_ONLY, *MAY_BE_REMOTE])
def test_the_url_of_a_local_file_is_its_path_in_every_option(
    line: str, restormer: Callable[..., Outcome]
) -> None:
    """The outcome is that of the path, here of one below a file, which is an error everywhere."""
    picture("a.png")
    path = Path("a.png/two words.html").absolute()
    by_path, by_url = (
        restormer(*(name if word == "URL" else word for word in line.split()))
        for name in (str(path), path.as_uri())
    )
    assert by_path.status > 0
    assert by_url.status == by_path.status
    # Some errors name what was typed, others the path.
    assert by_url.stderr.replace(path.as_uri(), str(path)) == by_path.stderr
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_every_option_of_type_path_is_in_the_table() -> None:
    """A new option for a local file or folder is tested, too."""
    functions = [function for group in app.COMMANDS.values() for function in group.values()]
    declared = [get_type_hints(get_type_hints(f).get("options", f)) for f in functions]
    paths = {name for hints in declared for name, kind in hints.items() if "Path" in str(kind)}
    words = {word for line in LOCAL_ONLY for word in line.split()}
    options = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert paths - {"before", "after", "folder", "output"} == options - {"files-from", "weights"}


def test_every_option_has_a_variable() -> None:
    """Every option of a restoring command has an environment variable RESTORMER_<OPTION>."""
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
    """An environment variable sets an option that is absent from the command line."""
    picture("a.png")
    monkeypatch.setenv("RESTORMER_WEIGHTS", str(tiny()))
    monkeypatch.setenv("RESTORMER_STRENGTH", "0.5")
    monkeypatch.setenv("RESTORMER_FORMAT", "tiff")
    monkeypatch.setenv("RESTORMER_QUIET", "1")
    assert restormer("derain", "a.png").stderr == ""
    restormer("derain", "a.png", "--format", "webp")
    assert tree() == ["a.png", "a.restored.tif", "a.restored.webp"]
