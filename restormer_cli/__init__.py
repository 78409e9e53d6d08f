"""Restore photographs with the Restormer network, from Python.

    from restormer_cli import Restorer

    denoise = Restorer("denoise")
    clean = denoise(noisy)  # H W C, uint8, uint16 or float32

`Restorer` chooses the weights and the device. `load_network` returns a network in eval mode whose
`forward` takes B C H W in 0..1. `restore` runs a network on tensors of any size.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
