"""Synthetic noise, rain, motion blur, defocus blur and JPEG, for training and evaluation.

Read `presets` first: it mixes the degradations that each task is trained on and defines the
severities that `restormer eval` knows. `sampling` holds what all of them share.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
