from .distributed import join_ranks as join_ranks
from .loop import LITE as LITE
from .loop import train as train
from .state import Settings as Settings
