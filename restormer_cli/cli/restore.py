"""One run of a restoring command: from its options, past what could go wrong, to its images."""

from __future__ import annotations

import io
import math
import os
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..batch import (
    UNCHANGED,
    Failed,
    Manifests,
    Planned,
    Restored,
    Skipped,
    StandardStreams,
    Tally,
    check_disk_space,
    has_same_settings,
    plan_jobs,
    skip_reason,
)
from ..checkpoints import AUTO_SIGMA, SIGMAS
from ..errors import ImageError, RestormerError, UsageError
from ..files import (
    Inputs,
    as_path,
    exists,
    find_inputs,
    is_folder,
    is_special,
    read_list,
    remove_leftovers,
)
from ..imaging import decode, estimate_noise, read_bytes, readable_suffixes, sigma_for
from ..reports import Preview, RunObservers, open_preview, plan_observers
from ..text import printable
from ..workers import choose_backend
from .options import Defocusing, Restoring

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ..batch import Event, Job, Observer
    from ..imaging import Image
    from ..inference import RestorerConfig
    from ..workers import Backend
    from .console import Console


# --- levels --------------------------------------------------------------------------------------


def parted(
    console: Console, config: RestorerConfig, jobs: list[Job], stdin: BinaryIO, max_pixels: int
) -> Iterator[tuple[RestorerConfig, list[Job]]]:
    """The jobs that have a level of noise in common, with the config for its weights.

    One network is in memory at a time, and each is loaded once. If the level is not to be found
    out, or chooses nothing, the config stays as it is. `stdin` is left where it was.
    """
    if config.sigma != AUTO_SIGMA:
        yield config, jobs
        return
    if config.weights not in ("auto", "official"):
        console.say(f"note: --sigma auto has nothing to choose from with {config.weights} weights")
        yield replace(config, sigma="blind"), jobs
        return
    seen: dict[str, list[Job]] = {}
    for job in jobs:
        seen.setdefault(_level(console, job, max_pixels, stdin), []).append(job)
    for level in SIGMAS:
        if level in seen:
            yield replace(config, sigma=level), seen[level]


def _level(console: Console, job: Job, max_pixels: int, stdin: BinaryIO) -> str:
    """The level whose weights fit an image; the blind ones where it cannot be looked at."""
    if job.source is not None and is_special(job.source):  # it could be read only once
        return "blind"
    try:
        if job.source is None:
            data = stdin.read()
            stdin.seek(0)
        else:
            data = read_bytes(job.source)[1]
        found = decode(data, max_pixels=max_pixels, name=job.names[0])
        noise = estimate_noise(next(found.images).pixels)
    except ImageError:  # which is told when its turn comes
        return "blind"
    level = sigma_for(noise)
    said = "nothing can be said of its noise" if noise is None else noise.words
    network = "blind weights" if level == "blind" else f"weights for sigma {level}"
    console.say(f"note: {printable(job.names[0])}: {said}; {network}")
    return level


# --- session -------------------------------------------------------------------------------------

CONTRADICTIONS: tuple[tuple[Callable[[Restoring], bool], str, str], ...] = (
    (
        lambda given: not given.inputs and given.files_from is None,
        "there is nothing to restore",
        "Name images, folders or patterns, or - for an image on stdin.",
    ),
    (
        lambda given: given.output == "",
        "-o names nothing",
        "Name a file, a folder, or - for stdout.",
    ),
    (
        lambda given: given.null and given.files_from is None,
        "--null says how a list is separated, and there is none",
        "Add --files-from LIST.",
    ),
    (
        lambda given: given.files_from == "-" and "-" in (given.inputs or ()),
        "stdin cannot be both an image and the list of images",
        "Put one of them into a file.",
    ),
    (
        lambda given: given.json and given.output == "-",
        "--json and -o - both want stdout",
        "Name an output file.",
    ),
    (
        lambda given: math.isnan(given.strength),
        "--strength is no number",
        "It takes one from 0 to 1.",
    ),
    (
        lambda given: given.in_place and given.output == "-",
        "--in-place and -o - say two different outputs",
        "Leave out one of them.",
    ),
    (
        lambda given: (
            given.ray is not None and bool(given.preview or given.report or given.compare)
        ),
        "--preview, --report and --compare show what is restored here, and --ray may go elsewhere",
        "Leave it out; `restormer report FOLDER` shows what is there at the end.",
    ),
)
"""Options that make no sense together: when, what is wrong, and what to do."""


