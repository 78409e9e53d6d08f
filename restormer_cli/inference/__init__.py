"""Inference on images of any size: exact strips, tiles, TLC, self-ensemble, devices.

Read `restorer` first: it restores arrays. `transfer` converts them to tensors on the device and
back. `engine` restores tensors, whole or in tiles. `strips` computes the whole-image result in
bounded memory. It uses the passes over feature maps of `blocking` and the attention windows of
`tlc`. `fusion` decides whether a faster implementation replaces the functions of a block: `native`
on a CPU, `triton` on CUDA.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
