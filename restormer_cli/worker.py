"""One worker of a fleet: it loads the network once, and restores the images that it is given."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, NamedTuple

from . import batch
from .batch import Given, Stopped, Written
from .errors import ImageError, RestormerError
from .pipeline import staged

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from queue import SimpleQueue

    from .events import Failed
    from .outputs import Job
    from .records import Recipe
    from .restorer import Restorer


class Ready(NamedTuple):
    """The network is loaded: what it makes outputs with, and what it runs on, in words."""

    recipe: Recipe
    about: str


class Note(NamedTuple):
    """What a user should know."""

    text: str


@dataclass(frozen=True)
class Orders:
    """What a worker does; it has to travel there.

    Attributes:
        restorer: makes it, given `notify`.
        settings: says what images are restored with, once there is a restorer.
        recipe: says what decides on the results, likewise.
    """

    restorer: Callable[..., Restorer]
    settings: Callable[[Recipe], batch.Settings]
    recipe: Callable[[Restorer], Recipe]


def work(inbox: SimpleQueue[Any], orders: Orders) -> Generator[Any, None, None]:
    """Load the network, then serve: yields Ready first, or the error for which it cannot."""
    try:
        restorer = orders.restorer(notify=lambda text: inbox.put(Note(text)))
    except RestormerError as error:
        yield error
        return
    recipe = orders.recipe(restorer)
    yield Ready(recipe, about(restorer))
    yield from serve(inbox, restorer, orders.settings(recipe))


def about(restorer: Restorer) -> str:
    """What it runs with, and where."""
    return f"{restorer.weights.path} on {restorer.device}, {restorer.precision}"


def serve(
    inbox: SimpleQueue[Any], restorer: Restorer, settings: batch.Settings
) -> Generator[Any, None, None]:
    """Restore and write images as they come, in the stages of `batch.run`.

    Yields, in the order of the images, what each ends in: Written, or Failed; and all else that
    comes into the inbox, which is the way out for other threads: Parts of the image at work.

    Args:
        inbox: images to come (Given). With None the service ends: what is being written is
            finished and told, the rest dropped.
        restorer: does it.
        settings: with what.
    """
    from . import devices  # torch takes seconds to import; who has a restorer has it

    work = batch.Work(restorer, **settings, progress=inbox.put, stop=Flag())
    under_way: dict[Future[Written], Job] = {}

    def end(future: Future[Written]) -> Iterator[Written | Failed]:
        job = under_way.pop(future)
        try:
            yield future.result()
        except ImageError as error:
            yield batch.failed(job, restorer.task.name, error)
        except (Stopped, CancelledError):
            pass

    try:
        with staged(
            work.read, work.compute, work.write, initializer=devices.same_threads()
        ) as submit:
            for item in iter(inbox.get, None):
                if isinstance(item, Given):
                    future = submit(item)
                    under_way[future] = item.job
                    future.add_done_callback(inbox.put)
                elif isinstance(item, Future):
                    yield from end(item)
                else:
                    yield item
            work.stop.set()
        for future in list(under_way):
            yield from end(future)
    finally:
        work.stop.set()
