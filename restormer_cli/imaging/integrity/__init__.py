"""Signs of damage in files that the decoding libraries read without an error.

Read `fault` first: each check returns None for a sound file, or a Fault with the cause and, where
it is known, the offset up to which the data is sound. Decoders decode the data up to that
offset, and set `Image.damage` to the missing part.
"""
