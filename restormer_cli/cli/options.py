"""Declarations of the shared options, and their adaptation to Typer."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_type_hints

import typer

from ..errors import UsageError
from .console import Console

if TYPE_CHECKING:
    from ..batch import BatchConfig
    from ..inference import RestorerConfig

FILES = "Input and output"
RESTORATION = "Restoration"
MACHINE = "Weights and device"
BATCH = "Batch"
MESSAGES = "Messages"
RESULTS = "Looking at results"
SERVER = "Server"
PANELS = (None, FILES, RESTORATION, MACHINE, BATCH, SERVER, MESSAGES, RESULTS)
"""Panels of a command's help text in order. None: arguments and options without a panel."""

UNREPORTED = frozenset(["inputs", "json", "quiet", "verbose", "report"])
"""Options that a report leaves out, because they do not affect the outputs."""


class Option(NamedTuple):
    """Declaration of an option in an annotation.

    The option `--max-pixels` and its environment variable RESTORMER_MAX_PIXELS are named after the
    annotated field or parameter `max_pixels`. An option of type bool takes no value.
    """

    panel: str
    help: str
    short: str | None = None
    metavar: str | None = None
    min: float | None = None
    max: float | None = None


Weights = Annotated[
    str,
    Option(
        MACHINE,
        "auto, official, lite, a file, or hf:ORG/REPO/FILE\\[@REV]. auto: the official weights "
        "or, if they are unavailable, the bundled lite ones.",
        metavar="WHICH",
    ),
]
Device = Annotated[
    str,
    Option(
        MACHINE,
        "Device to run on. auto: the first available of cuda, mps and cpu.",
        metavar="auto|cpu|cuda[:N]|mps",
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
            "Side of the windows for attention statistics (TLC), in pixels; 384 suits deblur. "
            "Default: the whole image.",
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
        from ..inference import RestorerConfig

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


@dataclass(frozen=True, kw_only=True)
class RestoreOptions(NetworkOptions):
    """Options of every restoring command."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Image files, folders or glob patterns, or - for one image from stdin.",
            show_default=False,
        ),
    ] = None
    output: Annotated[
        str | None,
        Option(
            FILES,
            "Output file, folder, or - for stdout. Default: NAME.restored.EXT beside each "
            "image, FOLDER-restored beside each folder.",
            short="-o",
            metavar="PATH",
        ),
    ] = None
    format: Annotated[
        Literal["keep", "png", "jpg", "webp", "tiff", "dng"],
        Option(
            FILES,
            "Output format. keep: that of the -o name, else of the input. dng: linear DNG of "
            "camera raw files.",
        ),
    ] = "keep"
    quality: Annotated[
        int,
        Option(
            FILES,
            "Quality of JPEG, AVIF, HEIF (all 4:4:4) and WebP. 100: lossless WebP and HEIF.",
            min=1,
            max=100,
            metavar="N",
        ),
    ] = 95
    max_pixels: MaxPixels = 300_000_000
    allow_damaged: Annotated[
        bool,
        Option(
            FILES,
            "Restore what can be decoded of a damaged image, with a warning. Default: fail.",
        ),
    ] = False

    strength: Annotated[
        float,
        Option(
            RESTORATION,
            "Fraction of the change to apply. 0 returns the input.",
            min=0,
            max=1,
            metavar="0..1",
        ),
    ] = 1.0
    mask: Annotated[
        str | None,
        Option(
            RESTORATION,
            "Image of the same size: white is restored, black stays untouched, grey blends. For "
            "several inputs, a folder of masks of the same names in any format, or one mask for "
            "all. Default: none.",
            metavar="PATH",
        ),
    ] = None

    device: Annotated[
        str,
        Option(
            MACHINE,
            "Device to run on. auto: the first available of cuda, mps and cpu. Several, as in "
            "cuda:0,cuda:1 or cpu,cpu, share the images, one process each.",
            metavar="auto|cpu|cuda[:N]|mps",
        ),
    ] = "auto"
    ray: Annotated[
        str | None,
        Option(
            MACHINE,
            "Distribute the images over a Ray cluster. local: one on this machine. Default: none.",
            metavar="ADDRESS",
        ),
    ] = None

    recursive: Annotated[
        bool, Option(BATCH, "Include the subfolders of input folders.", short="-r")
    ] = False
    files_from: Annotated[
        str | None,
        Option(BATCH, "Read input paths, one per line, from a file or stdin (-).", metavar="LIST"),
    ] = None
    null: Annotated[
        bool, Option(BATCH, "Paths in the list end with NUL (find -print0).", short="-0")
    ] = False
    skip_existing: Annotated[
        bool,
        Option(
            BATCH,
            "Skip outputs whose input, weights and options are unchanged, and files that "
            "restormer did not write.",
        ),
    ] = False
    watch: Annotated[
        bool,
        Option(
            BATCH,
            "Restore what is in the folders, then what arrives, until Ctrl-C or SIGTERM. Implies "
            "--skip-existing.",
        ),
    ] = False
    in_place: Annotated[bool, Option(BATCH, "Allow outputs to replace their inputs.")] = False
    dry_run: Annotated[
        bool, Option(BATCH, "Show files, sizes, strategy, memory and time, and restore nothing.")
    ] = False

    preview: Annotated[
        bool, Option(MESSAGES, "Show each image before and after in the terminal.")
    ] = False
    compare: Annotated[
        str | None,
        Option(
            RESULTS,
            "Write a picture of each image before and after, with enlarged parts and the "
            "difference: a file (.png, .jpg, .webp), or a folder for several. Default: none.",
            metavar="PATH",
        ),
    ] = None
    crop: Crops = None
    report: Annotated[
        str | None,
        Option(
            RESULTS,
            "Write a page (.html) of all images before and after, and of failures. Default: none.",
            metavar="FILE",
        ),
    ] = None

    def batch_config(self) -> "BatchConfig":
        """Return the settings for reading, blending and writing images."""
        from ..batch import BatchConfig

        return BatchConfig(
            format=self.format,
            quality=self.quality,
            max_pixels=self.max_pixels,
            strength=self.strength,
            allow_damaged=self.allow_damaged,
        )

    def changed(self) -> list[tuple[str, str]]:
        """Return the options that differ from their defaults, for a report."""
        return [
            ("--" + field.name.replace("_", "-"), "on" if value is True else str(value))
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
            and field.name not in UNREPORTED
        ]


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(RestoreOptions):
    """Options of `denoise`."""

    noise: Annotated[
        Literal["real", "gaussian"] | None,
        Option(
            RESTORATION,
            "Noise that the official weights are for: real (camera) or gaussian. Default: "
            "gaussian with --sigma or --gray, else real.",
        ),
    ] = None
    sigma: Annotated[
        Literal["auto", "blind", "15", "25", "50"] | None,
        Option(
            RESTORATION,
            "Level of Gaussian noise (0..255) that the official weights are for. auto: "
            "estimate it for each image. blind: any level. Default: blind, for Gaussian noise.",
        ),
    ] = None
    gray: Annotated[
        bool, Option(RESTORATION, "Use the official weights for grey images (Gaussian noise).")
    ] = False
    keep_detail: Annotated[
        float,
        Option(
            RESTORATION,
            "Fraction of the removed detail of brightness that is given back, where it exceeds "
            "the noise. Noise of colour stays removed.",
            min=0,
            max=1,
            metavar="0..1",
        ),
    ] = 0.0

    def restorer_config(self, task: str) -> "RestorerConfig":
        """Return the configuration, with the choice of the denoising checkpoint."""
        config = super().restorer_config(task)
        return replace(config, noise=self.noise, sigma=self.sigma, gray=self.gray)

    def batch_config(self) -> "BatchConfig":
        """Return the settings, with the detail to give back."""
        return replace(super().batch_config(), keep_detail=self.keep_detail)


@dataclass(frozen=True, kw_only=True)
class DefocusOptions(RestoreOptions):
    """Options of `defocus`."""

    right: Annotated[
        str | None,
        Option(
            FILES,
            "Right dual-pixel view; INPUT is the left one. For several inputs, the folder "
            "that holds the right views under the same names. Default: one view.",
            metavar="RIGHT",
        ),
    ] = None

    def restorer_config(self, task: str) -> "RestorerConfig":
        """Return the configuration, for two views if the right one is given."""
        return replace(super().restorer_config(task), dual_pixel=self.right is not None)


Contradictions = tuple[tuple[Callable[[Any], bool], str, str], ...]
"""Combinations of options to reject: predicate, error message and hint of each."""


def check_options(options: object, contradictions: Contradictions) -> None:
    """Raise UsageError for the first contradiction that applies to the options."""
    for applies, message, hint in contradictions:
        if applies(options):
            raise UsageError(message, hint)


def typer_command(function: Callable[..., None]) -> Callable[..., None]:
    """Adapt a command to Typer, which passes the context and one value for each option.

    The adapted command applies --json, --quiet and --verbose to the console.

    Args:
        function: `function(console, options)`, where `options` is annotated with a dataclass whose
            fields are the options, or `function(console, ...)` with one parameter for each.
    """
    kind = get_type_hints(function).get("options")
    declared = kind or function
    hints = get_type_hints(declared, include_extras=True)
    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=_for_typer(name, hints[name]))
        for name, parameter in inspect.signature(declared).parameters.items()
        if name != "console"
    ]
    parameters.sort(key=lambda p: PANELS.index(p.annotation.__metadata__[0].rich_help_panel))
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def command(*, context: typer.Context, **values: Any) -> None:
        console: Console = context.obj
        switches = {"json", "quiet", "verbose"} & values.keys()
        console.configure(**{name: values[name] for name in switches})
        _check_working_folder()
        if kind:
            function(console, kind(**values))
        else:
            function(console, **values)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return command


def _check_working_folder() -> None:
    """Raise UsageError if the working folder was deleted, where no relative path has a meaning."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd is the same
    except OSError as error:
        raise UsageError(
            f"the working folder is gone ({error.strerror})", "Change to another folder."
        ) from error


def _for_typer(name: str, hint: Any) -> Any:
    value_type, option = hint.__origin__, hint.__metadata__[0]
    if not isinstance(option, Option):
        return hint
    declaration = typer.Option(
        *filter(None, ("--" + name.replace("_", "-"), option.short)),
        help=option.help,
        metavar="" if value_type is bool else option.metavar,
        min=option.min,
        max=option.max,
        envvar=f"RESTORMER_{name.upper()}",
        show_envvar=False,  # the end of the help text states the rule for all of them
        rich_help_panel=option.panel,
    )
    return Annotated[value_type, declaration]
