from ._version import __version__ as __version__
from .checkpoints import load_network as load_network
from .inference import Restorer as Restorer
from .inference import restore as restore
