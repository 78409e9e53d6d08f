"""What is on this machine: the commands `weights` and `doctor`."""

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._version import __version__
from ..checkpoints.catalog import CHECKPOINTS, TASKS, Checkpoint
from ..errors import CheckpointError, UsageError
from .console import Console, columns, format_bytes
from .options import Json, Name, Names

if TYPE_CHECKING:
    from ..network.restormer import Restormer

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
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "RESTORMER_RELEASE_URL")

weights = typer.Typer(
    help="The checkpoints: which there are, where they lie, whether they are whole.",
    no_args_is_help=True,
)


@weights.command("list")
def list_weights(context: typer.Context, json: Json = False) -> None:
    """List the official checkpoints and the bundled lite ones, and which of them are here."""
    console: Console = context.obj
    console.configure(json=json)
    from ..checkpoints import resolve

    rows = resolve.list_checkpoints()
    if json:
        console.object([_plain(asdict(row)) for row in rows])
        return
    heads = ("NAME", "TASK", "IS", "SIZE", "LICENCE", "FOR")
    console.result(
        columns(
            heads,
            *(
                (row.name, row.task, row.state, _size(row.bytes), row.licence, row.purpose)
                for row in rows
            ),
        )
    )


@weights.command()
def pull(
    context: typer.Context,
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", metavar="", help="All of them: 1.4 GB.")] = False,
    json: Json = False,
) -> None:
    """Download checkpoints, verify them and keep them in the cache, for use without a network.

    A task's name stands for the checkpoint that the task uses when nothing more is said.
    """
    console: Console = context.obj
    console.configure(json=json)
    if every == bool(names):
        raise UsageError("what shall be pulled?", "Name tasks or checkpoints, or say --all.")
    from ..checkpoints import resolve

    for checkpoint in CHECKPOINTS.values() if every else [_official(name) for name in names or ()]:
        found = resolve.pull_checkpoint(checkpoint, notify=console.warn)
        if json:
            console.object(_plain(asdict(found)))
        else:
            console.say(f"{found.name}  {found.path}")


@weights.command()
def path(context: typer.Context, name: Name) -> None:
    """Print where a checkpoint lies; it fails if it is not on this machine."""
    from ..checkpoints import resolve

    wanted = _official(name).name if name in TASKS else name
    rows = {row.name: row for row in resolve.list_checkpoints()}
    if wanted not in rows:
        raise _unknown(name)
    found = rows[wanted].path
    if found is None:
        raise CheckpointError(
            f"{wanted} is not on this machine", f"`restormer weights pull {wanted}` downloads it."
        )
    context.obj.result(str(found))


@weights.command()
def verify(context: typer.Context, json: Json = False) -> None:
    """Hash every checkpoint on this machine and compare; the exit status is 1 if one is damaged."""
    console: Console = context.obj
    console.configure(json=json)
    from ..checkpoints import resolve

    words = {True: "whole", False: "DAMAGED", None: "not known"}
    verdicts = resolve.verify_checkpoints()
    if json:
        console.object([_plain(asdict(verdict)) for verdict in verdicts])
    elif verdicts:
        console.result(
            columns(*((v.name, words[v.ok], v.sha256[:12], str(v.path)) for v in verdicts))
        )
    else:
        console.say("There are no checkpoints on this machine.")
    if any(verdict.ok is False for verdict in verdicts):
        raise typer.Exit(1)


def _official(name: str) -> Checkpoint:
    """The official checkpoint of this name, or of the task of this name."""
    wanted = TASKS[name].official if name in TASKS else name
    if wanted not in CHECKPOINTS:
        raise _unknown(name)
    return CHECKPOINTS[wanted]


def _unknown(name: str) -> UsageError:
    return UsageError(f"no checkpoint is called {name!r}", "`restormer weights list` shows all.")


def doctor(context: typer.Context, json: Json = False) -> None:
    """Say what is installed, on what it can run, and what a run of each task would use."""
    console: Console = context.obj
    console.configure(json=json)
    facts = examination()
    if json:
        console.object(facts)
        return
    for title, group in facts.items():
        if isinstance(group, dict):
            rows = [[name, _shown(value)] for name, value in group.items()]
        else:
            rows = [list(group[0]), *([_shown(value) for value in row.values()] for row in group)]
        console.result(f"{title}\n{columns(*rows, indent=2)}")


def examination() -> dict[str, Any]:
    """What `doctor` tells: groups of facts, each a dict or a list of dicts, fit for JSON."""
    from huggingface_hub import constants

    from ..checkpoints import resolve
    from ..inference import devices

    rows = resolve.list_checkpoints()
    return {
        "versions": {
            "restormer": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{name: _installed(name) for name in LIBRARIES},
        },
        "devices": [
            {**device, "free_memory": format_bytes(device["free_memory"])}
            for device in devices.describe_devices()
        ],
        "cache": {
            "folder": constants.HF_HUB_CACHE,
            "from the release": str(Path(constants.HF_HOME) / "restormer"),
            **{row.name: str(row.path) for row in rows if row.state == "cached"},
        },
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "tasks": [_use(task, rows) for task in TASKS],
    }


def _use(task: str, rows: "list[CheckpointStatus]") -> dict[str, str]:
    """What a run of this task would use, with a network and without."""
    official = next(row for row in rows if row.name == TASKS[task].official)
    lite = next(row for row in rows if row.task == task and row.state in ("bundled", "absent"))
    if official.path:
        return {"task": task, "online": official.name, "offline": official.name}
    return {
        "task": task,
        "online": f"{official.name}, to be downloaded ({_size(official.bytes)})",
        "offline": lite.name if lite.path else "nothing",
    }


def network(name: str) -> "Restormer":
    """The network of a task or checkpoint; of the official ones one is built, without the file.

    Raises:
        CheckpointError: it is neither, and no file with a network.
    """
    from ..checkpoints import resolve, serialization
    from ..network.restormer import Architecture, Restormer

    if name in TASKS or name in CHECKPOINTS:
        official = _official(name)
        published = Architecture(
            in_channels=official.channels,
            out_channels=1 if official.channels == 1 else 3,
            layer_norm="BiasFree" if official.task == "denoise" else "WithBias",
            dual_pixel=official.channels == 6,
        )
        return Restormer(published).eval()
    bundled = {row.name: row.path for row in resolve.list_checkpoints() if row.path}
    return serialization.load_network(bundled.get(name, name))


def _installed(library: str) -> str | None:
    from importlib import metadata  # a tenth of the time that --help may take

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # another package may provide the module
        return None


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: str(v) if isinstance(v, Path) else v for key, v in value.items()}


def _size(count: int | None) -> str:
    return "" if count is None else format_bytes(count)


def _shown(cell: object) -> str:
    return "-" if cell is None else str(cell)
