"""The manifest beside the outputs, which records how each was made; later runs can skip it.

Read `entries` first: the file with an entry for each output. `fingerprints` compares files and
settings. `outputs` decides which outputs a run skips, and reads them for reports.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
