"""Checkpoints from a name to tensors: published files, download, resolution and loading.

Read `catalog` first: the tables of tasks and published checkpoints. `resolve` turns the value of
`--weights` into a file, `download` gets it from the Hub and verifies it, and `serialization` loads
it into a network. `onnx` exports a network for other programs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
