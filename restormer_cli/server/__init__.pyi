from .config import ServerConfig as ServerConfig
from .running import serve as serve
