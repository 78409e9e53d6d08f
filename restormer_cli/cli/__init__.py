"""The command line. Read `app` first: the commands and their exit status.

`options` declares each option once; a module per command group holds the rest. Only this package
imports Typer.
"""

from .app import main

__all__ = ["main"]
