"""Options that several commands share, and those of every command that restores images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...checkpoints import BY_QUERY, CHECKPOINTS, TASKS
from ...errors import UsageError
from ..console import Console
from .declare import FILES, MACHINE, MESSAGES, RESTORATION, RESULTS, Option, completion

if TYPE_CHECKING:
    from ...inference import RestorerConfig

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Words for --device that the shell completes."""

NAMES = (*TASKS, *CHECKPOINTS)
"""Names of official checkpoints, and of tasks for their default ones."""

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="denoise, derain, deblur or defocus.",
        autocompletion=completion(*TASKS),
    ),
]

_LITE = tuple(PurePath(task.lite).stem for task in TASKS.values())

Weights = Annotated[
    str,
    Option(
        MACHINE,
        "auto, official, lite, a file, or hf:ORG/REPO/FILE\\[@REV]. auto: the official weights "
        "or, if they are unavailable, the bundled lite ones.",
        metavar="WHICH",
        words=(*BY_QUERY, "lite", *CHECKPOINTS, *_LITE),
    ),
]
Device = Annotated[
    str,
    Option(
        MACHINE,
        "Device to run on. auto: the first available of cuda, mps and cpu.",
        metavar="auto|cpu|cuda[:N]|mps",
        words=DEVICES,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Option(
        MACHINE,
        "Floating-point format. auto: the fastest whose result is within 50 dB PSNR of fp32.",
    ),
]
Json = Annotated[bool, Option(MESSAGES, "Write results and events to stdout as JSON lines.")]
Quiet = Annotated[bool, Option(MESSAGES, "Show only warnings and errors.", short="-q")]
MaxPixels = Annotated[
    int, Option(FILES, "Reject images of more than N pixels.", min=1, metavar="N")
]
Crops = Annotated[
    list[str] | None,
    Option(
        RESULTS,
        "Part to enlarge, in pixels; repeatable. Default: where images differ most.",
        metavar="X,Y,W,H",
    ),
]


def note_unused_choices(console: Console, weights: object, choices: Mapping[str, object]) -> None:
    """Report options that choose among the official weights, if others are used.

    Args:
        console: shows the note.
        weights: the value of --weights.
        choices: values by option; those that were not given are false.
    """
    given = ", ".join(option for option, value in choices.items() if value)
    if given and weights not in BY_QUERY:
        console.say(
            f"note: {given}: no effect with {weights} weights, only among the official ones"
        )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of every command that restores images."""

    tile: Annotated[
        str,
        Option(
            RESTORATION,
            "Side of the tiles, in pixels. 0: no tiles, which is exact. auto: tiles only if memory "
            "cannot hold the whole image.",
            metavar="auto|0|N",
        ),
    ] = "auto"
    overlap: Annotated[
        int,
        Option(
            RESTORATION,
            "Width in pixels of the overlap that blends tiles.",
            min=0,
            metavar="PIXELS",
        ),
    ] = 32
    window: Annotated[
        int | None,
        Option(
            RESTORATION,
            "Side of the windows for attention statistics (TLC), in pixels; 384 suits official "
            "weights for deblur. Default: the whole image.",
            min=8,
            metavar="PIXELS",
        ),
    ] = None
    ensemble: Annotated[
        bool,
        Option(
            RESTORATION,
            "Average over all 8 flips and rotations: slightly better, 8 times slower. With "
            "--right: over 4.",
        ),
    ] = False

    weights: Weights = "auto"
    device: Device = "auto"
    precision: Precision = "auto"

    json: Json = False
    quiet: Quiet = False
    verbose: Annotated[bool, Option(MESSAGES, "Show details.", short="-v")] = False

    def restorer_config(self, task: str) -> "RestorerConfig":
        """Return the configuration of the restorer for a task.

        Raises:
            UsageError: the options contradict each other, or --tile is not a number.
        """
        from ...inference import RestorerConfig

        if self.tile != "auto" and not self.tile.isdecimal():
            raise UsageError(
                f"--tile is {self.tile!r}",
                "Give auto, 0 for the whole image, or a number of pixels.",
            )
        return RestorerConfig(
            task,
            weights=self.weights,
            device=self.device,
            precision=self.precision,
            tile="auto" if self.tile == "auto" else int(self.tile),
            overlap=self.overlap,
            window=self.window,
            ensemble=self.ensemble,
        )
