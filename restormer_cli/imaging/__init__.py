"""One image, lossless: reading, writing, metadata, noise estimates, differences and metrics.

Read `image` first, then `io`: a file becomes an `ImageSequence` of `Image`s, which keep samples and
metadata. The formats are in `codecs`; `formats` says what each can hold.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
