"""The fused transformer block for CUDA: Triton kernels, compiled at first use if Triton is there.

Read `loader` first: it has the kernels checked and loads them. `check` compares them with PyTorch's
functions and times them. `blocks` has the kernels, and `launch` compiles and runs them; only these
two import Triton. Whether the engine uses them is decided in `fusion.dispatch`.
"""
