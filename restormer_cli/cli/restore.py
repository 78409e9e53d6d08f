"""The restoring commands, and a run of one of them from its options to its last image."""

from __future__ import annotations

import io
import math
import os
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import typer

from .. import batch, files, imaging, reports, workers
from ..batch import Failed, Planned, Restored, Skipped
from ..checkpoints import AUTO_SIGMA, SIGMAS
from ..errors import ImageError, RestormerError, UsageError
from ..text import printable
from .console import Console
from .options import Contradictions, DefocusOptions, DenoiseOptions, RestoreOptions, check_options

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ..batch import Event, Job, Observer, Tally
    from ..files import Inputs
    from ..imaging import Image, Noise
    from ..inference import RestorerConfig
    from ..workers import Backend


def denoise(console: Console, options: DenoiseOptions) -> None:
    """Remove noise: of a camera at high ISO, or added Gaussian noise.

    Examples:
        restormer denoise photo.jpg               # write photo.restored.jpg
        restormer denoise photo.jpg -o clean.png  # write this file
        restormer denoise holiday/ -r -o clean/   # a folder and its subfolders
        restormer denoise scan.tif --sigma 25     # Gaussian noise of a known level
        restormer denoise '*.jpg' --weights lite  # bundled weights, no network
    """
    _restore(console, "denoise", options)


def derain(console: Console, options: RestoreOptions) -> None:
    """Remove rain streaks.

    Examples:
        restormer derain street.jpg -o dry.png    # write this file
        restormer derain frames/ --device cuda    # a folder, on the first GPU
        restormer derain frames/ --skip-existing  # resume a run
    """
    _restore(console, "derain", options)


def deblur(console: Console, options: RestoreOptions) -> None:
    """Remove motion blur of a moving subject or a moving camera.

    Examples:
        restormer deblur shaken.jpg            # write shaken.restored.jpg
        restormer deblur - < in.jpg > out.jpg  # in a pipe
        restormer deblur shots/ --dry-run      # show the plan and its memory
    """
    _restore(console, "deblur", options)


def defocus(console: Console, options: DefocusOptions) -> None:
    """Sharpen out-of-focus images, from one view or from two dual-pixel views.

    Examples:
        restormer defocus soft.jpg               # write soft.restored.jpg
        restormer defocus l.png --right r.png    # two dual-pixel views
        restormer defocus l/ --right r/ -o out/  # folders of them, same names
    """
    _restore(console, "defocus", options)


def _restore(console: Console, task: str, options: RestoreOptions) -> None:
    if run(console, task, options).failed:
        raise typer.Exit(1)


CONTRADICTIONS: Contradictions = (
    (
        lambda o: not o.inputs and o.files_from is None,
        "no input given",
        "Name images, folders or patterns, or - for an image from stdin.",
    ),
    (lambda o: o.output == "", "-o is empty", "Name a file, a folder, or - for stdout."),
    (
        lambda o: o.null and o.files_from is None,
        "--null needs a list of inputs",
        "Add --files-from LIST.",
    ),
    (
        lambda o: o.files_from == "-" and "-" in (o.inputs or ()),
        "stdin cannot be both an image and the list of inputs",
        "Save one of them to a file.",
    ),
    (
        lambda o: o.json and o.output == "-",
        "--json and -o - both write to stdout",
        "Name an output file.",
    ),
    (lambda o: math.isnan(o.strength), "--strength is not a number", "Give a number from 0 to 1."),
    (
        lambda o: o.in_place and o.output == "-",
        "--in-place and -o - name two different outputs",
        "Leave out one of them.",
    ),
    (
        lambda o: o.ray is not None and bool(o.preview or o.report or o.compare),
        "--preview, --report and --compare do not work with --ray, which may restore elsewhere",
        "Leave them out. `restormer report FOLDER` makes a report afterwards.",
    ),
)


def run(console: Console, task: str, options: RestoreOptions) -> Tally:
    """Restore all inputs of a command and count the outcomes.

    Raises:
        UsageError: the options or the inputs make no sense. No file was changed.
        CheckpointError: the weights are unavailable or do not fit the task.
        DeviceError: the device is unavailable.
    """
    check_options(options, CONTRADICTIONS)
    with reports.open_preview(console, options.preview and not options.dry_run) as preview:
        return _Run(console, task, options, preview).execute()


