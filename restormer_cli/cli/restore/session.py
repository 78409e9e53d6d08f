"""One run of a restoring command: its plan, its execution and what is reported of it."""

from __future__ import annotations

import io
import os
import sys
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from ... import batch, files, imaging, reports, workers
from ...batch import Failed, Planned, Restored, Skipped
from ...checkpoints import AUTO_SIGMA, BY_QUERY, SIGMAS, TRAINED_SIGMAS
from ...errors import DiskFullError, ImageError, RestormerError, UsageError
from ...text import counted, format_duration, format_megapixels, printable
from ..options import DefocusOptions, note_unused_choices
from .unused import unused_options

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from ...batch import Event, Job, Observer, Tally
    from ...files import Inputs
    from ...imaging import Image, Noise
    from ...inference import RestorerConfig
    from ...workers import Backend
    from ..console import Console
    from ..options import RestoreOptions


class Session:
    """Plan of a run, made before any file is changed, and its execution."""

    def __init__(
        self, console: Console, task: str, options: RestoreOptions, preview: reports.Preview
    ) -> None:
        self.console, self.task, self.options, self.preview = console, task, options, preview
        self.config = options.restorer_config(task)
        self.tally = batch.Tally(task)
        self.lite_was_used = False
        self.planned: list[Planned] = []  # of a dry run
        self.backends: dict[RestorerConfig, Backend] = {}  # which keep their networks
        self.reported = set[object]()  # problems of inputs, and outputs among them
        self.cleaned: set[Path] = set()  # folders of outputs, without leftovers
        self.manifests = batch.Manifests()
        if options.watch:
            files.check_watch(options.inputs or (), options.output)
        self._plan()
        self.total = 0 if options.watch else len(self.jobs)
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

    def _plan(self) -> None:
        """Find the inputs and name their outputs."""
        options = self.options
        self.query = self._query()
        self.inputs = batch.leave_out_outputs(self.query.find())
        self.jobs = batch.plan_jobs(
            self.inputs.found,
            output=options.output,
            format=None if options.format == "keep" else options.format,
            in_place=options.in_place,
            right=right_view(options),
        )
        self.jobs = batch.assign_masks(self.jobs, self.inputs.found, options.mask)

    def _query(self) -> files.InputQuery:
        options = self.options
        return files.InputQuery(
            options.inputs or (),
            imaging.readable_suffixes(),
            listed=files.read_list_file(options.files_from, null=options.null),
            recursive=options.recursive,
            outputs=self._not_searched(),
            may_be_empty=options.watch,
        )

    def _not_searched(self) -> list[Path]:
        options = self.options
        names = (options.output, options.mask)
        paths = [files.as_path(name) for name in names if name is not None and name != "-"]
        return paths if options.compare is None else [*paths, options.compare]

    def execute(self) -> Tally:
        """Restore the images, or only report the plan in a dry run."""
        try:
            self._report_inputs()
            self._report_left_out()
            self._note_unused_options()
            if self.options.watch:
                self._watch()
            else:
                self._restore_all(self.jobs)
        except KeyboardInterrupt:
            cause = "stopped watching" if self.options.watch else "interrupted"
            self.console.warn(f"{cause}: {self._state}. {self._remedy}")
            self._finish_early()
            raise
        except RestormerError as error:
            if self.tally.restored or isinstance(error, DiskFullError):
                self._finish_early()
                error.exit_status = 1  # the others mean that nothing was changed
            raise
        self._finish(interrupted=False)
        return self.tally

    @property
    def _skips(self) -> bool:
        """True if images are skipped whose outputs exist."""
        return self.options.skip_existing or self.options.watch

    @property
    def _remaining(self) -> int:
        """Number of inputs without a result."""
        tally = self.tally
        return max(self.total - tally.restored - tally.skipped - tally.failed, 0)

    @property
    def _state(self) -> str:
        """Message about the remaining images after an early end."""
        return f"{self._remaining} of {self.total} images remain. All files written are complete"

    @property
    def _remedy(self) -> str:
        """Hint on resuming a run; a watch skips existing outputs without an option."""
        option = "" if self.options.watch else " with --skip-existing"
        return f"Run the same command{option} to resume"

    def _watch(self) -> None:
        """Restore what is in the folders and what arrives, until a signal ends the watch."""
        folders = [files.as_path(name) for name in self.options.inputs or ()]
        for config, _ in self._by_noise_level([]):  # report missing weights at once
            self._backend(config).prepare(1)
        arrivals: files.Arrivals[Job] = files.Arrivals()
        plan = batch.WatchPlan(
            self.query,
            output=self.options.output,
            format=None if self.options.format == "keep" else self.options.format,
            mask=self.options.mask,
        )
        self.manifests = plan.manifests
        names = printable(", ".join(map(str, folders)))
        self.console.say(f"watching {names}. Ctrl-C ends it after the image being written")
        for changed in files.watch_folders(folders, arrivals, recursive=self.options.recursive):
            self.inputs, jobs, whole = plan.scan(changed)
            self._report_inputs()
            if arrived := arrivals.complete(jobs, whole=whole):
                self.total += len(arrived)
                self._restore_all(arrived)

    def _restore_all(self, jobs: list[Job]) -> None:
        """Restore the images, report those that cannot be, and remove leftovers of killed runs."""
        problems = {}
        for job in jobs:
            if job.problem:
                problems[job] = job.problem, job.hint
            elif job.source and (problem := files.unreachable(job.source)):
                problems[job] = problem
        for job, (cause, hint) in problems.items():
            self._emit([Failed(*job.names, self.task, cause, hint)])
        if not self.options.dry_run:
            folders = {folder for job in jobs if (folder := job.folder) is not None}
            # Once per folder: it is listed, and killed runs were before this one.
            folders, self.cleaned = folders - self.cleaned, folders | self.cleaned
            for path in files.remove_leftovers(folders):
                name = printable(str(path))
                self.console.say(f"note: {name}: temporary file of a killed run, removed")
        for config, group in self._by_noise_level([job for job in jobs if job not in problems]):
            self._restore(config, group)

    def _emit(self, events: Iterable[Event]) -> None:
        for event in events:
            self.tally.add(event)
            self.console.show(event)
            self.preview.add(event)
            self.observers.add(event)
            if isinstance(event, Restored):
                self.lite_was_used |= event.weights.source == "lite"
            if isinstance(event, Planned) and self.options.dry_run:
                self.planned.append(event)

    def _finish_early(self) -> None:
        """Finish a run that an error or interrupt ends, which a report must not hide."""
        try:
            self._finish(interrupted=True)
        except ImageError as error:  # the report cannot be written, either
            self.console.error(error)

    def _finish(self, *, interrupted: bool) -> None:
        if len(self.planned) > 1:
            self.console.say(_total(self.planned))
        summary = self.tally.summary(interrupted=interrupted)
        self.console.show(summary)
        self.observers.finish(summary, self.console.say)

    def _report_left_out(self) -> None:
        """Report pictures, outputs and linked subfolders that a search of folders left out."""
        unread, linked, results = self.inputs.unread, self.inputs.linked, self.inputs.results
        if unread:
            kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
            self.console.say(
                f"note: {counted(len(unread), 'file')} of other kinds of pictures left out "
                f"({kinds}). -v lists them; name a file to try it"
            )
        if linked:
            self.console.say(
                f"note: {counted(len(linked), 'linked subfolder')} left out, because links show "
                "the same images under other names. -v lists them"
            )
        if results:
            count = counted(len(results), "file or folder", "files and folders")
            self.console.say(
                f"note: {count} left out, named like outputs of earlier runs. -v lists them; name "
                "one to restore it"
            )
        for path in [*unread, *linked, *results]:
            self.console.detail(f"left out: {printable(str(path))}")

    def _report_inputs(self) -> None:
        """Report names without images, and outputs among the inputs, that are not reported yet."""
        for problem in self.inputs.problems:
            if problem not in self.reported:
                self.total += 1
                self._emit([Failed(problem.name, None, self.task, problem.error, problem.hint)])
        for path in self.inputs.own:
            if path not in self.reported:
                self.total += 1
                self._emit([Skipped(str(path), None, self.task, "an output of an earlier run")])
        self.reported.update(self.inputs.problems, self.inputs.own)

    def _note_unused_options(self) -> None:
        """Report options that have no effect, among them choices of official weights."""
        c = self.config
        choices = {"--noise": c.noise, "--sigma": c.sigma, "--gray": c.gray}
        note_unused_choices(self.console, c.weights, choices)
        for note in unused_options(self.options, self.jobs):
            self.console.say(note)

    def _by_noise_level(self, jobs: list[Job]) -> Iterator[tuple[RestorerConfig, list[Job]]]:
        """Group jobs by the weights that --sigma auto chooses, to load each file once."""
        if self.config.sigma != AUTO_SIGMA:
            yield self.config, jobs
            return
        if self.config.weights not in BY_QUERY:
            yield replace(self.config, sigma="blind"), jobs
            return
        by_level: dict[str, list[Job]] = {level: [] for level in SIGMAS}
        for job in jobs:
            noise = self._estimate_noise(job)
            by_level[imaging.sigma_for(noise, TRAINED_SIGMAS)].append(replace(job, noise=noise))
        for level, group in by_level.items():
            if group:
                yield replace(self.config, sigma=level), group

    def _estimate_noise(self, job: Job) -> Noise | None:
        """Return the noise of an image's first page; None if it is unknown."""
        if job.source is not None and files.is_special(job.source):  # a pipe can be read only once
            return None
        name, max_pixels = job.names[0], self.options.max_pixels
        try:
            source = self.streams.stdin if job.source is None else job.source
            _, data = imaging.read_bytes(source, max_pixels=max_pixels, name=name)
            if job.source is None:  # to be read again
                self.streams = replace(self.streams, stdin=io.BytesIO(data))
            noise = batch.first_noise(data, self.options.batch_config(), name)
        except Exception:  # noqa: BLE001 - reported when the image is restored
            return None
        level = imaging.sigma_for(noise, TRAINED_SIGMAS)
        estimate = "noise cannot be estimated" if noise is None else noise.words
        weights = "blind weights" if level == "blind" else f"weights for sigma {level}"
        self.console.say(f"note: {printable(name)}: {estimate}; {weights}")
        return noise

    def _restore(self, config: RestorerConfig, jobs: list[Job]) -> None:
        if self.lite_was_used:  # the official weights are unavailable
            config = replace(config, weights="lite")
        with closing(self._backend(config)) as backend:
            if self._skips:
                jobs = self._skip_existing(backend, jobs)
            if not jobs:
                return
            if self.options.dry_run:
                self._emit(backend.run(jobs, self.streams))
                return
            too_small, scarce = batch.check_disk_space(jobs)
            if too_small:
                raise UsageError("; ".join(too_small), "Free some space, or use -o.")
            for message in scarce:
                self.console.warn(printable(message))
            self._emit(Planned(*job.names, self.task) for job in jobs)
            backend.prepare(len(jobs))
            if len(jobs) > 1 and not self.console.quiet:
                self.console.say(backend.forecast(jobs))
            events = backend.run(jobs, self.streams)
            with self.console.progress(len(jobs)), closing(events):
                self._report_run(events)

    def _report_run(self, events: Generator[Event, None, None]) -> None:
        """Report the events of a run, which an interrupt or a full disk ends.

        Raises:
            DiskFullError: there are images left.
        """
        full = False
        try:
            for event in events:
                self._emit([event])
                if full := isinstance(event, Failed) and event.disk_full:
                    break
        except KeyboardInterrupt:
            self._report_written(events)
            raise
        if full:
            self._report_written(events)
            if self._remaining or self.options.watch:
                hint = f"Free some space. {self._remedy}."
                raise DiskFullError(f"the disk is full: {self._state}", hint)

    def _report_written(self, events: Generator[Event, None, None]) -> None:
        """Stop a run, and report the files that are being written."""
        with suppress(KeyboardInterrupt, StopIteration):
            self._emit([events.throw(KeyboardInterrupt())])
            self._emit(events)

    def _backend(self, config: RestorerConfig) -> Backend:
        if config not in self.backends:
            observers = [o for o in (self.preview.watch, self.observers.watch) if o is not None]
            record = _keeps_manifest(self.inputs, self.options)
            settings = self.options.batch_config()
            self.backends[config] = workers.choose_backend(
                config,
                replace(settings, record=record, skip_existing=self._skips),
                self.console,
                observer=partial(_notify_all, observers) if observers else None,
                ray=self.options.ray,
                dry_run=self.options.dry_run,
            )
        return self.backends[config]

    def _skip_existing(self, backend: Backend, jobs: list[Job]) -> list[Job]:
        """Return the jobs that --skip-existing does not skip, and report the others."""
        manifests = self.manifests
        found = {}
        for job in jobs:
            try:
                found[job] = batch.skip_reason(job, self.task, manifests)
            except ImageError as error:
                self._emit([batch.failure_event(job, self.task, error)])
        reasons = {job: reason for job, (reason, _) in found.items()}
        entries = {job: entry for job, (_, entry) in found.items() if entry is not None}
        for note in manifests.notes:
            self.console.warn(note)
        manifests.notes.clear()
        if entries:
            fingerprints = backend.prepare(len(jobs))
            for job, entry in entries.items():
                if any(batch.has_same_settings(entry, f) for f in fingerprints):
                    reasons[job] = batch.UNCHANGED
        self._emit(Skipped(*job.names, self.task, why) for job, why in reasons.items() if why)
        self._report_finished({j: e for j, e in entries.items() if reasons[j] == batch.UNCHANGED})
        return [job for job, why in reasons.items() if why is None]

    def _report_finished(self, entries: dict[Job, dict[str, Any]]) -> None:
        """Add skipped images to the report, which replaces that of their run, and make sheets."""
        if self.observers.watch is None or not entries:
            return
        with self.console.progress(len(entries)):
            for number, (job, entry) in enumerate(entries.items(), 1):
                if job.target is not None:
                    output = batch.RecordedOutput(job.target, entry)
                    shown = self.observers.add_output(output, job.source, self.options.max_pixels)
                    if isinstance(shown, Failed):  # it is restored all the same
                        self.console.warn(f"{job.names[0]}: cannot be shown ({shown.error})")
                    self.console.advance(number, printable(job.names[0]))


