"""A network run on images of any size: exact strips, tiles, TLC, self-ensemble, devices.

Read `restorer` first: arrays in, restored arrays out. `engine` runs a tensor through the network
whole or in tiles; `strips` computes the whole-image result in bounded memory, with the loops of
`blocking`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
