"""The options of the commands, each named once and used by every command that takes it."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

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
LOOKS = "Looking at results"
MESSAGES = "Messages"

Options = TypeVar("Options")

UNREPORTED = frozenset(["inputs", "json", "quiet", "verbose", "report"])
"""Options that a report leaves out: they change neither results nor their place."""


def _option(
    panel: str,
    *names: str,
    help: str,  # noqa: A002 - as Typer calls it
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """An option with its environment variable: `--skip-existing` is RESTORMER_SKIP_EXISTING."""
    long = next(name for name in names if name.startswith("--"))
    return typer.Option(
        *names,
        help=help,
        metavar=metavar,
        min=least,
        max=most,
        envvar="RESTORMER_" + long.removeprefix("--").replace("-", "_").upper(),
        show_envvar=False,  # they follow one rule, which every help text states once
        rich_help_panel=panel,
    )


def _flag(panel: str, *names: str, help: str) -> Any:  # noqa: A002 - as Typer calls it
    """An option that is said or not; it has no value for the help to name."""
    return _option(panel, *names, help=help, metavar="")


# --- what several commands take -----------------------------------------------------------------

Weights = Annotated[
    str,
    _option(
        MACHINE,
        "--weights",
        metavar="WHICH",
        help="auto, official, lite, a file, or hf:ORG/REPO/FILE\\[@REV]. auto: the official ones "
        "if they can be had, else the bundled lite ones, and says so.",
    ),
]
Device = Annotated[
    str,
    _option(
        MACHINE,
        "--device",
        metavar="auto|cpu|cuda[:N]|mps",
        help="auto: cuda, then mps, then cpu.",
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    _option(MACHINE, "--precision", help="auto: the fastest within 50 dB (PSNR) of fp32."),
]
Tile = Annotated[
    str,
    _option(
        RESTORATION,
        "--tile",
        metavar="auto|0|N",
        help="Restore in tiles of N pixels a side. 0: the image whole, which is exact; "
        "auto: whole, unless memory cannot hold it.",
    ),
]
Overlap = Annotated[
    int,
    _option(
        RESTORATION,
        "--overlap",
        least=0,
        metavar="PIXELS",
        help="How far neighbouring tiles overlap and are blended.",
    ),
]
Window = Annotated[
    int | None,
    _option(
        RESTORATION,
        "--window",
        least=8,
        metavar="PIXELS",
        help="Measure attention over windows of this size instead of the whole image (TLC). "
        "For deblur, 384 is recommended.",
    ),
]
Ensemble = Annotated[
    bool,
    _flag(
        RESTORATION,
        "--ensemble",
        help="Restore in all 8 flips and rotations and take the mean: a little better, in 8 times "
        "the time. (With --right: in the 4 that a dual-pixel sensor can see.)",
    ),
]
Json = Annotated[
    bool, _flag(MESSAGES, "--json", help="JSON on stdout, one object a line or report.")
]
Quiet = Annotated[bool, _flag(MESSAGES, "--quiet", "-q", help="Only warnings and errors.")]
Verbose = Annotated[bool, _flag(MESSAGES, "--verbose", "-v", help="Say more.")]
MaxPixels = Annotated[
    int,
    _option(FILES, "--max-pixels", least=1, metavar="N", help="Refuse larger images."),
]
Crops = Annotated[
    list[str] | None,
    _option(
        LOOKS,
        "--crop",
        metavar="X,Y,W,H",
        help="Enlarge this part in the comparison; may be repeated. Left out: where the change is "
        "largest.",
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A checkpoint, or a task for its usual one.")
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Checkpoints, or tasks for their usual ones."),
]


def tile_side(tile: str) -> int | Literal["auto"]:
    """`--tile` as the Restorer takes it.

    Raises:
        UsageError: it is neither auto nor a number.
    """
    if tile == "auto":
        return "auto"
    if not tile.isdecimal():
        raise UsageError(f"--tile is {tile!r}", "It takes auto, 0 for the image whole, or pixels.")
    return int(tile)


# --- what the restoring commands take -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Restoring:
    """What every restoring command can be told."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Images, folders, patterns, or - for one image on stdin.",
            show_default=False,
        ),
    ] = None
    output: Annotated[
        str | None,
        _option(
            FILES,
            "--output",
            "-o",
            metavar="PATH",
            help="A file, a folder, or - for stdout. Left out: NAME.restored.EXT beside each "
            "image, FOLDER-restored beside each folder.",
        ),
    ] = None
    format: Annotated[
        Literal["keep", "png", "jpg", "webp", "tiff"],
        _option(FILES, "--format", help="Format of the output; keep: as -o says, or the input's."),
    ] = "keep"
    quality: Annotated[
        int,
        _option(
            FILES,
            "--quality",
            least=1,
            most=100,
            metavar="N",
            help="For JPEG, AVIF, HEIF (all 4:4:4) and WebP. 100: WebP and HEIF without loss.",
        ),
    ] = 95
    max_pixels: MaxPixels = 300_000_000

    tile: Tile = "auto"
    overlap: Overlap = 32
    window: Window = None
    ensemble: Ensemble = False

    strength: Annotated[
        float,
        _option(
            RESTORATION,
            "--strength",
            least=0,
            most=1,
            metavar="0..1",
            help="How much of the change is applied; at 0 the input comes back.",
        ),
    ] = 1.0

    weights: Weights = "auto"
    device: Annotated[
        str,
        _option(
            MACHINE,
            "--device",
            metavar="auto|cpu|cuda[:N]|mps",
            help="auto: cuda, then mps, then cpu. Several (cuda:0,cuda:1) share the images, one "
            "process each; cpu,cpu: two that share the cores.",
        ),
    ] = "auto"
    ray: Annotated[
        str | None,
        _option(
            MACHINE,
            "--ray",
            metavar="ADDRESS",
            help="Share the images among the GPUs, or processors, of a Ray cluster; local: of "
            "this machine.",
        ),
    ] = None
    precision: Precision = "auto"

    recursive: Annotated[
        bool, _flag(BATCH, "--recursive", "-r", help="Look into subfolders of folders, too.")
    ] = False
    files_from: Annotated[
        str | None,
        _option(
            BATCH,
            "--files-from",
            metavar="LIST",
            help="Read inputs from a file, or stdin (-): one path a line.",
        ),
    ] = None
    null: Annotated[
        bool, _flag(BATCH, "--null", "-0", help="The list is separated by NUL (find -print0).")
    ] = False
    skip_existing: Annotated[
        bool,
        _flag(
            BATCH,
            "--skip-existing",
            help="Leave alone what was restored before, of the same "
            "input in the same way, and what others have written.",
        ),
    ] = False
    in_place: Annotated[
        bool,
        _flag(BATCH, "--in-place", help="Let outputs replace their inputs; refused otherwise."),
    ] = False
    dry_run: Annotated[
        bool,
        _flag(
            BATCH,
            "--dry-run",
            help="Say what would be done (files, size, strategy, memory, time) and do nothing.",
        ),
    ] = False

    preview: Annotated[
        bool,
        _flag(MESSAGES, "--preview", help="Show each image before and after in the terminal."),
    ] = False
    compare: Annotated[
        str | None,
        _option(
            LOOKS,
            "--compare",
            metavar="PATH",
            help="Write a picture of each image before and after, side by side, with enlarged "
            "parts and the difference: a file (.png, .jpg, .webp) for one image, a folder for "
            "several.",
        ),
    ] = None
    crop: Crops = None
    report: Annotated[
        str | None,
        _option(
            LOOKS,
            "--report",
            metavar="FILE",
            help="Write a page (.html) with all that was restored, before and after, and what "
            "failed.",
        ),
    ] = None

    json: Json = False
    quiet: Quiet = False
    verbose: Verbose = False

    def restorer_config(self, task: str) -> "RestorerConfig":
        """Return the configuration of the restorer for a task.

        Raises:
            UsageError: options that do not go together.
        """
        from ..inference import RestorerConfig

        return RestorerConfig(
            task,
            weights=self.weights,
            device=self.device,
            precision=self.precision,
            tile=tile_side(self.tile),
            overlap=self.overlap,
            window=self.window,
            ensemble=self.ensemble,
        )

    def changed(self) -> list[tuple[str, str]]:
        """Return the options that differ from their defaults, as a report shows them."""
        given = []
        for field in fields(self):
            value = getattr(self, field.name)
            default = None if field.default is MISSING else field.default
            if value != default and field.name not in UNREPORTED:
                name = "--" + field.name.replace("_", "-")
                given.append((name, "on" if value is True else str(value)))
        return given

    def batch_config(self) -> "BatchConfig":
        """Return how images are read, blended and written."""
        from ..batch import BatchConfig

        return BatchConfig(
            format=self.format,
            quality=self.quality,
            max_pixels=self.max_pixels,
            strength=self.strength,
        )


