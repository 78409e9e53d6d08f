"""Where a run takes place: in this process, in one for each of several devices, on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Protocol

from ..batch import preview_batch, run_batch, settings_fingerprint
from ..checkpoints import CHECKPOINTS, TASKS
from .pool import Host, WorkerConfig, WorkerPool, about
from .processes import Processes
from .ray_cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ..batch import (
        BatchConfig,
        Event,
        ImageProgress,
        Job,
        Observer,
        SettingsFingerprint,
        StandardStreams,
    )
    from ..checkpoints import ResolvedCheckpoint
    from ..inference import Restorer, RestorerConfig


class Backend(Protocol):
    """Somewhere a run can take place."""

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Load what so many images take, and say what they are restored with, if that is known."""

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore them, and tell what happens."""

    def close(self) -> None:
        """Leave nothing running."""


class Reporter(Protocol):
    """Where a run reports to."""

    def say(self, text: str) -> None:
        """Report a line that may be suppressed."""

    def detail(self, text: str) -> None:
        """Report a line of detail."""

    def warn(self, text: str) -> None:
        """Report a warning."""

    def part(self, part: ImageProgress) -> None:
        """Report the progress of the image at work."""


def choose_backend(
    config: RestorerConfig,
    batch: BatchConfig,
    reporter: Reporter,
    *,
    observer: Observer | None = None,
    ray: str | None = None,
    dry_run: bool = False,
) -> Backend:
    """Return the backend for a configuration, whose device may be several, separated by commas.

    Args:
        config: what to restore with.
        batch: how to read, blend and write.
        reporter: where warnings and progress go.
        observer: called with each restored image, wherever it was restored.
        ray: address of a Ray cluster; None: this machine.
        dry_run: only look at the images.
    """
    devices = [device.strip() for device in config.device.split(",")]
    first = replace(config, device=devices[0])
    if dry_run:
        return DryRun(first, batch, reporter)
    if len(devices) == 1 and ray is None:
        return InProcess(first, batch, reporter, observer)

    @cache  # found once for all of them, and not before they are needed
    def weights() -> ResolvedCheckpoint | str:
        from ..checkpoints import resolve_checkpoint  # the Hub's client takes its time

        if ray is not None or not isinstance(config.weights, str):
            return config.weights  # elsewhere each looks for them
        task = TASKS[config.task]
        return resolve_checkpoint(config.weights, config.checkpoint, task, notify=reporter.warn)

    def worker_config(device: str, sharing: int) -> WorkerConfig:
        mine = replace(config, device=device, weights=weights(), sharing=sharing)
        return WorkerConfig(mine, batch, observer)

    here = Processes(devices, worker_config)
    host: Host = here if ray is None else Cluster(ray, devices, worker_config)
    return WorkerPool(host, config.task, reporter.warn, reporter.detail, reporter.part)


@dataclass
class InProcess:
    """This process, which restores the images in their order."""

    config: RestorerConfig
    batch: BatchConfig
    reporter: Reporter
    observer: Observer | None

    @cached_property
    def restorer(self) -> Restorer:
        """The restorer, loaded when it is first used."""
        restorer = _restorer(self.config, self.reporter)
        self.reporter.detail(about(restorer))
        return restorer

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Load the network and return what it restores with."""
        return [settings_fingerprint(self.restorer, self.batch)]

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore the images one after the other."""
        return run_batch(
            jobs,
            self.restorer,
            streams,
            self.batch,
            progress=self.reporter.part,
            observer=self.observer,
        )

    def close(self) -> None:
        """Do nothing: `run` leaves nothing running."""
        # nothing runs on that `run` has not ended


@dataclass
class DryRun:
    """Looks at the images in this process, and downloads nothing."""

    config: RestorerConfig
    batch: BatchConfig
    reporter: Reporter

    @cached_property
    def restorer(self) -> Restorer | None:
        """None if its weights would have to be downloaded."""
        from ..checkpoints import cached_file, is_offline  # the Hub's client takes its time

        weights = self.config.weights
        assert isinstance(weights, str)  # noqa: S101 - only workers get resolved ones
        wanted = CHECKPOINTS.get(weights, self.config.checkpoint)
        official = weights in ("auto", "official", *CHECKPOINTS)
        at_hand = not official or cached_file(wanted) is not None
        remote = weights.startswith("hf:") or not at_hand
        if remote and not is_offline():  # else a run would do without, and so does this
            name = wanted.name if official else weights
            instead = ", or the lite ones taken if they cannot be had" if weights == "auto" else ""
            self.reporter.say(
                f"The weights {name} would be downloaded first{instead}; memory is known "
                "after that."
            )
            return None
        return _restorer(self.config, self.reporter)

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Load the network and return what it restores with."""
        if self.restorer is None:
            return []
        return [settings_fingerprint(self.restorer, self.batch)]

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore the images one after the other."""
        most = self.batch.max_pixels
        yield from preview_batch(jobs, self.config.task, self.restorer, streams, most)

    def close(self) -> None:
        """Do nothing: `run` leaves nothing running."""
        # nothing runs


def _restorer(config: RestorerConfig, reporter: Reporter) -> Restorer:
    from ..inference import Restorer  # torch takes seconds to import

    return Restorer(config, notify=reporter.warn)
