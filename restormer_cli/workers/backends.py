"""Where a run takes place: in this process, in one for each of several devices, on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Protocol

from ..batch import manifest, stages
from ..batch.stages import Settings
from ..checkpoints import catalog
from .pool import Fleet, Host, Orders, about
from .processes import Processes
from .ray_cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ..batch.events import Event
    from ..batch.jobs import Job
    from ..batch.manifest import Recipe
    from ..batch.stages import Streams, Watching
    from ..checkpoints.resolve import Found
    from ..cli.console import Console
    from ..cli.options import Restoring
    from ..cli.restore import Request
    from ..inference.restorer import Restorer


class Place(Protocol):
    """Somewhere a run can take place."""

    def prepare(self, images: int) -> list[Recipe]:
        """Load what so many images take, and say what they are restored with, if that is known."""

    def run(self, jobs: Sequence[Job], streams: Streams) -> Generator[Event, None, None]:
        """Restore them, and tell what happens."""

    def close(self) -> None:
        """Leave nothing running."""


def choose(
    console: Console,
    request: Request,
    options: Restoring,
    recorded: bool,
    watch: Watching | None,
) -> Place:
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
    def weights() -> Found:
        from ..checkpoints import resolve  # the Hub's client takes its time

        task = catalog.TASKS[request.task]
        return resolve.resolve(options.weights, request.checkpoint, task, notify=console.warn)

    def orders(device: str, sharing: int) -> Orders:
        found = weights() if options.ray is None else None  # elsewhere each looks for them
        make = partial(restorer, device=device, weights=found, sharing=sharing)
        return Orders(make, settings, partial(manifest.recipe, options=options))

    here, address = Processes(devices, orders), options.ray
    host: Host = here if address is None else Cluster(address, devices, orders)
    return Fleet(host, request.task, console.warn, console.detail, console.part)


@dataclass
class _Here:
    """This process, which restores the images in their order."""

    console: Console
    options: Restoring
    settings: Callable[[Recipe], Settings]
    make: Callable[..., Restorer]

    @cached_property
    def restorer(self) -> Restorer:
        restorer = self.make(notify=self.console.warn)
        self.console.detail(about(restorer))
        return restorer

    def prepare(self, images: int) -> list[Recipe]:
        return [manifest.recipe(self.restorer, self.options)]

    def run(self, jobs: Sequence[Job], streams: Streams) -> Generator[Event, None, None]:
        settings = self.settings(*self.prepare(len(jobs)))
        return stages.run(jobs, self.restorer, streams, **settings, progress=self.console.part)

    def close(self) -> None:
        pass  # nothing runs on that `run` has not ended


@dataclass
class _Rehearsal:
    """A dry run, which looks at the images in this process, and downloads nothing."""

    console: Console
    request: Request
    options: Restoring
    make: Callable[..., Restorer]

    @cached_property
    def restorer(self) -> Restorer | None:
        """None if its weights would have to be downloaded."""
        from ..checkpoints import download  # the Hub's client takes its time

        wanted = catalog.CHECKPOINTS.get(self.options.weights, self.request.checkpoint)
        official = self.options.weights in ("auto", "official", *catalog.CHECKPOINTS)
        at_hand = not official or download.cached(wanted) is not None
        remote = self.options.weights.startswith("hf:") or not at_hand
        if remote and not download.offline():  # else a run would do without, and so does this
            name = wanted.name if official else self.options.weights
            auto = self.options.weights == "auto"
            instead = ", or the lite ones taken if they cannot be had" if auto else ""
            self.console.say(
                f"The weights {name} would be downloaded first{instead}; memory is known "
                "after that."
            )
            return None
        return self.make(notify=self.console.warn)

    def prepare(self, images: int) -> list[Recipe]:
        return [manifest.recipe(self.restorer, self.options)] if self.restorer else []

    def run(self, jobs: Sequence[Job], streams: Streams) -> Generator[Event, None, None]:
        task, most = self.request.task, self.options.max_pixels
        yield from stages.look(jobs, task, self.restorer, streams, most)

    def close(self) -> None:
        pass  # nothing runs


def _settings(
    options: Restoring, recorded: bool, watch: Watching | None, recipe: Recipe
) -> Settings:
    return Settings(
        quality=options.quality,
        max_pixels=options.max_pixels,
        strength=options.strength,
        recipe=recipe if recorded else None,
        watch=watch,
    )


def _restorer(
    request: Request,
    options: Restoring,
    *,
    device: str,
    notify: Callable[[str], None],
    weights: Found | None = None,
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
