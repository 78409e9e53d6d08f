"""Evaluate networks: PSNR and SSIM by the published protocols, and a speed benchmark.

Read `runner` first: it restores degraded images and scores them. `results` writes the scores as CSV
and JSON, `published` holds the paper's results, and `benchmark` measures speed and memory. For
`doctor`, `selftest` compares a device's results with a reference, `speeds` measures the device, and
`system` describes it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
