"""Present results: report pages, comparison sheets, previews in the terminal.

Read `observers` first: the report and the sheets that a run writes. `page` writes the report page,
`folder` makes one of a finished folder, `comparison` draws the sheets, and `display` renders images
for a screen.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
