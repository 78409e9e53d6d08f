"""`--sigma auto`: the official weights for the noise that each image is seen to have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from . import images, noise_level
from .console import printable
from .errors import ImageError
from .inputs import is_special
from .tasks import SIGMAS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .console import Console
    from .options import Restoring
    from .outputs import Job
    from .session import Request

AUTO = "auto"


def parted(
    console: Console, request: Request, options: Restoring, jobs: list[Job], stdin: BinaryIO
) -> Iterator[tuple[Request, list[Job]]]:
    """The jobs that have a level of noise in common, with the request for its weights.

    One network is in memory at a time, and each is loaded once. If the level is not to be found
    out, or chooses nothing, the request stays as it is. `stdin` is left where it was.
    """
    if request.sigma != AUTO:
        yield request, jobs
        return
    if options.weights not in (AUTO, "official"):
        console.say(f"note: --sigma auto has nothing to choose from with {options.weights} weights")
        yield replace(request, sigma="blind"), jobs
        return
    seen: dict[str, list[Job]] = {}
    for job in jobs:
        seen.setdefault(_level(console, job, options.max_pixels, stdin), []).append(job)
    for level in SIGMAS:
        if level in seen:
            yield replace(request, sigma=level), seen[level]


def _level(console: Console, job: Job, max_pixels: int, stdin: BinaryIO) -> str:
    """The level whose weights fit an image; the blind ones where it cannot be looked at."""
    if job.source is not None and is_special(job.source):  # it could be read only once
        return "blind"
    try:
        if job.source is None:
            data = stdin.read()
            stdin.seek(0)
        else:
            data = images.load(job.source)[1]
        found = images.pictures(data, max_pixels=max_pixels, name=job.names[0])
        noise = noise_level.estimate(next(found.images).pixels)
    except ImageError:  # which is told when its turn comes
        return "blind"
    level = noise_level.level_for(noise)
    said = "nothing can be said of its noise" if noise is None else noise.words
    network = "blind weights" if level == "blind" else f"weights for sigma {level}"
    console.say(f"note: {printable(job.names[0])}: {said}; {network}")
    return level
