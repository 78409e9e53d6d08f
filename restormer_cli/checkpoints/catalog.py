"""Tables of tasks and published checkpoints, and the choice of a checkpoint."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from ..errors import UsageError

HUB_REPOSITORY = "deepinv/Restormer"
HUB_REVISION = "aa2667c79d766b67da2c1489c7ce5f0423bae798"
"""A commit, whose content cannot change: a cached file needs no request."""

GITHUB_RELEASE = "https://github.com/swz30/Restormer/releases/download/v1.0"
"""The author's release of all 13 checkpoints, under the same names."""

LICENCE = "MIT"  # of the official checkpoints (since 2025-10-23) and the bundled lite weights


@dataclass(frozen=True)
class Task:
    """One kind of restoration."""

    name: str  # also of its command
    official: str  # name of the default official checkpoint
    lite: str  # file name of the bundled lite weights
    lite_sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """One published checkpoint; values are None if they are unknown."""

    name: str  # stem of the file
    task: str  # key in `TASKS`
    purpose: str  # degradation and training data
    channels: int = 3  # of the input: 3 (RGB), 1 (grey) or 6 (two RGB views)
    bytes: int | None = None
    sha256: str | None = None  # if unknown, the Hub's hash is used
    on_hub: bool = True  # if not, only the GitHub release has the file

    @property
    def file(self) -> str:
        """File name on the Hub and in the release."""
        return f"{self.name}.pth"


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "denoise",
            "real_denoising",
            "restormer-lite-denoise.safetensors",
            "1d0e4fd565fe158a97a5e911e36ac50a8903f8990f75e4c65bbe45e2a00e79ec",
        ),
        Task(
            "derain",
            "deraining",
            "restormer-lite-derain.safetensors",
            "4ed267a5f77779b5fa0f5ac2fea1867f9fde8d646bb34ef29f309753b2da46ad",
        ),
        Task(
            "deblur",
            "motion_deblurring",
            "restormer-lite-deblur.safetensors",
            "6115df96a9f5689457445e32493b0fbe388097810fdbb1d853b3147d0359cbc1",
        ),
        Task(
            "defocus",
            "single_image_defocus_deblurring",
            "restormer-lite-defocus.safetensors",
            "5715516cbc834299a703857d781599e767a46079fb7a141a6895fc6309538b04",
        ),
    )
}

_GREY = "Gaussian noise on grey images"
CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            "real_denoising",
            "denoise",
            "camera noise (SIDD)",
            bytes=104611957,
            sha256="4cae18bed8a291b9a5deeeab48756bbe6f61fcf7f31a4cca0969b24608601387",
        ),
        Checkpoint(
            "gaussian_color_denoising_blind",
            "denoise",
            "Gaussian noise, any sigma up to 50",
            bytes=104611957,
            sha256="4e2314dae77bb907184da6e2ac625b921491d6b33de26a52512eff1c6bb37fbd",
        ),
        Checkpoint(
            "gaussian_color_denoising_sigma15",
            "denoise",
            "Gaussian noise, sigma 15",
            bytes=104611957,
            sha256="5841e0d280379da2526252ffcde9ff60a1d7951bf49688136a77cbea0ad6ff51",
        ),
        Checkpoint("gaussian_color_denoising_sigma25", "denoise", "Gaussian noise, sigma 25"),
        Checkpoint("gaussian_color_denoising_sigma50", "denoise", "Gaussian noise, sigma 50"),
        Checkpoint(
            "gaussian_gray_denoising_blind", "denoise", f"{_GREY}, any sigma up to 50", channels=1
        ),
        Checkpoint("gaussian_gray_denoising_sigma15", "denoise", f"{_GREY}, sigma 15", channels=1),
        Checkpoint(
            "gaussian_gray_denoising_sigma25",
            "denoise",
            f"{_GREY}, sigma 25",
            channels=1,
            bytes=104601589,
        ),
        Checkpoint("gaussian_gray_denoising_sigma50", "denoise", f"{_GREY}, sigma 50", channels=1),
        Checkpoint(
            "deraining",
            "derain",
            "rain streaks (Rain13K)",
            bytes=104700429,
            sha256="225ed9acf80b3527d7080e5182918f642a23a78ef8593ad700b7e924bd660681",
        ),
        Checkpoint(
            "motion_deblurring",
            "deblur",
            "motion blur (GoPro)",
            bytes=104700429,
            sha256="194e38fb5b607c9dc5a5b3e08e65b2e79ee2bf0ef5048e0612f6b2ff2f79da31",
            on_hub=False,
        ),
        Checkpoint(
            "single_image_defocus_deblurring",
            "defocus",
            "defocus blur, one image (DPDD)",
            bytes=104700429,
            sha256="7dce451f33f8f5e0faf7c4e3996e5dcc1bd425ecd1ada99b0f9750e490fd4c9e",
        ),
        Checkpoint(
            "dual_pixel_defocus_deblurring",
            "defocus",
            "defocus blur, left and right dual-pixel views (DPDD)",
            bytes=104724374,
            sha256="ff4063aad93a16c82f9c8f7e2e67d235eb5798bacbb735fb386a3fa62eedda44",
            channels=6,
        ),
    )
}