def run(console: Console, task: str, options: Restoring) -> Tally:
    """Restore all the inputs of a command, and count what became of them.

    Raises:
        UsageError: the request makes no sense as a whole; nothing was touched.
        CheckpointError: the weights cannot be had or do not fit.
        DeviceError: the device is not there.
    """
    with open_preview(console, options.preview and not options.dry_run) as seen:
        return _run(console, task, options, seen)


def _run(console: Console, task: str, options: Restoring, seen: Preview) -> Tally:
    for applies, message, hint in CONTRADICTIONS:
        if applies(options):
            raise UsageError(message, hint)
    config, batch = options.restorer_config(task), options.batch_config()
    right = options.right if isinstance(options, Defocusing) else None
    found = find_inputs(
        options.inputs or (),
        readable_suffixes(),
        listed=_listed(options),
        recursive=options.recursive,
        outputs=[as_path(p) for p in (options.output, options.compare) if p not in (None, "-")],
    )
    jobs = plan_jobs(
        found.found,
        output=options.output,
        format=None if options.format == "keep" else options.format,
        in_place=options.in_place,
        right=right,
    )
    shown = plan_observers(
        task,
        jobs,
        report=options.report,
        compare=options.compare,
        crops=options.crop or (),
        settings=options.changed(),
    )
    if options.dry_run:
        shown = RunObservers(None, None)
    watch = _together(seen.watch, shown.watch)
    streams = _streams(jobs, options)
    tally = Tally(task)
    sources = set()  # of the weights that were used

    def show(events: Iterable[Event]) -> None:
        for event in events:
            tally.add(event)
            console.show(event)
            seen.add(event)
            shown.add(event)
            if isinstance(event, Restored):
                sources.add(event.weights.source)

    def end(*, interrupted: bool) -> None:
        console.show(summary := tally.summary(interrupted=interrupted))
        shown.finish(summary, console.say)

    work = [job for job in jobs if not _missing(job)]
    if config.sigma == AUTO_SIGMA:  # which looks at the image beforehand
        streams = StandardStreams(io.BytesIO(streams.stdin.read()), streams.stdout)
    batch = replace(batch, record=_recorded(found, options))
    try:
        show(_problems(found, jobs, task))
        if not options.dry_run:
            _clean_up(console, jobs)
        for part, mine in parted(console, config, work, streams.stdin, batch.max_pixels):
            if "lite" in sources:
                part = replace(part, weights="lite")  # the others cannot be had: ask once
            backend = choose_backend(
                part, batch, console, observer=watch, ray=options.ray, dry_run=options.dry_run
            )
            with closing(backend):
                _work(console, task, options, backend, mine, streams, show)
    except KeyboardInterrupt:
        left = len(jobs) - tally.restored - tally.skipped - tally.failed
        console.warn(
            f"interrupted with {left} of {len(jobs)} images to go; what is written is whole. "
            "The same command with --skip-existing goes on from here"
        )
        end(interrupted=True)
        raise
    except RestormerError:
        if tally.restored:  # it could not go on: what is done is told all the same
            end(interrupted=True)
        raise
    end(interrupted=False)
    return tally


@dataclass(frozen=True)
class _Together:
    watches: tuple[Observer, ...]

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        for watch in self.watches:
            watch(event, before, after)


def _together(*watches: Observer | None) -> Observer | None:
    """All that want to see each image as one, which another process can be given, too."""
    given = tuple(watch for watch in watches if watch is not None)
    return _Together(given) if given else None


def _work(
    console: Console,
    task: str,
    options: Restoring,
    place: Backend,
    work: list[Job],
    streams: StandardStreams,
    show: Callable[[Iterable[Event]], None],
) -> None:
    """Restore with one set of weights, or say how it would be."""
    if options.skip_existing:
        work = _unskipped(console, task, place, work, show)
    if work and options.dry_run:
        show(place.run(work, streams))
    elif work:
        _see_room(console, work)
        show(Planned(*job.names, task) for job in work)
        place.prepare(len(work))
        events = place.run(work, streams)
        with console.progress(len(work)), closing(events):  # which ends its threads
            try:
                show(events)
            except KeyboardInterrupt:
                show(_rest(events))
                raise


