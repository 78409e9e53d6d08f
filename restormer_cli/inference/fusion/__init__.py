"""Fused transformer blocks: the decision to use one, and what those for CPUs and CUDA share.

Read `dispatch` first: it decides whether the engine uses a fused block. `passes` says what such a
block is. `check` compares it with PyTorch's functions and times it, in a `process` of its own; a
`verdict` is the result, kept in the `cache`. `mode` reads the environment variable
RESTORMER_NATIVE. The blocks themselves are in `inference.native` and `inference.triton`.
"""
