"""Run the command line program with `python -m restormer_cli`."""

from .cli import main

main()