def _rest(events: Generator[Event, None, None]) -> Iterator[Event]:
    """What a run has still to tell if it was interrupted while an event of its was shown."""
    with suppress(KeyboardInterrupt, StopIteration):
        yield events.throw(KeyboardInterrupt())
        yield from events


def _listed(options: Restoring) -> list[str]:
    """The paths in the list that --files-from names."""
    if options.files_from is None:
        return []
    if options.files_from == "-":
        return read_list(sys.stdin.buffer.read(), null=options.null)
    try:
        data = Path(options.files_from).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{options.files_from}: the list cannot be read ({error.strerror})",
            "--files-from takes a file with one path a line, or - for stdin.",
        ) from error
    return read_list(data, null=options.null)


def _streams(jobs: list[Job], options: Restoring) -> StandardStreams:
    """Stdin and stdout for the jobs that need them.

    Refused is what would end in a terminal full of bytes, in a mixture, or in waiting for ever.
    """
    stdin: BinaryIO = io.BytesIO()
    stdout: BinaryIO = io.BytesIO()
    if any(job.source is None for job in jobs):
        if sys.stdin is None or sys.stdin.isatty():  # None: the program was started without one
            raise UsageError("there is no image on stdin", "Pipe one into it, or name a file.")
        stdin = sys.stdin.buffer
    if any(job.target is None for job in jobs) and not options.dry_run:
        if options.json:
            raise UsageError("--json and the image both want stdout", "Name a file with -o.")
        if sys.stdout is None or sys.stdout.isatty():
            raise UsageError(
                "stdout is a terminal, or closed: no place for an image",
                "Send it to a file (> out.png), or name one with -o.",
            )
        stdout = sys.stdout.buffer
    return StandardStreams(stdin, stdout)


def _missing(job: Job) -> bool:
    return job.source is not None and not exists(job.source)


def _clean_up(console: Console, jobs: list[Job]) -> None:
    """Remove from the outputs' folders what runs that were killed have left there."""
    folders = dict.fromkeys(job.target.parent for job in jobs if job.target is not None)
    for path in remove_leftovers(folders):
        console.say(f"note: {printable(str(path))}: left by a run that was killed; removed")


def _see_room(console: Console, jobs: list[Job]) -> None:
    """Refuse what surely has no room, and warn of what perhaps has none."""
    none, little = check_disk_space(jobs)
    if none:
        raise UsageError("; ".join(none), "Make room, or name another folder with -o.")
    for text in little:
        console.warn(printable(text))


def _problems(found: Inputs, jobs: list[Job], task: str) -> Iterator[Event]:
    """What can be said of inputs before any is looked at."""
    for problem in found.problems:
        yield Failed(problem.name, None, task, problem.error, problem.hint)
    for path in found.own:
        yield Skipped(str(path), None, task, "an output of an earlier run")
    for job in jobs:
        if _missing(job):
            yield Failed(*job.names, task, "no such file", "Check the path.")


def _unskipped(
    console: Console,
    task: str,
    place: Backend,
    jobs: list[Job],
    show: Callable[[Iterable[Event]], None],
) -> list[Job]:
    """The jobs that --skip-existing leaves."""
    past = Manifests()
    reasons: dict[Job, str | None] = {}
    lines = {}
    for job in jobs:
        reasons[job], line = skip_reason(job, task, past)
        if line is not None:
            lines[job] = line
    for note in past.notes:
        console.warn(note)
    if lines:
        recipes = place.prepare(len(jobs))
        done = (j for j, line in lines.items() if any(has_same_settings(line, r) for r in recipes))
        reasons.update(dict.fromkeys(done, UNCHANGED))
    show(Skipped(*job.names, task, why) for job, why in reasons.items() if why)
    return [job for job, why in reasons.items() if why is None]


def _recorded(found: Inputs, options: Restoring) -> bool:
    """Whether the folders of the outputs get a record: not for a single file of one's own."""
    if options.skip_existing or len(found.found) > 1 or any(one.folder for one in found.found):
        return True
    output = options.output or ""
    return output.endswith(("/", os.sep)) or is_folder(as_path(output or "-"))