class _Run:
    """A run: the plan, made before any file is changed, and its execution."""

    def __init__(
        self, console: Console, task: str, options: RestoreOptions, preview: reports.Preview
    ) -> None:
        self.console, self.task, self.options, self.preview = console, task, options, preview
        self.config = options.restorer_config(task)
        self.inputs = files.find_inputs(
            options.inputs or (),
            imaging.readable_suffixes(),
            listed=_read_list(options),
            recursive=options.recursive,
            outputs=[
                files.as_path(path)
                for path in (options.output, options.compare)
                if path not in (None, "-")
            ],
        )
        self.jobs = batch.plan_jobs(
            self.inputs.found,
            output=options.output,
            format=None if options.format == "keep" else options.format,
            in_place=options.in_place,
            right=options.right if isinstance(options, DefocusOptions) else None,
        )
        self.observers = reports.plan_observers(
            task,
            self.jobs,
            report=options.report,
            compare=options.compare,
            crops=options.crop or (),
            settings=options.changed(),
        )
        if options.dry_run:
            self.observers = reports.RunObservers(None, None)
        self.streams = _open_streams(self.jobs, options)
        if self.config.sigma == AUTO_SIGMA:  # stdin is read twice
            self.streams = batch.StandardStreams(
                io.BytesIO(self.streams.stdin.read()), self.streams.stdout
            )
        self.tally = batch.Tally(task)
        self.lite_was_used = False

    def execute(self) -> Tally:
        """Restore the images, or report how it would be done."""
        missing = {
            job for job in self.jobs if job.source is not None and not files.exists(job.source)
        }
        jobs = [job for job in self.jobs if job not in missing]
        try:
            self._emit(self._input_problems(missing))
            if not self.options.dry_run:
                self._remove_leftovers()
            for config, part in self._by_noise_level(jobs):
                self._restore(config, part)
        except KeyboardInterrupt:
            left = len(self.jobs) - self.tally.restored - self.tally.skipped - self.tally.failed
            self.console.warn(
                f"interrupted with {left} of {len(self.jobs)} images to go. All files written are "
                "complete. Run the same command with --skip-existing to resume"
            )
            self._finish(interrupted=True)
            raise
        except RestormerError:
            if self.tally.restored:
                self._finish(interrupted=True)
            raise
        self._finish(interrupted=False)
        return self.tally

    def _emit(self, events: Iterable[Event]) -> None:
        for event in events:
            self.tally.add(event)
            self.console.show(event)
            self.preview.add(event)
            self.observers.add(event)
            if isinstance(event, Restored):
                self.lite_was_used |= event.weights.source == "lite"

    def _finish(self, *, interrupted: bool) -> None:
        summary = self.tally.summary(interrupted=interrupted)
        self.console.show(summary)
        self.observers.finish(summary, self.console.say)

    def _input_problems(self, missing: set[Job]) -> Iterator[Event]:
        for problem in self.inputs.problems:
            yield Failed(problem.name, None, self.task, problem.error, problem.hint)
        for path in self.inputs.own:
            yield Skipped(str(path), None, self.task, "an output of an earlier run")
        for job in self.jobs:
            if job in missing:
                yield Failed(*job.names, self.task, "no such file", "Check the path.")

    def _remove_leftovers(self) -> None:
        """Remove temporary files that killed runs left in the output folders."""
        folders = {job.target.parent: None for job in self.jobs if job.target is not None}
        for path in files.remove_leftovers(folders):
            self.console.say(
                f"note: {printable(str(path))}: left by a run that was killed; removed"
            )

    def _by_noise_level(self, jobs: list[Job]) -> Iterator[tuple[RestorerConfig, list[Job]]]:
        """Group jobs by the weights that --sigma auto chooses, so that each are loaded once."""
        if self.config.sigma != AUTO_SIGMA:
            yield self.config, jobs
            return
        if self.config.weights not in ("auto", "official"):
            self.console.say(
                f"note: --sigma auto has nothing to choose from with {self.config.weights} weights"
            )
            yield replace(self.config, sigma="blind"), jobs
            return
        by_level: dict[str, list[Job]] = {level: [] for level in SIGMAS}
        for job in jobs:
            noise = self._estimate_noise(job)
            by_level[imaging.sigma_for(noise)].append(replace(job, noise=noise))
        for level, part in by_level.items():
            if part:
                yield replace(self.config, sigma=level), part

    def _estimate_noise(self, job: Job) -> Noise | None:
        """Return the noise of an image's first page; None if it is unknown."""
        if job.source is not None and files.is_special(job.source):  # can be read only once
            return None
        try:
            if job.source is None:
                data = self.streams.stdin.read()
                self.streams.stdin.seek(0)
            else:
                data = imaging.read_bytes(job.source)[1]
            sequence = imaging.decode(data, max_pixels=self.options.max_pixels, name=job.names[0])
            noise = imaging.estimate_noise(next(sequence.images).pixels)
        except ImageError:  # reported when the image is restored
            return None
        level = imaging.sigma_for(noise)
        estimate = "noise cannot be estimated" if noise is None else noise.words
        weights = "blind weights" if level == "blind" else f"weights for sigma {level}"
        self.console.say(f"note: {printable(job.names[0])}: {estimate}; {weights}")
        return noise

    def _restore(self, config: RestorerConfig, jobs: list[Job]) -> None:
        """Restore jobs that use the same weights."""
        if self.lite_was_used:  # the official weights are unavailable
            config = replace(config, weights="lite")
        backend = workers.choose_backend(
            config,
            replace(self.options.batch_config(), record=_keeps_manifest(self.inputs, self.options)),
            self.console,
            observer=_combine(self.preview.watch, self.observers.watch),
            ray=self.options.ray,
            dry_run=self.options.dry_run,
        )
        with closing(backend):
            if self.options.skip_existing:
                jobs = self._skip_existing(backend, jobs)
            if jobs and self.options.dry_run:
                self._emit(backend.run(jobs, self.streams))
            elif jobs:
                self._check_disk_space(jobs)
                self._emit(Planned(*job.names, self.task) for job in jobs)
                backend.prepare(len(jobs))
                events = backend.run(jobs, self.streams)
                with self.console.progress(len(jobs)), closing(events):
                    try:
                        self._emit(events)
                    except KeyboardInterrupt:
                        self._emit(_interrupt(events))
                        raise

    def _skip_existing(self, backend: Backend, jobs: list[Job]) -> list[Job]:
        """Return the jobs that --skip-existing leaves to restore."""
        manifests = batch.Manifests()
        reasons: dict[Job, str | None] = {}
        entries = {}
        for job in jobs:
            reasons[job], entry = batch.skip_reason(job, self.task, manifests)
            if entry is not None:
                entries[job] = entry
        for note in manifests.notes:
            self.console.warn(note)
        if entries:
            fingerprints = backend.prepare(len(jobs))
            for job, entry in entries.items():
                if any(batch.has_same_settings(entry, f) for f in fingerprints):
                    reasons[job] = batch.UNCHANGED
        self._emit(Skipped(*job.names, self.task, why) for job, why in reasons.items() if why)
        return [job for job, why in reasons.items() if why is None]

    def _check_disk_space(self, jobs: list[Job]) -> None:
        """Refuse outputs that cannot fit on the disk, and warn of those that may not."""
        too_small, scarce = batch.check_disk_space(jobs)
        if too_small:
            raise UsageError("; ".join(too_small), "Free some space, or use -o.")
        for message in scarce:
            self.console.warn(printable(message))