@dataclass(frozen=True, kw_only=True)
class Denoising(Restoring):
    """What `denoise` can be told besides."""

    noise: Annotated[
        Literal["real", "gaussian"] | None,
        _option(
            RESTORATION,
            "--noise",
            help="What noise the official weights are for: a camera's (real, the default), or "
            "Gaussian.",
        ),
    ] = None
    sigma: Annotated[
        Literal["auto", "blind", "15", "25", "50"] | None,
        _option(
            RESTORATION,
            "--sigma",
            help="Level of Gaussian noise, which chooses the official weights; auto: estimated for "
            "each image, and blind where none fits.",
        ),
    ] = None
    gray: Annotated[
        bool, _flag(RESTORATION, "--gray", help="The network for grey images (Gaussian noise).")
    ] = False

    def restorer_config(self, task: str) -> "RestorerConfig":
        """Return the configuration, with the choice of the denoising checkpoint."""
        config = super().restorer_config(task)
        return replace(config, noise=self.noise, sigma=self.sigma, gray=self.gray)


@dataclass(frozen=True, kw_only=True)
class Defocusing(Restoring):
    """What `defocus` can be told besides."""

    right: Annotated[
        str | None,
        _option(
            FILES,
            "--right",
            metavar="RIGHT",
            help="The right dual-pixel view of INPUT, which is the left one; for several, the "
            "folder that holds them under the same names.",
        ),
    ] = None

    def restorer_config(self, task: str) -> "RestorerConfig":
        """Return the configuration, for two views if the right one is given."""
        return replace(super().restorer_config(task), dual_pixel=self.right is not None)


def takes(
    kind: type[Options],
) -> Callable[[Callable[[Console, Options], None]], Callable[..., None]]:
    """Make a command of a function whose options are the fields of a dataclass.

    Typer reads a function's signature. This writes one from the fields, so that options which
    many commands share stand in one place and reach the code as one typed value.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    for field in fields(kind):  # type: ignore[arg-type] # a TypeVar cannot be bound to dataclasses
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hints[field.name],
                default=default,
            )
        )

    def decorate(function: Callable[[Console, Options], None]) -> Callable[..., None]:
        def command(*, context: typer.Context, **values: Any) -> None:
            function(context.obj, kind(**values))

        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate
