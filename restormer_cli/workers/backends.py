"""Backends of a run: this process, a dry run, a pool of processes, a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from ..batch import describe_run, preview_batch, run_batch, settings_fingerprint
from ..checkpoints import BY_QUERY, CHECKPOINTS, task_warning
from .pool import Launcher, Reporter, WorkerPool
from .processes import ProcessLauncher, check_devices
from .ray_cluster import RayLauncher
from .worker import WorkerConfig, describe

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ..batch import BatchConfig, Event, Job, Observer, SettingsFingerprint, StandardStreams
    from ..inference import Restorer, RestorerConfig


def choose_backend(
    config: RestorerConfig,
    batch: BatchConfig,
    reporter: Reporter,
    *,
    observer: Observer | None = None,
    ray: str | None = None,
    dry_run: bool = False,
) -> Backend:
    """Return the backend for a configuration.

    Args:
        config: configuration of the restorer; `device` may name several, separated by commas.
        batch: how to read, blend and write.
        reporter: receives warnings and progress.
        observer: called with each restored image, in the process that restored it.
        ray: address of a Ray cluster; None for this machine.
        dry_run: decode the images, but restore none.

    Raises:
        DeviceError: a device is unknown or not available. A backend that restores raises it when
            it is prepared.
    """
    devices = [device.strip() for device in config.device.split(",")]
    first = replace(config, device=devices[0])
    if dry_run:
        if ray is None:
            check_devices(devices)
        return DryRun(first, batch, reporter)
    if len(devices) == 1 and ray is None:
        return InProcess(first, batch, reporter, observer)
    worker = WorkerConfig(config, batch, observer)
    launcher: Launcher = ProcessLauncher(devices, worker, reporter.warn)
    if ray is not None:
        launcher = RayLauncher(ray, devices, worker)
    return WorkerPool(launcher, config.task, reporter, batch.max_pixels)


@dataclass
class InProcess:
    """Restore the images in this process, in order."""

    config: RestorerConfig
    batch: BatchConfig
    reporter: Reporter
    observer: Observer | None = None

    @cached_property
    def restorer(self) -> Restorer | None:
        """The restorer, loaded on first use."""
        restorer = self._load()
        self.reporter.detail(describe(restorer))
        return restorer

    def _load(self) -> Restorer:
        from ..inference import Restorer  # torch takes seconds to import

        return Restorer(self.config, notify=self.reporter.warn)

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Load the network; return its settings, or none if it is not loaded."""
        return [settings_fingerprint(self.restorer, self.batch)] if self.restorer else []

    def forecast(self, jobs: Sequence[Job]) -> str:
        """Return one sentence on what the run will take."""
        return describe_run(jobs, self.restorer)

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore the images and yield events."""
        assert self.restorer is not None  # noqa: S101 - only in a dry run
        progress = self.reporter.show_progress
        return run_batch(
            jobs, self.restorer, streams, self.batch, progress=progress, observer=self.observer
        )

    def close(self) -> None:
        """Do nothing: closing the generator of `run` ends its threads."""


class DryRun(InProcess):
    """Decode the images and report the plan. Download nothing, write nothing."""

    @cached_property
    def restorer(self) -> Restorer | None:
        """The restorer, loaded on first use; None if its weights would have to be downloaded."""
        from ..checkpoints import cached_file, is_offline  # the Hub's client is slow to import

        weights = self.config.weights
        assert isinstance(weights, str)  # noqa: S101 - only workers get resolved checkpoints
        checkpoint = CHECKPOINTS.get(weights, self.config.checkpoint)
        official = weights in (*BY_QUERY, *CHECKPOINTS)
        missing = official and cached_file(checkpoint) is None
        # Offline, a run uses other weights or fails, and so does a dry run.
        if (missing or weights.startswith("hf:")) and not is_offline():
            name = checkpoint.name if official else weights
            has_lite = weights == "auto" and not self.config.dual_pixel
            lite = ", or the lite ones used if that fails" if has_lite else ""
            self.reporter.say(
                f"The weights {name} would be downloaded first{lite}; memory is known after that."
            )
            own = CHECKPOINTS[weights].task if weights in CHECKPOINTS else None
            if warning := task_warning(name, own, self.config.task):
                self.reporter.warn(warning)
            return None
        return self._load()

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Decode the images and yield events."""
        yield from preview_batch(jobs, self.config.task, self.restorer, streams, self.batch)


Backend: TypeAlias = InProcess | WorkerPool
"""Runs a batch: `prepare` loads the networks, `run` restores the images, `close` ends all."""
