"""Backends of a batch: this process, a dry run, a pool of processes, a Ray cluster.

Read `backends` first: it has one interface for all of them. `pool` distributes images among the
workers that `processes` and `ray_cluster` start, and `worker` is what runs there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
