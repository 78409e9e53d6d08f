"""Where a batch runs: this process, a dry run, a pool of processes, a Ray cluster.

Read `backends` first: one interface for all of them. `pool` distributes images among workers, which
`processes` and `ray_cluster` start.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