NoiseKind = Literal["real", "gaussian"]
GaussianSigma = Literal["blind", "15", "25", "50"]
NOISES: tuple[str, ...] = get_args(NoiseKind)
SIGMAS: tuple[str, ...] = get_args(GaussianSigma)
TRAINED_SIGMAS = SIGMAS[1:]  # of Gaussian noise, of 255
BY_QUERY = ("auto", "official")  # weights that a `CheckpointQuery` chooses
AUTO_SIGMA = "auto"  # selects the checkpoint by the noise estimated in each image

_SOURCE_LABELS = {"lite": "bundled", "hub": "from the Hub"}


@dataclass(frozen=True)
class CheckpointQuery:
    """Choice of a published checkpoint."""

    task: str = "denoise"  # key in `TASKS`
    _: KW_ONLY
    noise: str | None = None  # one of `NOISES`; by default "gaussian" with sigma or gray, or "real"
    sigma: str | None = None  # one of `SIGMAS`, by default "blind", or `AUTO_SIGMA`
    gray: bool = False  # the one-channel network, for Gaussian noise
    dual_pixel: bool = False  # the two-view network, for defocus

    @property
    def checkpoint(self) -> Checkpoint:
        """The published checkpoint for this query; `AUTO_SIGMA` counts as "blind".

        Raises:
            UsageError: a value is unknown, or there is no checkpoint for the combination.
        """
        task, noise, sigma = self.task, self.noise, self.sigma
        if task not in TASKS:
            raise UsageError(f"no task is called {task!r}", f"Choose one of {', '.join(TASKS)}.")
        options = {"--noise": noise, "--sigma": sigma, "--gray": self.gray}
        given = [option for option, value in options.items() if value]
        gaussian = [option for option in given if option != "--noise"]
        if task != "denoise" and given:
            raise UsageError(
                f"{' and '.join(given)} and {task} do not go together",
                "Use --noise, --sigma and --gray with `restormer denoise` only.",
            )
        if self.dual_pixel and task != "defocus":
            raise UsageError(
                f"two views and {task} do not go together",
                "Use --right with `restormer defocus` only.",
            )
        if self.dual_pixel:
            return CHECKPOINTS["dual_pixel_defocus_deblurring"]
        choices = {"noise": (noise, NOISES), "sigma": (sigma, (AUTO_SIGMA, *SIGMAS))}
        for name, (value, known) in choices.items():
            if value not in (None, *known):
                listed = ", ".join(map(repr, known))
                raise UsageError(f"{name} is {value!r}", f"Give one of {listed}, or None.")
        if noise == "real" and gaussian:
            raise UsageError(
                f"--noise real and {' and '.join(gaussian)} do not go together: the network for "
                "camera noise takes colour images and no sigma",
                "Leave out one of them, or use --noise gaussian.",
            )
        if noise == "gaussian" or gaussian:
            color = "gray" if self.gray else "color"
            level = f"sigma{sigma}" if sigma in TRAINED_SIGMAS else "blind"
            return CHECKPOINTS[f"gaussian_{color}_denoising_{level}"]
        return CHECKPOINTS[TASKS[task].official]


def weights_label(name: str, source: str) -> str:
    """Return the name and source of weights, such as "restormer-lite-denoise (bundled)"."""
    return f"{name} ({_SOURCE_LABELS.get(source, source)})"