def _open_streams(jobs: list[Job], options: RestoreOptions) -> batch.StandardStreams:
    """Return stdin and stdout for the jobs that use them.

    Raises:
        UsageError: stdin or stdout is a terminal, or stdout is used for JSON.
    """
    stdin: BinaryIO = io.BytesIO()
    stdout: BinaryIO = io.BytesIO()
    if any(job.source is None for job in jobs):
        if not sys.stdin.readable() or sys.stdin.isatty():
            raise UsageError("there is no image on stdin", "Pipe an image into it, or name a file.")
        stdin = sys.stdin.buffer
    if any(job.target is None for job in jobs) and not options.dry_run:
        if options.json:
            raise UsageError(
                "--json and the image would both be written to stdout", "Name a file with -o."
            )
        if not sys.stdout.writable() or sys.stdout.isatty():
            raise UsageError(
                "stdout is a terminal, or closed, and cannot take an image",
                "Redirect it to a file (> out.png), or name one with -o.",
            )
        stdout = sys.stdout.buffer
    return batch.StandardStreams(stdin, stdout)


def _total(planned: Sequence[Planned]) -> str:
    """Return what the images of a dry run will take together."""
    sizes = [(p.width or 0) * (p.height or 0) * (p.pages or 1) for p in planned]
    text = f"to restore: {counted(len(planned), 'image')}, {format_megapixels(sum(sizes))}"
    seconds = [p.seconds for p in planned if p.seconds is not None]
    complete = len(seconds) == len(planned)
    return f"{text}, about {format_duration(sum(seconds))}" if complete else text


def _keeps_manifest(inputs: Inputs, options: RestoreOptions) -> bool:
    """Return True if outputs are recorded: not for a single input with another file as output."""
    several = len(inputs.found) > 1 or any(i.folder for i in inputs.found)
    if options.skip_existing or options.watch or options.in_place or several:
        return True
    output = options.output or "-"
    into_folder = output.endswith(("/", os.sep)) or files.is_folder(files.as_path(output))
    return into_folder and output != "-"  # stdout, even if there is a folder of this name


def right_view(options: RestoreOptions) -> str | None:
    """Return the right view, or the folder of right views; None without."""
    return options.right if isinstance(options, DefocusOptions) else None


def _notify_all(
    observers: Sequence[Observer], event: Restored, before: Image, after: Image
) -> None:
    for observer in observers:
        observer(event, before, after)
