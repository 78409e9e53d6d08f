"""The fused transformer block for CPUs: block.cpp, compiled at first use if a compiler is there.

Read `loader` first: it has the library compiled by `compiler` and checked by `check`, and loads it.
`library` calls its functions. Whether the engine uses it is decided in `fusion.dispatch`.
"""
