"""Many files: jobs, pipeline stages, events, and the manifest beside the outputs.

Read `jobs` first: which output belongs to which input. `stages` reads, restores and writes an image
in overlapping stages, `events` says what happened, and `manifest` records it, so that a later run
can skip what is unchanged.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
