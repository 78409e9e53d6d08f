"""Measure images: noise of one image, change by a restoration, PSNR and SSIM.

`noise` estimates the noise level of an image alone. `difference` compares an image with its
restoration, without a reference. `metrics` compares a restoration with the clean image.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
