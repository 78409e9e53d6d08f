"""One image, lossless: reading, writing, metadata, conversion for the network, measures.

Read `image` first, then `coding`, which decodes a file to an `ImageSequence` of `Image`s. `io`
reads and writes files and streams. `codecs` has the file formats, and `formats` the table of their
capabilities. `network_view` makes the input of a network and converts its output back. `analysis`
measures noise, change and quality.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
