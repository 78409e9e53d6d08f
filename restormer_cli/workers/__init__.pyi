from .backends import Backend as Backend
from .backends import choose_backend as choose_backend
