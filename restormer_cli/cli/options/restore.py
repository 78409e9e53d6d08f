"""Options of the restoring commands."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...checkpoints import GaussianSigma, NoiseKind
from ...imaging import MAX_PIXELS
from .declare import BATCH, FILES, MACHINE, MESSAGES, RESTORATION, RESULTS, Option
from .shared import DEVICES, Crops, MaxPixels, NetworkOptions

if TYPE_CHECKING:
    from ...batch import BatchConfig
    from ...inference import RestorerConfig

UNREPORTED = frozenset(["inputs", "json", "quiet", "verbose", "report"])
"""Options that a report leaves out, because they do not affect the outputs."""


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
    max_pixels: MaxPixels = MAX_PIXELS
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
            words=DEVICES,
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
        Path | None,
        Option(
            RESULTS,
            "Write a picture of each image before and after, with enlarged parts and the "
            "difference: a file (.png, .jpg, .webp), or a folder for several. Default: none.",
            metavar="PATH",
        ),
    ] = None
    crop: Crops = None
    report: Annotated[
        Path | None,
        Option(
            RESULTS,
            "Write a page (.html) of all images before and after, and of failures. Default: none.",
            metavar="FILE",
        ),
    ] = None

    def batch_config(self) -> "BatchConfig":
        """Return the settings for reading, blending and writing images."""
        from ...batch import BatchConfig

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
        NoiseKind | None,
        Option(
            RESTORATION,
            "Noise that the official weights are for: real (camera) or gaussian. Default: "
            "gaussian with --sigma or --gray, else real.",
        ),
    ] = None
    sigma: Annotated[
        Literal["auto", GaussianSigma] | None,
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
