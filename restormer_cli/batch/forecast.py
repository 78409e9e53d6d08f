"""Predict the time and space that a run takes, before it starts or in a dry run."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ImageError
from ..files import UrlPath, exists, is_folder, is_special, nearest_parent
from ..imaging import read_bytes, read_size
from ..memory import MemoryGuard
from ..text import counted, format_bytes, format_duration, format_megapixels
from .events import Planned
from .masks import MaskReader
from .pages import open_image
from .reading import load_file
from .results import failure_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ..imaging import Size
    from ..inference import Restorer
    from .events import Event
    from .jobs import BatchConfig, Job
    from .stages import StandardStreams

MAX_HEADERS = 200
"""Number of files whose headers are read. Of more, they are spread over the run."""

MAX_SECONDS = 0.3
"""Time for reading headers, after which those read so far stand for all."""

WORTH_TRYING = 64
"""Pixels of a run, relative to those of measuring the speed, from which it is measured."""

_MIN_SIZE = 0.1  # smallest size of an output, relative to an input of the same format


def describe_run(jobs: Sequence[Job], restorer: Restorer | None) -> str:
    """Return one sentence on the work of a run and, for long ones on one device, on its time.

    Sizes come from the headers of files, if there are many from a sample. The time is that which
    `Restorer.forecast` predicts.
    """
    sizes = _read_sizes(jobs)
    text = counted(len(jobs), "image")
    if not sizes:
        return text
    share = len(sizes) / len(jobs)
    pixels = sum(size.height * size.width * size.pages for size in sizes) / share
    text += f", {'about ' if share < 1 else ''}{format_megapixels(pixels)}"
    if restorer is None or pixels < WORTH_TRYING * restorer.trial_pixels:
        return text
    with suppress(ImageError), MemoryGuard("to try the network"):
        seconds = _seconds(sizes, restorer) / share
        text += f": about {format_duration(seconds)} on {restorer.device}"
        if hints := restorer.faster_ways():
            text += f". Faster: {'; '.join(hints)}"
    return text


def preview_batch(
    jobs: Iterable[Job],
    task: str,
    restorer: Restorer | None,
    streams: StandardStreams,
    config: BatchConfig,
) -> Iterator[Event]:
    """Decode the images without restoring them: yield Planned or Failed for each.

    Without a restorer, whose weights need a download, strategy, memory and time are None.
    """
    masks = MaskReader()
    for job in jobs:
        event: Event
        try:
            event = _preview(job, task, restorer, streams, config, masks)
        except Exception as error:  # noqa: BLE001 - a defect is shown, and costs one image
            event = failure_event(job, task, error)
        yield event


@MemoryGuard("to read it")
def _preview(
    job: Job,
    task: str,
    restorer: Restorer | None,
    streams: StandardStreams,
    config: BatchConfig,
    masks: MaskReader,
) -> Planned:
    source = streams.stdin if job.source is None else job.source
    _, data = read_bytes(source, max_pixels=config.max_pixels, name=job.names[0])
    right = mask = None
    if job.right is not None:
        _, right = read_bytes(job.right, max_pixels=config.max_pixels)
    if job.mask is not None:
        load = partial(load_file, job.mask, None, config.max_pixels)
        mask, _ = masks.read(job.mask, load, config.max_pixels)
    opened = open_image(job, task, config, data, right, mask)
    facts, plans = [], []
    for page in opened.pages:
        facts.append((page.image.pixels.shape[:2], page.noise, page.scale))
        if restorer:
            with MemoryGuard("to try the network"):
                plans.append(restorer.forecast(page.image.pixels))
    (height, width), noise, scale = facts[0]
    return Planned(
        *job.names,
        task,
        width=width,
        height=height,
        pages=opened.total,
        strategy=", ".join(dict.fromkeys(plan.strategy for plan in plans)) or None,
        peak_bytes=max((plan.peak_bytes for plan in plans), default=None),
        seconds=round(sum(plan.seconds for plan in plans), 3) if plans else None,
        noise=noise,
        scale=scale,
    )


def check_disk_space(jobs: list[Job]) -> tuple[list[str], list[str]]:
    """Return messages on file systems that certainly lack space, and on those that possibly do.

    An output needs about the space of its input, at least a tenth. A file that it replaces frees
    its own space when the output is complete. Outputs in other formats are not counted.
    """
    sizes: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for job in jobs:
        if (folder := job.folder) is not None and not isinstance(folder, UrlPath):
            sizes[folder].append(_expected_sizes(job))
    outputs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    free: dict[int, tuple[int, Path]] = {}
    for folder, expected in sizes.items():
        existing = nearest_parent(folder, is_folder)
        device = existing.stat().st_dev
        if device not in free:
            free[device] = shutil.disk_usage(existing).free, folder
        outputs[device] += expected
    certain, possible = list[str](), list[str]()
    for device, (available, folder) in free.items():
        if (needed := _needed_space(outputs[device], 1)) > available:
            least = _needed_space(outputs[device], _MIN_SIZE)
            messages = certain if least > available else possible
            messages.append(
                f"{folder}: needs about {format_bytes(needed)}, {format_bytes(available)} free"
            )
    return certain, possible


def _needed_space(outputs: list[tuple[int, int]], share: float) -> int:
    """Return the space for outputs that have a share of their expected sizes.

    At the end, all of them exist. Before, the largest exists beside the file that it replaces.
    """
    growth = sum(share * size - replaced for size, replaced in outputs)
    return int(max(growth, *(share * size for size, _ in outputs)))


def _read_sizes(jobs: Sequence[Job]) -> list[Size]:
    """Return the sizes of local files, as far as their headers tell them in the time."""
    end = time.monotonic() + MAX_SECONDS
    sizes = []
    step = max(len(jobs) / MAX_HEADERS, 1.0)
    numbers = [int(step * n) for n in range(min(len(jobs), MAX_HEADERS))]
    # In an order that is spread over the run from the beginning, should the time end it.
    for number in (n for offset in range(8) for n in numbers[offset::8]):
        path = jobs[number].source
        if path is None or isinstance(path, UrlPath) or is_special(path):
            continue
        if (size := read_size(path)) is not None:
            sizes.append(size)
        if time.monotonic() > end:
            break
    return sizes


def _expected_sizes(job: Job) -> tuple[int, int]:
    """Return the size of an output and that of the file that it replaces; 0 if unknown."""
    if job.source and job.target and job.source.suffix.lower() == job.target.suffix.lower():
        with suppress(OSError):  # reading reports it
            replaced = job.target.stat().st_size if exists(job.target) else 0
            return job.source.stat().st_size or 0, replaced
    return 0, 0


def _seconds(sizes: Sequence[Size], restorer: Restorer) -> float:
    """Return the predicted time of images of these sizes, of three channels."""
    planned = {
        size: restorer.plan(size.height, size.width).pixels * size.pages for size in {*sizes}
    }
    return sum(planned[size] for size in sizes) / restorer.pixels_per_second
