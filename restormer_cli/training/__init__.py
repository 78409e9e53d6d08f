"""Training of small networks: dataset, loop, resumable state, several devices.

Read `loop` first. `dataset` loads photographs and cuts patches, `state` is all that a resumed run
needs, and `distributed` shares a run among processes that torchrun starts.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
