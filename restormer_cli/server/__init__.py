"""Serve a page and an HTTP API that restore images on this machine.

Read `routes` first: it has the table of operations, from which `openapi` makes the document.
`queue` has the bounded queue with the network, `guards` refuses foreign requests, and `running`
starts and ends the server. Nothing but the queue holds images.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
