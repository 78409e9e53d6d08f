"""Paths and URLs, atomic writes, and the discovery of input files.

Read `discovery` first: it turns what a user typed into a list of files. `paths` makes a URL look
like a `Path`, and `atomic` lets a file appear whole or not at all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
