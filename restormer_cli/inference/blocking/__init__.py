"""Run functions over whole feature maps in strips and blocks.

Read `runner` first: it takes a map strip by strip, and the blocks of a strip in parallel. `maps`
says what a map is and where it lies in memory, `shapes` how large strips and blocks are, and
`threads` calls a function on all cores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
