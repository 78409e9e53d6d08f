"""Paths and URLs, atomic writes, and the discovery of input files.

Read `discovery` first: it turns the arguments of a command line into a list of files. `paths`
gives a URL the interface of a `Path`. `checks` says what is at a path. `atomic` writes files
completely or not at all. `names` has the rules for names of pictures and outputs, and `pairs`
matches the images of several folders.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
