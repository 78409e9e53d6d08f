"""The command line. Read `app` first: the table of commands, and the exit statuses.

`options` declares each option once, `console` writes all output, and there is a module for each
group of commands. Only this package imports Typer. Modules refer to other packages rather than to
names in them where a name would load PyTorch or OpenCV, which `restormer --help` does without.
"""

from .app import main

__all__ = ["main"]
