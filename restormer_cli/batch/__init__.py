"""Restore many files: jobs, pipeline stages, events, and the manifest beside the outputs.

Read `jobs` first: it finds the output of each input. `stages` reads, restores and writes images in
overlapping stages, `events` defines the reports of a run, and `manifest` records the outputs, so
that a later run can skip unchanged images. `watching` plans jobs as files arrive.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
