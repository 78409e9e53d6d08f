"""The Restormer network (arXiv 2111.09881): modules, tensor functions and a summary of its cost.

Read `restormer` first: its functions are shared by `Restormer.forward` and the strips of
`inference`. `functions` has those that are not particular to this network. `reference` is the
published formulation, the baseline of speed measurements. `summary` counts parameters,
multiply-adds and memory.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
