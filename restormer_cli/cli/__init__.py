"""The command line. `app` has the table of commands and the exit statuses.

`options` declares the shared options, `console` writes all output, `restore` has the restoring
commands, and each other group of commands has a module. Only this package imports Typer. Imports
of names that would load PyTorch or OpenCV are avoided (`inference.Restorer` instead of
`from ..inference import Restorer`), so that `restormer --help` starts quickly.
"""

from .app import main

__all__ = ["main"]
