"""PSNR and SSIM by the published protocols, the published results, and a speed benchmark.

Read `runner` first: it restores pairs of images under a condition and scores them. `results`
gathers the scores for CSV and JSON.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
