"""The command `doctor`, which describes and tests the machine."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import checkpoints, evaluation, inference
from .._version import __version__
from ..checkpoints import TASKS
from ..errors import CheckpointError
from ..text import columns, format_bytes
from .console import Console
from .options import Json
from .weights import size_text

if TYPE_CHECKING:
    import torch

    from ..checkpoints import CheckpointStatus

LIBRARIES = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pillow-heif",
    "rawpy",
    "safetensors",
    "huggingface-hub",
    "typer",
)

VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "RESTORMER_RELEASE_URL",
    "RESTORMER_NATIVE",
)


def doctor(
    console: Console,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda[:N]|mps",
            help="Test this device for about a minute. Default: no test.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show versions, devices, the cache, and the weights that each task would use.

    With --device, test what a device computes in every precision, and how fast. The exit status is
    1 if a check fails. Add the output to a bug report.

    Examples:
        restormer doctor                # a quick look at the machine
        restormer doctor --device cuda  # test the first GPU
    """
    if device is not None:
        _test_device(console, inference.choose_device(device))
        return
    facts = examine_machine()
    if json:
        console.object(facts)
        return
    for title, group in facts.items():
        if isinstance(group, dict):
            rows = [[name, _cell(value)] for name, value in group.items()]
        else:
            rows = [list(group[0]), *([_cell(value) for value in row.values()] for row in group)]
        console.result(f"{title}\n{columns(*rows, indent=2)}")
    names = ", ".join(row["device"] for row in facts["devices"])
    console.result(f"`restormer doctor --device NAME` tests a device: {names}.")


def _test_device(console: Console, device: torch.device) -> None:
    """Run the self-test of a device, show its outcome, and exit with 1 if a check fails."""
    networks = [row for row in checkpoints.list_checkpoints() if row.state == "bundled"]
    if not networks:
        raise CheckpointError("the bundled lite weights are missing", "Install restormer again.")
    end = time.monotonic() + evaluation.SELFTEST_SECONDS
    facts, issues = evaluation.describe_system(device), evaluation.known_issues(device)
    cases = evaluation.selftest_cases(networks, device)
    checks = []
    with console.progress(len(cases)):
        for number, case in enumerate(cases):
            console.advance(number, f"{case.name}, {case.precision}")
            checks.append(case.run())
        console.advance(len(cases), "speed")
        speeds = list(evaluation.measure_speeds(networks[0], device, end))
    failures = [str(check) for check in checks if not check.ok]
    if console.json:
        report = {
            "ok": not failures,
            "system": facts,
            "known_issues": issues,
            "checks": [check.as_dict() for check in checks],
            "speeds": [speed.as_dict() for speed in speeds],
            "failures": failures,
        }
        console.object(report)
    else:
        console.result(columns(*((name, _cell(value)) for name, value in facts.items())))
        console.result("\nLargest difference or PSNR to the published formulation:")
        findings = {(c.name, c.precision): c.finding if c.ok else "FAILED" for c in checks}
        console.result(_by_precision("check", findings))
        console.result("\nTime and memory per megapixel:")
        costs = {(speed.way, speed.precision): str(speed) for speed in speeds}
        console.result(_by_precision("way", costs))
        lines = [f"known issue: {issue}" for issue in issues]
        lines += ["FAILED:", *failures] if failures else ["all right"]
        console.result("\n".join(["", *lines]))
    if failures:
        raise typer.Exit(1)


def _by_precision(title: str, cells: dict[tuple[str, str], str]) -> str:
    """Return cells by name and precision as a table."""
    precisions = list(dict.fromkeys(precision for _, precision in cells))
    names = dict.fromkeys(name for name, _ in cells)
    rows = ([name, *(cells.get((name, p), "") for p in precisions)] for name in names)
    return columns([title, *precisions], *rows, indent=2)


def examine_machine() -> dict[str, Any]:
    """Return the facts that `doctor` shows, by group."""
    from huggingface_hub import constants

    rows = checkpoints.list_checkpoints()
    return {
        "versions": {
            "restormer": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{name: _installed_version(name) for name in LIBRARIES},
        },
        "devices": [
            {**device, "free_memory": format_bytes(device["free_memory"])}
            for device in inference.describe_devices()
        ],
        "native": inference.describe_fusion(),
        "cache": {
            "folder": constants.HF_HUB_CACHE,
            "from the release": str(Path(constants.HF_HOME) / "restormer"),
            **{row.name: str(row.path) for row in rows if row.state == "cached"},
        },
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "tasks": [_default_weights(task, rows) for task in TASKS],
    }


def _default_weights(task: str, rows: list[CheckpointStatus]) -> dict[str, str]:
    """Return the weights that a task uses with and without a network connection."""
    official = next(row for row in rows if row.name == TASKS[task].official)
    lite = next(row for row in rows if row.task == task and row.state in ("bundled", "absent"))
    if official.path:
        return {"task": task, "online": official.name, "offline": official.name}
    return {
        "task": task,
        "online": f"{official.name}, to be downloaded ({size_text(official)})",
        "offline": lite.name if lite.path else "nothing",
    }


def _installed_version(library: str) -> str | None:
    from importlib import metadata  # slow to import

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # another distribution may provide the module
        return None


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
