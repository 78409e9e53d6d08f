"""Synthetic noise, rain, motion blur, defocus blur and JPEG, for training and evaluation.

Read `presets` first: it defines the mixtures for training and the severities of `restormer eval`.
`sampling` contains the shared functions. `softness` and `structures` give clean images what
networks have to keep. `residual` measures what a restored image has left of its degradation.

A degradation takes clean images (B C H W, float32, sRGB, 0..1) and a `torch.Generator`, the only
source of randomness, and returns degraded images of the same shape. The severity is drawn for each
image of a batch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
