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

from . import (
    batch,
    files,
    inputs,
    levels,
    looks,
    outputs,
    places,
    preview,
    records,
    skipping,
    tasks,
    urls,
)
from .console import printable
from .errors import RestormerError, UsageError
from .events import Failed, Planned, Restored, Skipped, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from .batch import Watching
    from .console import Console
    from .events import Event
    from .options import Restoring
    from .outputs import Job
    from .pixels import Image
    from .places import Place

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


@dataclass(frozen=True, kw_only=True)
class Request:
    """A task with the options that only this task has."""

    task: str
    noise: str | None = None
    sigma: str | None = None
    gray: bool = False
    right: str | None = None

    @property
    def checkpoint(self) -> tasks.Checkpoint:
        """The official checkpoint for it.

        Raises:
            UsageError: none was published for that combination.
        """
        return tasks.official(
            self.task,
            noise=self.noise,
            sigma="blind" if self.sigma == levels.AUTO else self.sigma,
            gray=self.gray,
            dual_pixel=self.right is not None,
        )


def run(console: Console, request: Request, options: Restoring) -> Tally:
    """Restore all the inputs of a command, and count what became of them.

    Raises:
        UsageError: the request makes no sense as a whole; nothing was touched.
        CheckpointError: the weights cannot be had or do not fit.
        DeviceError: the device is not there.
    """
    with preview.opened(console, options.preview and not options.dry_run) as seen:
        return _run(console, request, options, seen)


def _run(console: Console, request: Request, options: Restoring, seen: preview.Preview) -> Tally:
    for applies, message, hint in CONTRADICTIONS:
        if applies(options):
            raise UsageError(message, hint)
    _ = request.checkpoint, options.tile_side  # said at once, if they are wrong
    found = inputs.find(
        options.inputs or (),
        listed=_listed(options),
        recursive=options.recursive,
        outputs=looks.written(options),
    )
    jobs = outputs.plan(
        found.found,
        output=options.output,
        format=None if options.format == "keep" else options.format,
        in_place=options.in_place,
        right=request.right,
    )
    shown = looks.plan(request.task, options, jobs)
    watch = _together(seen.watch, shown.watch)
    streams = _streams(jobs, options)
    tally = Tally(request.task)
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
    if request.sigma == levels.AUTO:  # which looks at the image beforehand
        streams = batch.Streams(io.BytesIO(streams.stdin.read()), streams.stdout)
    recorded = _recorded(found, options)
    try:
        show(_problems(found, jobs, request.task))
        if not options.dry_run:
            _clean_up(console, jobs)
        for part, mine in levels.parted(console, request, options, work, streams.stdin):
            with closing(places.choose(console, part, options, recorded, watch)) as place:
                _work(console, part.task, options, place, mine, streams, show)
            if "lite" in sources:
                options = replace(options, weights="lite")  # the others cannot be had: ask once
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
    watches: tuple[Watching, ...]

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        for watch in self.watches:
            watch(event, before, after)


def _together(*watches: Watching | None) -> Watching | None:
    """All that want to see each image as one, which another process can be given, too."""
    given = tuple(watch for watch in watches if watch is not None)
    return _Together(given) if given else None


def _work(
    console: Console,
    task: str,
    options: Restoring,
    place: Place,
    work: list[Job],
    streams: batch.Streams,
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
        return inputs.read_list(sys.stdin.buffer.read(), null=options.null)
    try:
        data = Path(options.files_from).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{options.files_from}: the list cannot be read ({error.strerror})",
            "--files-from takes a file with one path a line, or - for stdin.",
        ) from error
    return inputs.read_list(data, null=options.null)


def _streams(jobs: list[Job], options: Restoring) -> batch.Streams:
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
    return batch.Streams(stdin, stdout)


def _missing(job: Job) -> bool:
    return job.source is not None and not inputs.is_there(job.source)


def _clean_up(console: Console, jobs: list[Job]) -> None:
    """Remove from the outputs' folders what runs that were killed have left there."""
    folders = dict.fromkeys(job.target.parent for job in jobs if job.target is not None)
    for path in files.sweep(folders):
        console.say(f"note: {printable(str(path))}: left by a run that was killed; removed")


def _see_room(console: Console, jobs: list[Job]) -> None:
    """Refuse what surely has no room, and warn of what perhaps has none."""
    none, little = outputs.room(jobs)
    if none:
        raise UsageError("; ".join(none), "Make room, or name another folder with -o.")
    for text in little:
        console.warn(printable(text))


def _problems(found: inputs.Inputs, jobs: list[Job], task: str) -> Iterator[Event]:
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
    place: Place,
    jobs: list[Job],
    show: Callable[[Iterable[Event]], None],
) -> list[Job]:
    """The jobs that --skip-existing leaves."""
    past = records.Records()
    reasons: dict[Job, str | None] = {}
    lines = {}
    for job in jobs:
        reasons[job], line = skipping.judged(job, task, past)
        if line is not None:
            lines[job] = line
    for note in past.notes:
        console.warn(note)
    if lines:
        recipes = place.prepare(len(jobs))
        done = (j for j, line in lines.items() if any(skipping.made_by(line, r) for r in recipes))
        reasons.update(dict.fromkeys(done, skipping.DONE))
    show(Skipped(*job.names, task, why) for job, why in reasons.items() if why)
    return [job for job, why in reasons.items() if why is None]


def _recorded(found: inputs.Inputs, options: Restoring) -> bool:
    """Whether the folders of the outputs get a record: not for a single file of one's own."""
    if options.skip_existing or len(found.found) > 1 or any(one.folder for one in found.found):
        return True
    output = options.output or ""
    return output.endswith(("/", os.sep)) or inputs.is_folder(urls.path(output or "-"))
