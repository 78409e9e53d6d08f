"""One image, lossless: reading, writing, metadata, noise estimates, differences and metrics.

Read `image` first, then `io`, which decodes a file to an `ImageSequence` of `Image`s. `codecs` has
the file formats, and `formats` the table of their capabilities.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