def _read_list(options: RestoreOptions) -> list[str]:
    """Return the paths that --files-from lists."""
    if options.files_from is None:
        return []
    if options.files_from == "-":
        return files.read_list(sys.stdin.buffer.read(), null=options.null)
    try:
        data = Path(options.files_from).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{options.files_from}: the list cannot be read ({error.strerror})",
            "Give --files-from a file with one path per line, or - for stdin.",
        ) from error
    return files.read_list(data, null=options.null)


def _open_streams(jobs: list[Job], options: RestoreOptions) -> batch.StandardStreams:
    """Return stdin and stdout for the jobs that use them.

    Raises:
        UsageError: stdin or stdout is a terminal, or stdout is used for JSON.
    """
    stdin: BinaryIO = io.BytesIO()
    stdout: BinaryIO = io.BytesIO()
    if any(job.source is None for job in jobs):
        if sys.stdin is None or sys.stdin.isatty():  # None: the program was started without one
            raise UsageError("there is no image on stdin", "Pipe one into it, or name a file.")
        stdin = sys.stdin.buffer
    if any(job.target is None for job in jobs) and not options.dry_run:
        if options.json:
            raise UsageError(
                "--json and the image would both be written to stdout", "Name a file with -o."
            )
        if sys.stdout is None or sys.stdout.isatty():
            raise UsageError(
                "stdout is a terminal, or closed, and cannot take an image",
                "Redirect it to a file (> out.png), or name one with -o.",
            )
        stdout = sys.stdout.buffer
    return batch.StandardStreams(stdin, stdout)


def _keeps_manifest(inputs: Inputs, options: RestoreOptions) -> bool:
    """Return False for a single output that is a file: its folder gets no manifest."""
    if options.skip_existing or len(inputs.found) > 1 or any(one.folder for one in inputs.found):
        return True
    output = options.output or ""
    return output.endswith(("/", os.sep)) or files.is_folder(files.as_path(output or "-"))


@dataclass(frozen=True)
class _Observers:
    """Several observers as one, which can be sent to another process."""

    observers: tuple[Observer, ...]

    def __call__(self, event: Restored, before: Image, after: Image) -> None:
        for observer in self.observers:
            observer(event, before, after)


def _combine(*observers: Observer | None) -> Observer | None:
    given = tuple(observer for observer in observers if observer is not None)
    return _Observers(given) if given else None


def _interrupt(events: Generator[Event, None, None]) -> Iterator[Event]:
    """Interrupt a running backend and yield its last events."""
    with suppress(KeyboardInterrupt, StopIteration):
        yield events.throw(KeyboardInterrupt())
        yield from events
