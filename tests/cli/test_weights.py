"""The commands `weights list`, `pull`, `path` and `verify`, and `export`."""

from __future__ import annotations

import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from restormer_cli.checkpoints import catalog
from tests.support.program import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


def test_list_names_every_checkpoint_and_its_licence(restormer: Callable[..., Outcome]) -> None:
    """`weights list` shows one line per checkpoint without using the network."""
    outcome = restormer("weights", "list")
    assert outcome.status == 0
    lines = outcome.stdout.decode().splitlines()
    assert {line.split()[0] for line in lines[1:14]} == set(catalog.CHECKPOINTS)
    assert all("MIT" in line for line in lines[1:])


def test_pulled_weights_are_found_and_verified(
    publish: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """After `pull`, `path` prints the checkpoint's path and `verify` accepts the file."""
    publish("deraining", b"weights")
    absent = restormer("weights", "path", "derain")
    assert (absent.status, absent.stdout) == (3, b"")
    assert "weights pull deraining" in absent.stderr

    assert restormer("weights", "pull", "derain").status == 0
    path = restormer("weights", "path", "deraining").stdout.decode().strip()
    verified = restormer("weights", "verify", "--json")
    (verdict,) = (v for v in json.loads(verified.stdout) if v["name"] == "deraining")
    assert verified.status == 0
    assert verdict["path"] == path
    assert verdict["ok"] is True
    rows = json.loads(restormer("weights", "list", "--json").stdout)
    assert {row["name"]: row["state"] for row in rows}["deraining"] == "cached"


def test_an_unknown_name_is_reported_before_any_download(
    publish: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """`pull` downloads all named checkpoints, or none if it does not know one."""
    publish("deraining", b"weights")
    outcome = restormer("weights", "pull", "derain", "derainn")
    assert outcome.status == 2
    assert "unknown checkpoint 'derainn'" in outcome.stderr
    assert restormer("weights", "path", "derain").status == 3


def test_verify_knows_the_bundled_weights(restormer: Callable[..., Outcome]) -> None:
    """The bundled weights have the SHA-256 that the program has recorded."""
    outcome = restormer("weights", "verify", "--json")
    assert outcome.status == 0
    verdicts = {v["name"]: v["ok"] for v in json.loads(outcome.stdout)}
    assert verdicts == {Path(task.lite).stem: True for task in catalog.TASKS.values()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("path", "lite"), "name one of restormer-lite-denoise, "),
        (("pull", "lite"), "name one of restormer-lite-denoise, "),
        (("path", "official"), "name a task, or a checkpoint"),
        (("pull", "restormer-lite-derain"), "`restormer derain --weights lite` uses it."),
    ],
)
def test_names_that_no_checkpoint_has_alone_are_explained(
    arguments: tuple[str, str], message: str, restormer: Callable[..., Outcome]
) -> None:
    """Names that --weights knows and `weights` does not are refused with what to name instead."""
    outcome = restormer("weights", *arguments)
    assert outcome.status == 2
    assert message in outcome.stderr
    assert "unknown" not in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("weights", "pull", "derain"),
        ("train", "denoise", "--photos=.", "--steps=1", "-o", "a.safetensors", "--start=deraining"),
        pytest.param(
            ("export", "derain", "-o", "a.onnx", "--weights", "official"),
            marks=pytest.mark.skipif(find_spec("onnx") is None, reason="needs the extra onnx"),
        ),
    ],
)
def test_a_failed_download_names_no_option_that_the_command_lacks(
    arguments: tuple[str, ...], restormer: Callable[..., Outcome]
) -> None:
    """Weights are named by --weights, by --start or as an argument: the hint suits them all."""
    outcome = restormer(*arguments)
    assert outcome.status == 3
    hint = outcome.stderr.splitlines()[-1]
    assert hint.startswith("hint: Check the connection, or use a file or the bundled lite weights")
    assert "--" not in hint


def test_verify_fails_on_damaged_weights(
    publish: Callable[..., Any], restormer: Callable[..., Outcome]
) -> None:
    """A damaged checkpoint is reported, and the exit status is 1."""
    publish("deraining", b"weights")
    restormer("weights", "pull", "deraining")
    path = restormer("weights", "path", "deraining").stdout.decode().strip()
    with open(path, "wb") as file:  # noqa: PTH123 - through the cache's link
        file.write(b"weightz")
    outcome = restormer("weights", "verify")
    assert outcome.status == 1
    assert b"DAMAGED" in outcome.stdout


@pytest.mark.parametrize(
    "arguments", [["pull"], ["pull", "derain", "--all"], ["pull", "rain"], ["path", "rain"]]
)
def test_missing_or_unknown_names_exit_with_2(
    arguments: list[str], restormer: Callable[..., Outcome]
) -> None:
    """Missing, contradicting or unknown names are wrong usage."""
    outcome = restormer("weights", *arguments)
    assert outcome.status == 2
    assert outcome.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("denoise", "-o", "x.png"), "not the name of an ONNX file"),
        (("denoise", "-o", "-"), "not the name of an ONNX file"),
        (("denoise", "-o", "folder.onnx"), "not the name of an ONNX file"),
        (("sharpen", "-o", "x.onnx"), "no task is called"),
        (("denoise", "-o", "x.onnx", "--weights", "deraining"), "is for derain, not for denoise"),
        (
            ("derain", "-o", "x.onnx", "--weights", "restormer-lite-deblur"),
            "is for deblur, not for derain",
        ),
    ],
)
def test_export_rejects_what_makes_no_sense(
    arguments: tuple[str, ...], cause: str, restormer: Callable[..., Outcome], folder: Path
) -> None:
    """Other names than *.onnx, unknown tasks and weights of another task are usage errors."""
    Path("folder.onnx").mkdir()
    outcome = restormer("export", *arguments)
    assert outcome.status == 2
    assert cause in outcome.stderr
    assert [path.name for path in folder.iterdir()] == ["folder.onnx"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_export_names_the_missing_extra(
    package: str,
    restormer: Callable[..., Outcome],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a package of the extra, the error names it and how to install it."""
    monkeypatch.setitem(sys.modules, "onnx", types.ModuleType("onnx"))
    monkeypatch.setitem(sys.modules, package, None)
    outcome = restormer("export", "denoise", "-o", "x.onnx", "--weights", "lite")
    assert outcome.status == 2
    assert f"needs {package}" in outcome.stderr
    assert "pip install 'restormer-cli[onnx]'" in outcome.stderr
    assert not Path("x.onnx").exists()
