"""The fused transformer block for CPUs: block.cpp, compiled at first use if a compiler is there.

Read `dispatch` first: it decides whether the engine uses the library. `compiler` builds and caches
it, `check` compares it with PyTorch's functions in another process, and `library` calls it. `mode`
reads the environment variable RESTORMER_NATIVE. All but `library` also serve the kernels for CUDA
(`inference.triton`): the decision, the comparison of a block, its `passes`, and the cache of a
`verdict`.
"""
