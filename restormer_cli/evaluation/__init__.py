"""Evaluate networks: PSNR and SSIM by the published protocols, and a speed benchmark.

Read `runner` first: it restores degraded images and scores them. `results` writes the scores as CSV
and JSON, `published` holds the paper's results, `benchmark` measures speed and memory, and
`selftest` compares what a device computes with a reference.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
