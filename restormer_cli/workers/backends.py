"""Where a run takes place: in this process, in one for each of several devices, on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Protocol

from ..batch import manifest, stages
from ..batch.stages import BatchSettings
from ..checkpoints import catalog
from .pool import Host, WorkerConfig, WorkerPool, about
from .processes import Processes
from .ray_cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ..batch.events import Event
    from ..batch.jobs import Job
    from ..batch.manifest import SettingsFingerprint
    from ..batch.stages import Observer, StandardStreams
    from ..checkpoints.resolve import ResolvedCheckpoint
    from ..cli.console import Console
    from ..cli.options import Restoring
    from ..cli.restore import CheckpointQuery
    from ..inference.restorer import Restorer


class Backend(Protocol):
    """Somewhere a run can take place."""

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        """Load what so many images take, and say what they are restored with, if that is known."""

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        """Restore them, and tell what happens."""

    def close(self) -> None:
        """Leave nothing running."""


def choose_backend(
    console: Console,
    request: CheckpointQuery,
    options: Restoring,
    recorded: bool,
    watch: Observer | None,
) -> Backend:
    """The place that the options ask for.

    Outputs are `recorded` there or not; each is shown to `watch`, wherever it was restored.
    """
    devices = [device.strip() for device in options.device.split(",")]
    restorer = partial(_restorer, request, options)
    settings = partial(_settings, options, recorded, watch)
    if options.dry_run:
        return _Rehearsal(console, request, options, partial(restorer, device=devices[0]))
    if len(devices) == 1 and options.ray is None:
        return _Here(console, options, settings, partial(restorer, device=devices[0]))

    @cache  # found once for all of them, and not before they are needed
    def weights() -> ResolvedCheckpoint:
        from ..checkpoints import resolve  # the Hub's client takes its time

        task = catalog.TASKS[request.task]
        return resolve.resolve_checkpoint(
            options.weights, request.checkpoint, task, notify=console.warn
        )

    def orders(device: str, sharing: int) -> WorkerConfig:
        found = weights() if options.ray is None else None  # elsewhere each looks for them
        make = partial(restorer, device=device, weights=found, sharing=sharing)
        return WorkerConfig(make, settings, partial(manifest.settings_fingerprint, options=options))

    here, address = Processes(devices, orders), options.ray
    host: Host = here if address is None else Cluster(address, devices, orders)
    return WorkerPool(host, request.task, console.warn, console.detail, console.part)


@dataclass
class _Here:
    """This process, which restores the images in their order."""

    console: Console
    options: Restoring
    settings: Callable[[SettingsFingerprint], BatchSettings]
    make: Callable[..., Restorer]

    @cached_property
    def restorer(self) -> Restorer:
        restorer = self.make(notify=self.console.warn)
        self.console.detail(about(restorer))
        return restorer

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        return [manifest.settings_fingerprint(self.restorer, self.options)]

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        settings = self.settings(*self.prepare(len(jobs)))
        return stages.run_batch(
            jobs, self.restorer, streams, **settings, progress=self.console.part
        )

    def close(self) -> None:
        pass  # nothing runs on that `run` has not ended


@dataclass
class _Rehearsal:
    """A dry run, which looks at the images in this process, and downloads nothing."""

    console: Console
    request: CheckpointQuery
    options: Restoring
    make: Callable[..., Restorer]

    @cached_property
    def restorer(self) -> Restorer | None:
        """None if its weights would have to be downloaded."""
        from ..checkpoints import download  # the Hub's client takes its time

        wanted = catalog.CHECKPOINTS.get(self.options.weights, self.request.checkpoint)
        official = self.options.weights in ("auto", "official", *catalog.CHECKPOINTS)
        at_hand = not official or download.cached_file(wanted) is not None
        remote = self.options.weights.startswith("hf:") or not at_hand
        if remote and not download.is_offline():  # else a run would do without, and so does this
            name = wanted.name if official else self.options.weights
            auto = self.options.weights == "auto"
            instead = ", or the lite ones taken if they cannot be had" if auto else ""
            self.console.say(
                f"The weights {name} would be downloaded first{instead}; memory is known "
                "after that."
            )
            return None
        return self.make(notify=self.console.warn)

    def prepare(self, images: int) -> list[SettingsFingerprint]:
        return [manifest.settings_fingerprint(self.restorer, self.options)] if self.restorer else []

    def run(self, jobs: Sequence[Job], streams: StandardStreams) -> Generator[Event, None, None]:
        task, most = self.request.task, self.options.max_pixels
        yield from stages.preview_batch(jobs, task, self.restorer, streams, most)

    def close(self) -> None:
        pass  # nothing runs


def _settings(
    options: Restoring, recorded: bool, watch: Observer | None, recipe: SettingsFingerprint
) -> BatchSettings:
    return BatchSettings(
        quality=options.quality,
        max_pixels=options.max_pixels,
        strength=options.strength,
        recipe=recipe if recorded else None,
        watch=watch,
    )


def _restorer(
    request: CheckpointQuery,
    options: Restoring,
    *,
    device: str,
    notify: Callable[[str], None],
    weights: ResolvedCheckpoint | None = None,
    sharing: int = 1,
) -> Restorer:
    from ..inference.restorer import Restorer  # torch takes seconds to import

    return Restorer(
        request.task,
        weights=weights or options.weights,
        device=device,
        precision=options.precision,
        tile=options.tile_side,
        overlap=options.overlap,
        window=options.window,
        ensemble=options.ensemble,
        noise=request.noise,
        sigma=request.sigma,
        gray=request.gray,
        dual_pixel=request.right is not None,
        sharing=sharing,
        notify=notify,
    )
