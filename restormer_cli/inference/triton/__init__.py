"""The fused transformer block for CUDA: Triton kernels, compiled at first use if Triton is there.

Read `dispatch` first: it says when the kernels are used. `check` compares them with PyTorch's
functions and times them, in another process. `blocks` has the kernels and calls them; it is the
only module that imports Triton. Whether the engine uses them is decided in `native.dispatch`, as
for the block for CPUs.
"""
