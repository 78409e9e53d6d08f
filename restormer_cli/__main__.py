"""`python -m restormer_cli` is `restormer`."""

from .cli import main

main()
