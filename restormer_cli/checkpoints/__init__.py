"""Checkpoints from a name to tensors: published files, downloads, lookup and loading.

Read `catalog` first: the tables of tasks and published checkpoints. `resolve` finds the file that
`--weights` means, `download` gets it from the Hub and verifies it, and `serialization` makes a
network of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
