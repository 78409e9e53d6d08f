"""Ways to look at results: a report page, comparison sheets, a preview in the terminal.

Read `observers` first: what a run shows while it goes on. `page` writes the report, `comparison` the
sheets, and `display` renders any image for a screen.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
